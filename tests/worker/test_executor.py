"""Who may start, what a delivery is settled with, and what a second delivery is."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from leveret import define
from leveret.definitions import Definition
from leveret_broker import codec, messages, topology
from leveret_broker.clock import SystemClock
from leveret_broker.errors import Refused
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import Delivery, Outgoing, Queue
from leveret_worker.execution import Bundle, Execution
from leveret_worker.executor import Executor
from leveret_worker.perform import Ending
from leveret_worker.reporter import Reporter

QUEUE = "p:work:0"


@define.task
async def work() -> None: ...


@define.task
def crunch() -> None: ...


@define.workflow
async def flow() -> None: ...


class ByHand:
    """A runner whose executions end when the test says so."""

    def __init__(self) -> None:
        self.running: dict[str, Callable[[Ending | None], None]] = {}
        self.stopped: list[str] = []
        self.begun: list[str] = []

    def begin(self, execution: Execution, ended: Callable[[Ending | None], None]) -> None:
        self.begun.append(execution.run)
        self.running[execution.run] = ended
        execution.stop = lambda: self.stopped.append(execution.run)

    def end(self, run: str, size: int = 10) -> None:
        self.running.pop(run)(Ending(result=bytes(size)))


class Narrow(MemoryTransport):
    """A broker that takes no message over 10,000 bytes."""

    async def publish(self, message: Outgoing) -> None:
        if len(message.body) > 10_000:
            raise Refused("the broker refused the message: too large")
        await super().publish(message)


class Bench:
    """An executor between a broker in memory and a runner by hand."""

    def __init__(self, slots: int, processes: int) -> None:
        self.broker = MemoryBroker()
        self.transport = Narrow(self.broker)
        self.onlooker = MemoryTransport(self.broker)
        self.runner = ByHand()
        self.reporter = Reporter(self.transport, "worker_1")
        self.executor = Executor(
            asynchronous=self.runner,
            thread=self.runner,
            process=self.runner,
            slots=slots,
            processes=processes,
            reporter=self.reporter,
            clock=SystemClock(),
        )
        self.accepted = 0
        self.definition: Definition[..., Any] = work

    async def open(self) -> None:
        for transport in (self.transport, self.onlooker):
            await transport.open()
        await self.transport.declare(Queue(name=QUEUE), topology.OUTCOMES)
        await self.transport.consume(QUEUE, self._accept, prefetch=0)

    async def close(self) -> None:
        self.reporter.close()
        for transport in (self.transport, self.onlooker):
            await transport.close()

    def _accept(self, delivery: Delivery) -> None:
        runs = codec.decode(delivery.body, messages.Invocations).runs
        bundle = Bundle(delivery, len(runs))
        for run in runs:
            self.executor.accept(
                Execution(
                    invocation=run,
                    definition=self.definition,
                    queue=QUEUE,
                    project="p",
                    bundles=[bundle],
                )
            )
        self.accepted += 1

    async def deliver(self, *runs: str, definition: Definition[..., Any] = work) -> None:
        """Publish one message with these runs and wait until the executor has it."""
        invocations = tuple(
            messages.Invocation(run=run, attempt=1, root=run, parent=None, arguments=b"")
            for run in runs
        )
        message = messages.Invocations(project="p", definition="task_1", runs=invocations)
        self.definition = definition
        before = self.accepted
        await self.transport.publish(Outgoing(queue=QUEUE, body=codec.encode(message)))
        await self.until_accepted(before + 1)

    async def until_accepted(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.accepted < count:
                await asyncio.sleep(0)

    async def left_in_the_queue(self) -> int:
        """Messages that come back when this worker dies: those it did not acknowledge."""
        await self.transport.close()
        status = await self.onlooker.inspect(QUEUE)
        assert status is not None
        return status.messages

    async def reported(self) -> list[str]:
        """The runs whose outcomes wait for the coordinator."""
        return [outcome.run for outcome in await self.outcomes()]

    async def outcomes(self) -> list[messages.Outcome]:
        """The outcomes that wait for the coordinator."""
        found: list[messages.Outcome] = []

        def take(delivery: Delivery) -> None:
            found.extend(codec.decode(delivery.body, messages.Outcomes).outcomes)

        await self.reporter.flush()
        consumer = await self.onlooker.consume(topology.OUTCOMES.name, take, prefetch=0)
        await asyncio.sleep(0)
        await consumer.cancel()
        return found


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    made = Bench(slots=2, processes=1)
    await made.open()
    yield made
    await made.close()


async def test_no_more_execute_than_there_are_slots(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    assert bench.runner.begun == ["a", "b"]
    bench.runner.end("b")
    assert bench.runner.begun == ["a", "b", "c"]
    assert bench.executor.busy == 2


async def test_sync_tasks_wait_for_a_process_and_let_others_pass(bench: Bench) -> None:
    await bench.deliver("a", definition=crunch)
    await bench.deliver("b", definition=crunch)
    await bench.deliver("c")
    assert bench.runner.begun == ["a", "c"]
    bench.runner.end("c")
    bench.runner.end("a")
    assert bench.runner.begun == ["a", "c", "b"]


async def test_workflows_need_no_slot(bench: Bench) -> None:
    for run in ("a", "b", "c", "d"):
        await bench.deliver(run, definition=flow)
    assert bench.runner.begun == ["a", "b", "c", "d"]
    assert bench.executor.busy == 0


async def test_a_delivery_is_kept_until_all_its_outcomes_are_confirmed(bench: Bench) -> None:
    await bench.deliver("a", "b")
    bench.runner.end("a")
    await bench.reporter.flush()
    assert await bench.left_in_the_queue() == 1


async def test_a_delivery_is_acknowledged_when_all_its_outcomes_are_confirmed(
    bench: Bench,
) -> None:
    await bench.deliver("a", "b")
    bench.runner.end("a")
    bench.runner.end("b")
    assert await bench.reported() == ["a", "b"]
    assert await bench.left_in_the_queue() == 0


async def test_an_outcome_that_the_broker_does_not_take_keeps_its_delivery(bench: Bench) -> None:
    await bench.deliver("a")
    bench.broker.block()
    bench.runner.end("a")
    for _ in range(20):
        await asyncio.sleep(0)
    assert await bench.left_in_the_queue() == 1


async def test_a_run_that_is_delivered_again_is_not_executed_again(bench: Bench) -> None:
    await bench.deliver("a")
    bench.broker.drop_connections()
    await bench.until_accepted(2)
    assert bench.runner.begun == ["a"]
    bench.runner.end("a")
    assert await bench.reported() == ["a"]
    assert await bench.left_in_the_queue() == 0


async def test_a_run_that_is_delivered_again_is_kept_until_its_outcome_is_confirmed(
    bench: Bench,
) -> None:
    await bench.deliver("a")
    bench.broker.drop_connections()
    await bench.until_accepted(2)
    assert await bench.left_in_the_queue() == 1


async def test_a_run_that_ended_but_is_not_confirmed_is_not_executed_again(bench: Bench) -> None:
    await bench.deliver("a")
    bench.broker.block()
    bench.runner.end("a")
    bench.broker.drop_connections()
    await bench.until_accepted(2)
    bench.broker.unblock()
    assert await bench.reported() == ["a"]
    assert bench.runner.begun == ["a"]
    assert await bench.left_in_the_queue() == 0


async def test_a_cancelled_run_is_stopped_and_not_reported(bench: Bench) -> None:
    await bench.deliver("a")
    bench.executor.cancel(["a"])
    assert bench.runner.stopped == ["a"]
    bench.runner.end("a")
    assert await bench.reported() == []
    assert await bench.left_in_the_queue() == 0


async def test_a_cancelled_run_that_waits_never_starts(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    bench.executor.cancel(["c", "d"])
    bench.runner.end("a")
    await bench.deliver("d")
    assert bench.runner.begun == ["a", "b"]
    bench.runner.end("b")
    assert await bench.reported() == ["a", "b"]
    assert await bench.left_in_the_queue() == 0


async def test_what_waits_and_what_executes_is_given_back(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    bench.executor.give_back_waiting()
    bench.executor.give_back_executing()
    assert bench.runner.stopped == ["a", "b"]
    assert await bench.left_in_the_queue() == 3


async def test_giving_back_workflows_leaves_tasks_to_their_end(bench: Bench) -> None:
    await bench.deliver("a", definition=flow)
    await bench.deliver("b")
    bench.executor.give_back_executing(workflows_only=True)
    assert bench.runner.stopped == ["a"]


async def test_idle_means_that_nothing_executes(bench: Bench) -> None:
    await bench.deliver("a")
    idle = asyncio.ensure_future(bench.executor.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    bench.runner.end("a")
    await asyncio.wait_for(idle, 5)


async def test_a_confirmed_run_that_is_delivered_again_is_not_executed_again(bench: Bench) -> None:
    await bench.deliver("a")
    bench.runner.end("a")
    await bench.reporter.flush()
    await bench.deliver("a")
    assert bench.runner.begun == ["a"]
    assert await bench.left_in_the_queue() == 0


async def test_an_execution_without_an_outcome_is_given_back(bench: Bench) -> None:
    await bench.deliver("a")
    bench.runner.running.pop("a")(None)
    await bench.until_accepted(2)
    assert bench.runner.begun == ["a", "a"]


async def test_what_is_held_of_a_queue_is_counted_until_it_is_confirmed(bench: Bench) -> None:
    await bench.deliver("a")
    await bench.deliver("b")
    assert bench.executor.held(QUEUE) == 2
    bench.runner.end("a")
    await bench.reporter.flush()
    assert bench.executor.held(QUEUE) == 1


async def test_a_result_that_the_broker_refuses_fails_its_run_only(bench: Bench) -> None:
    await bench.deliver("a", "b")
    bench.runner.end("a", size=20_000)
    bench.runner.end("b")
    large, small = await bench.outcomes()
    assert (large.run, large.state, small.run, small.state) == ("a", "failed", "b", "succeeded")
    assert large.failure is not None
    assert large.failure.type == "leveret.errors.PayloadError"
    assert "20000 bytes" in large.failure.message
    assert await bench.left_in_the_queue() == 0
