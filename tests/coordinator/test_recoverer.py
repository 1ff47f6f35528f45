"""What went wrong unheard: workers that are gone, invocations that vanished. Time by hand."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from leveret_broker import topology
from leveret_broker.errors import Expired
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import Goodbye
from leveret_broker.transport import Consumer, Outgoing, QueueStatus
from leveret_coordinator.catalog import Catalog, QueueCount
from leveret_coordinator.hearing import Hearing
from leveret_coordinator.records import Confirmed, Orphan, Vanished
from leveret_coordinator.recoverer import (
    LOOK_AGAIN_AFTER,
    OVERTAKEN_AFTER,
    Recoverer,
    RecoverySettings,
)
from leveret_coordinator.settings import CoordinatorSettings
from tests.coordinator import build, peers
from tests.worker.clocks import HandClock

R1, R2, R3 = (build.run_id(number) for number in range(1, 4))
SETTINGS = RecoverySettings()
SILENT, LATE, GONE = 20.0, 8.0, 3.0
ORPHAN = Orphan(run=R1, attempt=1, worker="w")


class _Scene:
    """A catalog, a broker and a recoverer that started now."""

    def __init__(self, catalog: Catalog, transport: MemoryTransport, clock: HandClock) -> None:
        self.catalog = catalog
        self.transport = transport
        self.clock = clock
        self.hearing = Hearing(transport, clock)
        self.recoverer = Recoverer(transport, self.hearing, clock, SETTINGS)
        self.definition = ""

    async def prepare(self) -> None:
        await self.transport.declare(topology.DEAD, topology.REQUESTS, topology.OUTCOMES)
        await self.transport.declare(topology.work_queue("p:flow:1"))
        await build.apply(self.catalog, build.register(build.spec("flow")))
        [definition] = await self.catalog.definitions(names=["flow"])
        self.definition = definition.id

    async def submit(self, *runs: str) -> None:
        """Runs whose invocations the broker confirmed now."""
        await build.apply(self.catalog, build.submit(*map(build.submission, runs)))
        confirmed = Confirmed(published=tuple(map(build.published, runs)))
        await self.catalog.confirm(confirmed, now=self.clock.now())

    async def hear(self, worker: str = "w", **held: int) -> None:
        beat = build.heartbeat(self.definition, worker=worker)
        beat = beat.model_copy(update={"held": {self.definition: held.get("held", 0)}})
        await build.apply(self.catalog, beat, now=self.clock.now())

    async def executing(self, run: str = R1, worker: str = "w") -> None:
        """A worker that was heard now, executes a run, and consumes its control queue."""
        await self.submit(run)
        await self.hear(worker)
        await build.apply(self.catalog, build.started(run, worker=worker))

    async def consume_control(self, worker: str = "w") -> Consumer:
        queue = topology.control_queue(worker)
        await self.transport.declare(queue)
        return await self.transport.consume(queue.name, lambda _: None, prefetch=0)

    async def put(self, queue: str, messages: int) -> None:
        for _ in range(messages):
            await self.transport.publish(Outgoing(body=b"x", queue=queue))

    def let_pass(self, seconds: float) -> None:
        """Time in which the coordinator looks around and hears others."""
        while seconds > 0:
            self.clock.jump(min(seconds, 4.0))
            self.recoverer.hear()
            assert self.recoverer.alive
            seconds -= 4.0

    async def look(self) -> list[Orphan | Vanished]:
        return await self.recoverer.look(self.catalog)

    async def looks(self, seconds: float) -> list[Orphan | Vanished]:
        """All that was found by looks a second apart."""
        found: list[Orphan | Vanished] = []
        for _ in range(int(seconds)):
            self.let_pass(1.0)
            found += await self.look()
        return found


@pytest.fixture
async def scene(catalog: Catalog, broker: MemoryBroker) -> AsyncIterator[_Scene]:
    async with peers.connected(broker) as transport:
        scene = _Scene(catalog, transport, HandClock())
        await scene.prepare()
        yield scene


class _Counted(Catalog):
    """A catalog that counts how often it was asked what is in the queues."""

    asked = 0

    async def old_in_queues(self, *, before: float, alive_since: float) -> list[QueueCount]:
        self.asked += 1
        return await super().old_in_queues(before=before, alive_since=alive_since)


async def test_a_look_asks_once_what_is_in_the_queues_when_all_is_heard(
    broker: MemoryBroker,
) -> None:
    catalog = await _Counted.open(None)
    assert isinstance(catalog, _Counted)
    async with AsyncExitStack() as closing, peers.connected(broker) as transport:
        closing.push_async_callback(catalog.close)
        scene = _Scene(catalog, transport, HandClock())
        await scene.prepare()
        await scene.submit(R1)
        await scene.hear(held=1)
        scene.let_pass(16)
        assert await scene.look() == []
        assert catalog.asked == 1
        await scene.put(topology.REQUESTS.name, 1)  # it is behind, and compares nothing yet
        assert await scene.look() == []
        assert catalog.asked == 2


# -- workers --------------------------------------------------------------------------------------


async def test_the_attempts_of_a_silent_worker_are_orphans(scene: _Scene) -> None:
    await scene.executing()
    await scene.consume_control()
    scene.let_pass(SILENT)
    assert await scene.look() == []
    scene.let_pass(0.1)
    assert await scene.look() == [ORPHAN]


async def test_nobody_is_dead_because_this_process_stood_still(scene: _Scene) -> None:
    await scene.executing()
    await scene.consume_control()
    scene.let_pass(SILENT)
    scene.clock.jump(SILENT)  # no turn, no look: a stopped process, a laptop that slept
    assert await scene.look() == []
    scene.let_pass(SILENT + 0.1)
    assert await scene.look() == [ORPHAN]


async def test_nobody_is_dead_because_the_clock_was_set_back(scene: _Scene) -> None:
    await scene.executing()
    await scene.consume_control()
    scene.clock.jump(-3600.0)
    scene.let_pass(SILENT + 1)
    await scene.hear()
    assert await scene.look() == []
    scene.let_pass(SILENT + 1)
    assert await scene.look() == [ORPHAN]


async def test_nobody_is_dead_while_nobody_at_all_is_heard(scene: _Scene) -> None:
    await scene.executing()
    await scene.consume_control()
    for _ in range(20):  # a broker that is out of memory takes no heartbeats
        scene.clock.jump(4.0)
        assert await scene.look() == []
    scene.recoverer.hear()
    assert await scene.look() == [], "whoever is heard first is not the only one that lives"
    scene.let_pass(SILENT + 0.1)
    assert await scene.look() == [ORPHAN]


@pytest.mark.parametrize("silent_after", [10.0, 11.0, 20.0, 60.0])
async def test_workers_that_beat_in_step_are_heard_however_soon_they_count_as_silent(
    scene: _Scene, silent_after: float
) -> None:
    await scene.executing(worker="w")
    await scene.consume_control("w")
    settings = CoordinatorSettings(worker_silent_after=silent_after).recovery
    scene.recoverer = Recoverer(scene.transport, scene.hearing, scene.clock, settings)
    for _ in range(int(silent_after / topology.HEARTBEAT_EVERY) + 1):
        scene.clock.jump(topology.HEARTBEAT_EVERY + 0.1)
        await scene.hear("another")
        assert scene.recoverer.alive
        scene.recoverer.hear()
    assert await scene.look() == [ORPHAN]


async def test_a_worker_that_is_heard_in_time_keeps_its_attempts(scene: _Scene) -> None:
    await scene.executing()
    await scene.consume_control()
    for _ in range(10):
        scene.clock.jump(5.0)
        await scene.hear()
        assert await scene.look() == []


async def test_what_a_worker_left_that_said_goodbye_is_an_orphan_at_once(scene: _Scene) -> None:
    await scene.executing()
    await build.apply(scene.catalog, Goodbye(worker="w"))
    assert await scene.look() == [ORPHAN]


async def test_nobody_is_silent_until_the_coordinator_has_listened_long_enough(
    scene: _Scene,
) -> None:
    await scene.executing()
    await scene.consume_control()
    scene.let_pass(1000.0)
    scene.recoverer.listen()
    assert await scene.look() == []
    assert scene.recoverer.alive.since == float("-inf")
    scene.let_pass(SILENT - 0.1)
    assert await scene.look() == []
    scene.let_pass(0.1)
    assert await scene.look() == [ORPHAN]


@pytest.mark.parametrize("queue", [topology.REQUESTS.name, topology.OUTCOMES.name])
async def test_nobody_is_dead_while_there_is_more_to_hear(scene: _Scene, queue: str) -> None:
    await scene.executing()
    scene.recoverer.suspect(["w"])
    await scene.put(queue, 1)
    scene.let_pass(10 * SILENT)
    assert await scene.looks(10) == []
    await scene.transport.consume(queue, lambda delivery: delivery.ack(), prefetch=0)
    await peers.until_empty(scene.transport, queue)
    assert await scene.look() == [ORPHAN]


async def test_nobody_is_dead_while_the_broker_can_not_be_asked(
    scene: _Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def expire(queue: str) -> QueueStatus | None:
        raise Expired("the broker did not answer")

    await scene.executing()
    scene.let_pass(10 * SILENT)
    with monkeypatch.context() as patch:
        patch.setattr(scene.transport, "inspect", expire)
        assert await scene.look() == []
    assert await scene.look() == [ORPHAN]


async def test_what_keeps_it_from_looking_for_long_is_told_now_and_then(
    scene: _Scene, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.put(topology.REQUESTS.name, 1)
    told: list[int] = []
    for _ in range(15):
        scene.let_pass(10.0)
        await scene.look()
        told.append(caplog.text.count("nobody looks for lost runs"))
    assert (told[4], told[5], told[10], told[11]) == (0, 1, 1, 2)
    assert "messages wait to be heard" in caplog.text


async def test_a_suspect_is_gone_once_nobody_consumed_its_control_queue_for_a_while(
    scene: _Scene,
) -> None:
    await scene.executing()
    scene.recoverer.suspect(["w"])
    assert scene.recoverer.pause == LOOK_AGAIN_AFTER
    assert await scene.look() == []
    scene.clock.jump(GONE - 0.1)
    assert await scene.look() == []
    scene.clock.jump(0.1)
    assert await scene.look() == [ORPHAN]
    assert scene.recoverer.alive.gone == ("w",)
    assert scene.recoverer.pause == SETTINGS.look_every


async def test_a_suspect_that_consumes_its_control_queue_is_none_any_more(scene: _Scene) -> None:
    await scene.executing()
    consumer = await scene.consume_control()
    scene.recoverer.suspect(["w"])
    assert await scene.looks(5) == []
    assert scene.recoverer.pause == SETTINGS.look_every
    await consumer.cancel()
    assert await scene.looks(2) == [], "not suspected any more"


async def test_a_suspect_that_comes_back_in_time_begins_anew(scene: _Scene) -> None:
    await scene.executing()
    scene.recoverer.suspect(["w"])
    assert await scene.looks(2) == []
    consumer = await scene.consume_control()
    assert await scene.looks(1) == []
    await consumer.cancel()
    scene.recoverer.suspect(["w"])
    assert await scene.looks(3) == [], "the time before counts no more"


async def test_a_worker_that_joins_is_here_whatever_was_thought_of_it(scene: _Scene) -> None:
    await scene.executing()
    scene.recoverer.suspect(["w"])
    await scene.looks(5)
    assert set(scene.recoverer.alive.gone) == {"w"}
    scene.recoverer.welcome(["w"])
    assert not scene.recoverer.alive.gone
    assert await scene.look() == []


async def test_time_in_which_the_coordinator_was_away_does_not_count_against_a_suspect(
    scene: _Scene,
) -> None:
    await scene.executing()
    scene.recoverer.suspect(["w"])
    assert await scene.look() == []
    scene.clock.jump(100.0)
    scene.recoverer.listen()
    assert await scene.look() == []
    scene.clock.jump(GONE)
    assert await scene.look() == [ORPHAN]


async def test_a_worker_that_is_late_is_suspected_and_gone_before_it_is_silent(
    scene: _Scene,
) -> None:
    await scene.executing()
    scene.let_pass(LATE)
    assert await scene.look() == []
    assert scene.recoverer.pause == SETTINGS.look_every
    found = await scene.looks(1 + GONE)
    assert found == [ORPHAN], "eleven or twelve seconds, not twenty"


async def test_a_worker_that_executes_nothing_is_not_suspected(scene: _Scene) -> None:
    await scene.hear()
    scene.clock.jump(LATE + 1)
    assert await scene.look() == []
    assert scene.recoverer.pause == SETTINGS.look_every


async def test_an_attempt_that_is_not_the_latest_is_no_orphan(scene: _Scene) -> None:
    await scene.executing()
    await build.apply(scene.catalog, build.outcomes(build.outcome(R1, "returned")))
    scene.clock.jump(10 * SILENT)
    assert [each for each in await scene.look() if isinstance(each, Orphan)] == []


# -- invocations ----------------------------------------------------------------------------------

VANISHED_AFTER = SETTINGS.vanished_after + 0.1
LONG = 30


def _vanished(*runs: str) -> set[Vanished]:
    return {Vanished(run=run, attempt=1) for run in runs}


async def test_invocations_of_a_queue_that_was_purged_have_vanished(scene: _Scene) -> None:
    await scene.submit(R1, R2)
    scene.clock.jump(VANISHED_AFTER)
    found = await scene.looks(LONG)
    assert set(found) == _vanished(R1, R2)


async def test_invocations_of_a_queue_that_was_deleted_have_vanished(scene: _Scene) -> None:
    await scene.submit(R1)
    await scene.put("p:flow:1", 1)
    await scene.transport.delete("p:flow:1")
    scene.clock.jump(VANISHED_AFTER)
    assert set(await scene.looks(LONG)) == _vanished(R1)


async def test_nothing_has_vanished_while_its_message_is_ready(scene: _Scene) -> None:
    await scene.submit(R1, R2)
    await scene.put("p:flow:1", 2)
    scene.clock.jump(VANISHED_AFTER)
    assert await scene.looks(LONG) == []


async def test_a_message_may_stand_for_as_many_runs_as_share_one(scene: _Scene) -> None:
    await scene.submit(R1, R2, R3)
    await scene.put("p:flow:1", 1)
    [flow] = await scene.catalog.definitions(names=["flow"])
    await scene.catalog.let_share([flow.id], most=2)
    scene.clock.jump(VANISHED_AFTER)
    assert set(await scene.looks(LONG)) == _vanished(R1, R2, R3)
    await scene.catalog.let_share([flow.id], most=3)
    assert await scene.looks(LONG) == []


async def test_what_others_overtook_in_a_queue_has_vanished(scene: _Scene) -> None:
    """Where runs share messages, those that are there might hold it."""
    await scene.submit(R1)
    lost_at = scene.clock.now()
    scene.clock.jump(OVERTAKEN_AFTER + 1)
    await scene.submit(R2)
    await scene.put("p:flow:1", 1)
    await scene.catalog.let_share([scene.definition], most=100)
    scene.clock.jump(VANISHED_AFTER)
    assert await scene.looks(LONG) == []
    scene.recoverer.note_reached([(scene.definition, lost_at + OVERTAKEN_AFTER)])
    assert await scene.looks(LONG) == []
    scene.recoverer.note_reached([(scene.definition, lost_at + OVERTAKEN_AFTER + 1)])
    assert set(await scene.looks(LONG)) == _vanished(R1)


async def test_nothing_has_vanished_while_a_worker_holds_it(scene: _Scene) -> None:
    await scene.submit(R1, R2, R3)
    await scene.put("p:flow:1", 1)
    for _ in range(LONG):
        await scene.hear(held=2)
        assert await scene.looks(2) == []


async def test_what_a_worker_executes_and_has_not_acknowledged_is_held_for_itself(
    scene: _Scene,
) -> None:
    """Or the message of a run that executes would stand for one that vanished."""
    await scene.executing(R1)
    await scene.consume_control()
    await scene.submit(R2)
    scene.clock.jump(VANISHED_AFTER)
    found: list[object] = []
    for _ in range(LONG):
        await scene.hear(held=1)
        found += await scene.looks(1)
    assert set(found) == _vanished(R2)


async def test_what_a_worker_leased_is_not_expected_in_a_queue(scene: _Scene) -> None:
    await scene.submit(R1, R2)
    await scene.put("p:flow:1", 1)
    await build.apply(scene.catalog, build.started(R1, leased=True))
    await scene.consume_control()
    scene.clock.jump(VANISHED_AFTER)
    for _ in range(LONG):
        await scene.hear(held=0)
        assert await scene.looks(1) == []


async def test_what_was_just_published_is_not_missed_yet(scene: _Scene) -> None:
    await scene.submit(R1)
    assert await scene.looks(SETTINGS.vanished_after) == []


async def test_what_a_worker_takes_between_two_heartbeats_has_not_vanished(scene: _Scene) -> None:
    """It tells what it holds every five seconds: until then the queue seems to be short."""
    await scene.submit(R1, R2)
    scene.clock.jump(VANISHED_AFTER)
    await scene.hear(held=0)
    assert await scene.looks(5) == []
    await scene.hear(held=2)
    assert await scene.looks(5) == []


async def test_messages_that_a_dead_worker_held_are_not_counted(scene: _Scene) -> None:
    await scene.submit(R1)
    await scene.hear(held=1)
    scene.let_pass(SILENT + 1)
    assert set(await scene.looks(LONG)) == _vanished(R1)


async def test_looks_are_closer_together_while_something_seems_to_be_missing(
    scene: _Scene,
) -> None:
    await scene.submit(R1)
    scene.clock.jump(VANISHED_AFTER)
    assert scene.recoverer.pause == SETTINGS.look_every
    await scene.look()
    assert scene.recoverer.pause == LOOK_AGAIN_AFTER
