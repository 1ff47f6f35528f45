"""An executor between a broker in memory and runners by hand, at a time by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

from leveret import define
from leveret.definitions import Definition
from leveret_broker import codec, messages, topology
from leveret_broker.errors import Refused
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import Delivery, Outgoing, Queue
from leveret_worker.alarms import Alarms
from leveret_worker.claims import Claims
from leveret_worker.execution import Bundle, Execution
from leveret_worker.executor import Executor, Runners, Times
from leveret_worker.membership import Membership
from leveret_worker.perform import Ending
from leveret_worker.reporter import Reporter
from leveret_worker.rooms import Rooms
from leveret_worker.suspension import Suspension
from tests.worker.clocks import HandClock, settle

QUEUE = "p:work:0"
GENERATION = 7
"""In which the worker has joined."""
LARGEST = 10_000
"""Bytes of a message that the broker takes."""


@define.task
async def work() -> None: ...


@define.task
def crunch() -> None: ...


@define.task(runs_in="thread")
def compute() -> None: ...


@define.workflow
async def flow() -> None: ...


class ByHand:
    """A runner whose executions end when the test says so."""

    def __init__(self) -> None:
        self.running: dict[str, Callable[[Ending | None], None]] = {}
        self.executions: list[Execution] = []
        self.stopped: list[str] = []

    @property
    def begun(self) -> list[str]:
        return [execution.run for execution in self.executions]

    def begin(self, execution: Execution, ended: Callable[[Ending | None], None]) -> None:
        self.executions.append(execution)
        self.running[execution.run] = ended
        execution.stop = lambda: self.stopped.append(execution.run)

    def end(self, run: str, size: int = 10) -> None:
        """With a result."""
        self.running.pop(run)(Ending(result=bytes(size)))

    def fail(self, run: str, *, is_lost: bool = False) -> None:
        failure = messages.Failure(type="ValueError", message="no")
        self.running.pop(run)(Ending(error=b"error", failure=failure, is_lost=is_lost))

    def end_stopped(self, run: str) -> None:
        """Without an outcome."""
        self.running.pop(run)(None)


class Narrow(MemoryTransport):
    """A broker that takes no large message."""

    async def publish(self, message: Outgoing) -> None:
        if len(message.body) > LARGEST:
            raise Refused("the broker refused the message: too large")
        await super().publish(message)


class Bench:
    """The parts of a worker that decide what is executed."""

    def __init__(self, slots: int = 2, processes: int = 1) -> None:
        self.broker = MemoryBroker()
        self.transport = Narrow(self.broker)
        self.onlooker = MemoryTransport(self.broker)
        self.clock = HandClock()
        self.alarms = Alarms(self.clock)
        self.runner = ByHand()
        self.reporter = Reporter(self.transport, "worker_1")
        self._nonces: list[str] = []
        self.membership = Membership(self._nonces.append, self.clock)
        self.resumed: list[float] = []
        """The pauses that were noticed."""
        self.suspension = Suspension(self.clock, self._resume)
        self.claims = Claims(
            reporter=self.reporter,
            membership=self.membership,
            suspension=self.suspension,
            clock=self.clock,
            alarms=self.alarms,
        )
        self.executor = Executor(
            runners=Runners(loop=self.runner, thread=self.runner, process=self.runner),
            rooms=Rooms(slots=slots, processes=processes),
            claims=self.claims,
            reporter=self.reporter,
            clock=self.clock,
            alarms=self.alarms,
            times=Times(lease_after=60, stop_grace=10),
        )
        self.accepted = 0
        self.told: list[messages.Outcomes] = []
        """What the coordinator was told, message by message."""
        self._definition: Definition[..., Any] = work

    async def open(self) -> None:
        for transport in (self.transport, self.onlooker):
            await transport.open()
        await self.transport.declare(Queue(name=QUEUE), topology.OUTCOMES)
        await self.transport.consume(QUEUE, self._accept, prefetch=0)
        await self.onlooker.consume(topology.OUTCOMES.name, self._hear, prefetch=0)
        self.alarms.start()
        self.membership.renew()
        await settle()
        self.membership.admit(GENERATION, self._nonces[-1])
        self.suspension.watch(self.alarms)
        await settle()

    async def close(self) -> None:
        self.reporter.close()
        self.membership.stop()
        await self.alarms.stop()
        for transport in (self.transport, self.onlooker):
            await transport.close()

    def _resume(self, seconds: float) -> None:
        self.resumed.append(seconds)
        self.executor.doubt_waiting()

    def _accept(self, delivery: Delivery) -> None:
        message = codec.decode(delivery.body, messages.Invocations)
        bundle = Bundle(delivery, len(message.runs))
        for run in message.runs:
            self.executor.accept(
                Execution(
                    invocation=run,
                    definition=self._definition,
                    queue=QUEUE,
                    project="p",
                    bundles=[bundle],
                    generation=message.generation,
                    handed_out=delivery.redelivered or run.again,
                )
            )
        self.accepted += 1

    def _hear(self, delivery: Delivery) -> None:
        self.told.append(codec.decode(delivery.body, messages.Outcomes))
        delivery.ack()

    # -- what a test does -------------------------------------------------------------------------

    async def deliver(
        self,
        *runs: str,
        definition: Definition[..., Any] = work,
        generation: int = GENERATION,
        attempt: int = 1,
        **fields: Any,
    ) -> None:
        """Publish one message with these runs and wait until the executor has it."""
        invocations = tuple(
            messages.Invocation(
                run=run, attempt=attempt, root=run, parent=None, arguments=b"", **fields
            )
            for run in runs
        )
        message = messages.Invocations(
            project="p", definition="task_1", runs=invocations, generation=generation
        )
        self._definition = definition
        before = self.accepted
        await self.transport.publish(Outgoing(queue=QUEUE, body=codec.encode(message)))
        await self.until_accepted(before + 1)

    async def until_accepted(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.accepted < count:
                await asyncio.sleep(0)

    def grant(self, run: str, granted: int | None, *, attempt: int = 1) -> None:
        """Answer a claim."""
        self.executor.decide([messages.Verdict(run=run, attempt=attempt, granted=granted)])

    def stop(self, *runs: str, attempt: int = 1) -> None:
        self.executor.stop([messages.Stop(run=run, attempt=attempt) for run in runs])

    # -- what a test sees -------------------------------------------------------------------------

    async def left_in_the_queue(self) -> int:
        """Messages that come back when this worker dies: those it did not acknowledge."""
        await self.transport.close()
        status = await self.onlooker.inspect(QUEUE)
        assert status is not None
        return status.messages

    async def outcomes(self) -> list[messages.Outcome]:
        """What the coordinator was told of ends."""
        await self.reporter.flush()
        await settle()
        return [outcome for message in self.told for outcome in message.outcomes]

    async def reported(self) -> list[str]:
        """The runs whose ends the coordinator was told."""
        return [outcome.run for outcome in await self.outcomes()]

    async def ends(self) -> dict[str, str]:
        """How the runs ended that the coordinator was told of."""
        return {outcome.run: outcome.state for outcome in await self.outcomes()}

    async def started(self) -> list[messages.Started]:
        await self.reporter.flush()
        await settle()
        return [started for message in self.told for started in message.started]

    async def claimed(self) -> list[messages.Claim]:
        await self.reporter.flush()
        await settle()
        return [claim for message in self.told for claim in message.claims]
