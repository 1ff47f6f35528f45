"""What a coordinator that starts again hears, tells, and has no right to decide yet."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from leveret_broker import codec
from leveret_broker.errors import Expired
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import Attach, Control, Finished, Hello, Rejected, RunOptions
from leveret_broker.transport import Consumer, Delivery, Transport
from leveret_coordinator import parcels
from leveret_coordinator.decision import Answer
from leveret_coordinator.service import CoordinatorService
from tests.coordinator import build, peers
from tests.coordinator.build import control_queue
from tests.coordinator.faults import CrashingTransport, RefusingTransport
from tests.worker.clocks import HandClock

ROOT = build.run_id(1)


class _Lasting(CrashingTransport):
    """A broker that outlives the coordinators."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner, after=1_000_000)


class _Distant(_Lasting):
    """What is delivered takes half a second, by the clock in hand."""

    def __init__(self, inner: Transport, clock: HandClock) -> None:
        super().__init__(inner)
        self._clock = clock
        self._on_their_way: set[asyncio.Task[None]] = set()

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> Consumer:
        async def arrive(delivery: Delivery) -> None:
            await self._clock.sleep(0.5)
            on_delivery(delivery)

        def send(delivery: Delivery) -> None:
            task = asyncio.create_task(arrive(delivery))
            self._on_their_way.add(task)
            task.add_done_callback(self._on_their_way.discard)

        return await super().consume(queue, send, prefetch=prefetch)


async def _until(clock: HandClock, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(peers.PATIENCE):
        while not condition():
            await clock.let_pass(0.1)


async def test_every_coordinator_asks_the_workers_to_join_again(
    broker: MemoryBroker, transport: MemoryTransport, tmp_path: Path
) -> None:
    async with peers.connected(broker) as of_worker:
        worker = peers.Peer(of_worker)
        await of_worker.declare(control_queue("w"))
        await worker.consume("control:w")
        async with peers.coordinator(_Lasting(transport), tmp_path / "catalog"):
            await worker.until(lambda: len(worker.deliveries["control:w"]) == 1)
        async with peers.coordinator(_Lasting(transport), tmp_path / "catalog"):
            await worker.until(lambda: len(worker.deliveries["control:w"]) == 2)
        told = [codec.decode(each.body, Control) for each in worker.deliveries["control:w"]]
        assert told == [Control(rejoin=True)] * 2


@pytest.mark.parametrize(
    "options", [RunOptions(total_timeout=30), RunOptions(queue_timeout=30)], ids=["total", "queue"]
)
async def test_no_timeout_passes_while_the_news_that_it_was_kept_waits_to_be_heard(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path, options: RunOptions
) -> None:
    clock = HandClock()

    def coordinator() -> CoordinatorService:
        distant = _Distant(transport, clock)
        return CoordinatorService(distant, tmp_path / "catalog", clock, peers.QUICK)

    first = coordinator()
    await first.start()
    try:
        await caller.request(peers.FLOW)
        await caller.request(build.submit(build.submission(ROOT, options=options)))
        await _until(clock, lambda: len(caller.replies) == 2)
    finally:
        await first.stop()
    await caller.tell(build.started(ROOT), build.outcomes(build.outcome(ROOT)))
    clock.jump(60)
    second = coordinator()
    await second.start()
    try:
        await _until(clock, lambda: ROOT in caller.finished())
    finally:
        await second.stop()
    assert caller.finished()[ROOT][0].state == "succeeded"


async def test_a_timeout_passes_once_everything_was_heard(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    clock = HandClock()
    distant = _Distant(transport, clock)
    service = CoordinatorService(distant, tmp_path / "catalog", clock, peers.QUICK)
    await service.start()
    try:
        options = RunOptions(total_timeout=30)
        await caller.request(peers.FLOW)
        await caller.request(build.submit(build.submission(ROOT, options=options)))
        await _until(clock, lambda: ROOT in caller.finished())
    finally:
        await service.stop()
    assert caller.finished()[ROOT][0].state == "failed"


async def test_an_answer_that_could_not_be_sent_is_given_by_the_next_coordinator(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    refusing = RefusingTransport(transport)
    service = CoordinatorService(refusing, tmp_path / "catalog")
    await service.start()
    await caller.ask(peers.FLOW)
    refusing.errors = [Expired("late")] * 50
    await caller.request(Attach(session="s", runs=(ROOT,)))
    async with asyncio.timeout(peers.PATIENCE):
        while len(refusing.errors) == 50:
            await asyncio.sleep(0)
    with suppress(Exception):
        await service.stop()
    async with peers.coordinator(_Lasting(transport), tmp_path / "catalog"):
        await caller.until(lambda: any(isinstance(each, Rejected) for each in caller.replies))
        await caller.ask(Hello(session="s", request="1"))


def test_an_end_in_fewer_words_is_the_end_of_the_same_life() -> None:
    end = Finished(run=ROOT, state="succeeded", attempt=3, parent_round=2, result=b"x" * 100)
    [parcel] = parcels.pack_answers([Answer(session="s", reply=end)])
    [shorter] = parcels.in_place_of(parcel, "too large")
    [answer] = shorter.answers
    assert isinstance(answer.reply, Finished)
    assert (answer.reply.attempt, answer.reply.parent_round) == (3, 2)
    assert (answer.reply.state, answer.reply.result) == ("failed", None)
