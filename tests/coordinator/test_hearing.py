"""How far a coordinator has heard, and what it does if it never catches up. Time by hand."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from leveret_broker import codec, topology
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import Hello, Invocation, Invocations, Registered, RunOptions, Welcome
from leveret_broker.transport import Delivery, Outgoing, QueueStatus
from leveret_coordinator.database import in_a_thread
from leveret_coordinator.hearing import MARK_EVERY, MOST_MARKERS, QUEUES, Hearing
from leveret_coordinator.service import CoordinatorService
from tests.coordinator import build, peers
from tests.coordinator.faults import CrashingTransport, FailingConnection
from tests.worker.clocks import START, HandClock

ROOT = build.run_id(1)
REQUESTS, _ = QUEUES


class _Listener:
    """The coordinator's queues, each taken from when a test says so."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.clock = HandClock()
        self.unheard: list[Delivery] = []
        self.hearing = Hearing(transport, self.clock, lambda: bool(self.unheard))

    async def put(
        self,
        queue: str = REQUESTS,
        *,
        body: bytes = b"x",
        marker: str | None = None,
        exchange: str | None = None,
    ) -> None:
        headers = {} if marker is None else {topology.MARKER_HEADER: marker}
        outgoing = Outgoing(body=body, queue=queue, headers=headers, exchange=exchange)
        await self.transport.publish(outgoing)

    async def take(self, queue: str = REQUESTS) -> list[Delivery]:
        """All that waits there."""
        taken: list[Delivery] = []
        consumer = await self.transport.consume(queue, taken.append, prefetch=0)
        await peers.until_empty(self.transport, queue)
        await consumer.cancel()
        for delivery in taken:
            delivery.ack()
        return taken

    def hear(self, taken: Sequence[Delivery]) -> None:
        for delivery in taken:
            if self.hearing.is_marker(delivery):
                self.hearing.hear(delivery)


@pytest.fixture
async def listener(broker: MemoryBroker) -> AsyncIterator[_Listener]:
    async with peers.connected(broker) as transport:
        await transport.declare(topology.DEAD, topology.REQUESTS, topology.OUTCOMES)
        yield _Listener(transport)


async def test_if_nothing_waits_all_is_heard_until_now(listener: _Listener) -> None:
    assert listener.hearing.until == -math.inf
    assert await listener.hearing.listen() == START
    listener.clock.jump(10.0)
    assert listener.hearing.until == START, "it was not asked meanwhile"
    assert await listener.hearing.listen() == START + 10


@pytest.mark.parametrize("queue", QUEUES)
async def test_what_waits_is_heard_when_the_marker_behind_it_comes_back(
    listener: _Listener, queue: str
) -> None:
    await listener.hearing.listen()
    await listener.put(queue)
    listener.clock.jump(10.0)
    assert await listener.hearing.listen() == START
    listener.clock.jump(10.0)
    [waiting, marker] = await listener.take(queue)
    assert not listener.hearing.is_marker(waiting)
    listener.hear([marker])
    assert listener.hearing.until == START + 10, "as of when the marker was put there"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_what_was_delivered_and_not_dealt_with_is_not_heard(
    broker: MemoryBroker, listener: _Listener, when: str
) -> None:
    await listener.put()
    [waiting] = await listener.take()
    if when == "before":
        listener.unheard.append(waiting)
    else:
        transport = _Asked(listener.transport, lambda: listener.unheard.append(waiting))
        listener.hearing = Hearing(transport, listener.clock, lambda: bool(listener.unheard))
    assert await listener.hearing.listen() == -math.inf
    listener.unheard.clear()
    for queue in QUEUES:
        listener.hear(await listener.take(queue))
    assert listener.hearing.until == START


async def test_a_marker_of_somebody_else_tells_nothing(listener: _Listener) -> None:
    await listener.put()
    await listener.hearing.listen()
    await listener.put(marker="a guess", body=b"")
    [_, own, other] = await listener.take()
    listener.hear([other])
    assert listener.hearing.until == -math.inf
    listener.hear([own, own])
    assert listener.hearing.until == START


async def test_what_says_something_or_came_another_way_is_no_marker(listener: _Listener) -> None:
    """It is read as any other, and set aside if that can't be done."""
    await listener.transport.declare(*topology.exchanges("p"))
    await listener.put(marker="1", body=b"x")
    await listener.put(marker="2", body=b"", exchange=topology.project_exchange("p"))
    assert [listener.hearing.is_marker(each) for each in await listener.take()] == [False, False]


async def test_what_was_on_its_way_when_the_connection_broke_tells_nothing(
    listener: _Listener,
) -> None:
    await listener.put()
    await listener.hearing.listen()
    taken = await listener.take()
    listener.hearing.forget()
    listener.hear(taken)
    assert listener.hearing.until == -math.inf


async def test_few_markers_are_on_their_way_however_far_it_is_behind(listener: _Listener) -> None:
    await listener.put()
    for _ in range(10_000):
        await listener.hearing.listen()
        listener.clock.jump(MARK_EVERY)
    markers = (await listener.take())[1:]
    assert MOST_MARKERS < len(markers) < 10 * MOST_MARKERS
    listener.hear(markers[-1:])
    assert listener.clock.now() - listener.hearing.until < 0.02 * 10_000, "not far apart"


async def test_a_marker_that_was_lost_is_followed_by_others(listener: _Listener) -> None:
    await listener.put()
    await listener.hearing.listen()
    await listener.take()
    await listener.put()
    listener.clock.jump(MARK_EVERY)
    await listener.hearing.listen()
    listener.hear(await listener.take())
    assert listener.hearing.until == START + MARK_EVERY


# -- a coordinator that never catches up ----------------------------------------------------------


class _Asked(CrashingTransport):
    """Something happens while it is asked about a queue."""

    def __init__(self, inner: MemoryTransport, happens: Callable[[], None]) -> None:
        super().__init__(inner, after=1_000_000)
        self._happens = happens

    async def inspect(self, queue: str) -> QueueStatus | None:
        self._happens()
        return await super().inspect(queue)


class _Busy(CrashingTransport):
    """There is always more to hear than was heard."""

    def __init__(self, inner: MemoryTransport) -> None:
        super().__init__(inner, after=1_000_000)
        self.is_busy = False
        self.markers = 0

    async def publish(self, message: Outgoing) -> None:
        self.markers += topology.MARKER_HEADER in message.headers
        await super().publish(message)

    async def inspect(self, queue: str) -> QueueStatus | None:
        status = await super().inspect(queue)
        if status is None or not self.is_busy or queue not in QUEUES:
            return status
        return QueueStatus(messages=1000, consumers=status.consumers)


class _Scene:
    """A busy coordinator, a caller, and who sees what is published for workers."""

    def __init__(self, caller: peers.Caller, worker: peers.Peer, clock: HandClock) -> None:
        self.caller = caller
        self.worker = worker
        self.clock = clock

    @property
    def invocations(self) -> list[Invocation]:
        return [
            invocation
            for delivery in self.worker.deliveries["p:flow:1"]
            for invocation in codec.decode(delivery.body, Invocations).runs
        ]

    async def submit(self, **options: float) -> None:
        submission = build.submission(ROOT, options=RunOptions.model_validate(options))
        await self.caller.request(build.submit(submission))
        await self.until(lambda: len(self.invocations) == 1)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Seconds pass; a worker that lives beats all the while."""
        async with asyncio.timeout(peers.PATIENCE):
            while not condition():
                await self.clock.let_pass(1.0)
                await self.caller.request(build.heartbeat(worker="alive"))
                await self.caller.ask(Hello(session="s", request="1"))


@pytest.fixture
async def scene(
    transport: MemoryTransport, broker: MemoryBroker, caller: peers.Caller, tmp_path: Path
) -> AsyncIterator[_Scene]:
    clock, busy = HandClock(), _Busy(transport)
    service = CoordinatorService(busy, tmp_path / "catalog", clock, peers.QUICK)
    await service.start()
    try:
        registered = await caller.ask(peers.FLOW)
        assert isinstance(registered, Registered)
        await caller.request(build.heartbeat(registered.definitions[0].id, worker="w"))
        async with peers.connected(broker) as others:
            worker = peers.Peer(others)
            await others.declare(topology.DEAD, topology.work_queue("p:flow:1"))
            await worker.consume("p:flow:1")
            busy.is_busy = True
            yield _Scene(caller, worker, clock)
    finally:
        await service.stop()


@pytest.mark.parametrize("option", ["total_timeout", "queue_timeout"])
async def test_timeouts_pass_at_a_coordinator_that_never_catches_up(
    scene: _Scene, option: str
) -> None:
    await scene.submit(**{option: 3.0})
    await scene.until(lambda: ROOT in scene.caller.finished())
    assert scene.caller.finished()[ROOT][0].state == "failed"


async def test_what_a_dead_worker_executed_is_found_by_a_coordinator_that_never_catches_up(
    scene: _Scene,
) -> None:
    await scene.submit()
    await scene.worker.tell(build.started(ROOT, worker="w", leased=True))
    await scene.until(lambda: len(scene.invocations) > 1)
    assert scene.invocations[-1].attempt == 2


async def test_what_vanished_is_found_by_a_coordinator_that_never_catches_up(
    scene: _Scene,
) -> None:
    await scene.submit()  # and whoever took the message died
    await scene.until(lambda: len(scene.invocations) > 1)
    assert (scene.invocations[-1].attempt, scene.invocations[-1].again) == (1, True)


async def test_markers_that_come_while_the_catalog_is_away_are_settled(
    broker: MemoryBroker, caller: peers.Caller, tmp_path: Path
) -> None:
    """Or in a long outage they would take all that the broker hands out ahead."""
    clock = HandClock()
    catalog: list[FailingConnection] = []

    async def connect(name: str) -> FailingConnection:
        catalog.append(FailingConnection(await in_a_thread(name)))
        return catalog[0]

    async with peers.connected(broker) as transport:
        busy = _Busy(transport)
        service = CoordinatorService(busy, tmp_path / "catalog", clock, peers.QUICK, connect)
        await service.start()
        try:
            await caller.ask(peers.FLOW)
            busy.is_busy = True
            catalog[0].fails_at = "BEGIN"
            async with asyncio.timeout(peers.PATIENCE):
                while busy.markers < 3 or catalog[0].failures < 3:
                    await caller.request(build.heartbeat(worker="alive"))
                    await clock.let_pass(1.0)
            busy.is_busy = False
            catalog[0].fails_at = None
            await caller.request(Hello(session="s", request="1"))
            async with asyncio.timeout(peers.PATIENCE):
                while not any(isinstance(each, Welcome) for each in caller.replies):
                    await clock.let_pass(1.0)
        finally:
            await service.stop()
    for queue in QUEUES:
        status = await caller.transport.inspect(queue)
        assert status is not None
        assert status.messages == 0, "what nobody had settled came back"
