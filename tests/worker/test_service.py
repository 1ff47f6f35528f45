"""The worker as the broker sees it: what it consumes, sets aside, reports and says of itself."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgpack
import pytest

from leveret import define, payload
from leveret_broker import codec, identifiers, messages, topology
from leveret_broker.lifecycle import Connected
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import Delivery, Outgoing
from leveret_coordinator.service import CoordinatorService
from leveret_worker.service import WorkerService


@define.task
async def answer() -> int:
    return 42


@define.task(runs_in="thread")
def answer_in_a_thread() -> int:
    return 42


class Site:
    """A coordinator and a worker on a broker in memory, and somebody who looks on."""

    def __init__(self) -> None:
        broker = MemoryBroker()
        self.transport = MemoryTransport(broker)
        coordinator, mine = MemoryTransport(broker), MemoryTransport(broker)
        self.coordinator = Connected(coordinator, CoordinatorService(coordinator, None))
        self.worker = WorkerService(mine, [answer, answer_in_a_thread], project="p", keys=None)
        self._worker = Connected(mine, self.worker)

    async def start(self) -> None:
        await self.transport.open()
        await self.coordinator.start()
        await self._worker.start()

    async def stop(self) -> None:
        await self._worker.stop()
        await self.coordinator.stop()
        await self.transport.close()

    async def next_of(self, queue: str) -> Delivery:
        """The next message of a queue."""
        arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        consumer = await self.transport.consume(queue, arrived.put_nowait, prefetch=1)
        delivery = await asyncio.wait_for(arrived.get(), 10)
        delivery.ack()
        await consumer.cancel()
        return delivery

    async def ask(self, kind: Callable[..., messages.Wire], **fields: Any) -> messages.Reply:
        """Put a request to the coordinator."""
        queue = topology.reply_queue("session_test")
        await self.transport.declare(queue)
        message = kind(session="session_test", **fields)
        body = codec.encode(message)
        await self.transport.publish(Outgoing(queue=topology.REQUESTS.name, body=body))
        delivery = await self.next_of(queue.name)
        return codec.decode(delivery.body, messages.Replies).replies[0]

    async def run(self, name: str) -> messages.Reply:
        """Submit a call of a task without arguments, and wait for its end."""
        run = identifiers.new_id("run")
        context = payload.Context(project="p", run=run, definition=name, direction="arguments")
        submission = messages.Submission(
            run=run,
            target=messages.Target(identifier=name),
            project="p",
            arguments=payload.seal(payload.encode_arguments((), {}), keys=None, context=context),
        )
        return await self.ask(messages.Submit, submissions=(submission,))


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    made = Site()
    await made.start()
    yield made
    await made.stop()


async def test_what_it_serves_is_consumed_and_reported(site: Site) -> None:
    for name in ("answer", "answer_in_a_thread"):
        reply = await site.run(name)
        assert isinstance(reply, messages.Finished)
        assert reply.state == "succeeded"
        status = await site.transport.inspect(f"p:{name}:0")
        assert status is not None
        assert (status.messages, status.consumers) == (0, 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xc1garbage", "not msgpack"),
        (codec.encode(messages.Control()), "type"),
        (codec.encode(messages.Control())[:-3], "not msgpack"),
    ],
)
async def test_what_is_no_invocation_is_set_aside_and_work_goes_on(
    site: Site, body: bytes, reason: str
) -> None:
    await site.transport.publish(Outgoing(queue="p:answer:0", body=body))
    dead = await site.next_of(topology.DEAD.name)
    assert dead.body == body
    assert reason in dead.headers[topology.REASON_HEADER]
    assert dead.headers[topology.ORIGIN_HEADER] == "p:answer:0"
    assert isinstance(await site.run("answer"), messages.Finished)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"garbage", "malformed: not msgpack"),
        (codec.encode(messages.Replies(replies=())), "malformed: type"),
        (codec.encode(messages.Control()), "unknown: it says nothing"),
        (msgpack.packb({"v": codec.PROTOCOL, "explode": True}), "unknown: it says nothing"),
    ],
    ids=["no msgpack", "of another queue", "empty", "of another version"],
)
async def test_a_control_message_of_another_kind_is_set_aside(
    site: Site, body: bytes, reason: str
) -> None:
    await site.transport.publish(Outgoing(fanout=topology.control_exchange("p"), body=body))
    dead = await site.next_of(topology.DEAD.name)
    assert dead.body == body
    assert dead.headers[topology.REASON_HEADER].startswith(reason)
    assert dead.headers[topology.ORIGIN_HEADER] == f"control:{site.worker.id}"
    assert isinstance(await site.run("answer"), messages.Finished)


async def test_arguments_that_cannot_be_read_fail_the_run_only(site: Site) -> None:
    submission = messages.Submission(
        run=identifiers.new_id("run"),
        target=messages.Target(identifier="answer"),
        project="p",
        arguments=b"bad",
    )
    reply = await site.ask(messages.Submit, submissions=(submission,))
    assert isinstance(reply, messages.Finished)
    assert reply.state == "failed"
    assert reply.failure is not None
    assert reply.failure.type == "leveret.errors.PayloadError"
    assert isinstance(await site.run("answer"), messages.Finished)


async def test_it_is_listed_while_it_lives(site: Site) -> None:
    rows = await site.ask(messages.ListWorkers, request="1", project="p")
    assert isinstance(rows, messages.Rows)
    (row,) = rows.workers
    assert (row.id, row.busy) == (site.worker.id, 0)
    assert set(row.definitions) == {"p:answer:0", "p:answer_in_a_thread:0"}
    await site.worker.stop(grace=1)
    rows = await site.ask(messages.ListWorkers, request="2", project="p")
    assert isinstance(rows, messages.Rows)
    assert rows.workers == ()
