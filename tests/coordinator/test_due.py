"""The service when something is due, joins, or is stuck: time by hand."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from leveret_broker import codec, topology
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import (
    Accepted,
    Control,
    Explain,
    Explanation,
    Goodbye,
    Hello,
    Invocation,
    Invocations,
    Outcomes,
    Refused,
    Registered,
    RetryPolicy,
    RunOptions,
    Stop,
    Verdict,
    Welcome,
)
from leveret_broker.transport import Transport
from leveret_coordinator.database import in_a_thread
from leveret_coordinator.service import CoordinatorService
from leveret_coordinator.statements import Connect, Connection
from tests.coordinator import build, peers
from tests.coordinator.build import control_queue
from tests.coordinator.faults import FailingConnection, RefusingTransport
from tests.worker.clocks import HandClock

ROOT, CHILD, OTHER = (build.run_id(number) for number in range(1, 4))
RETRIED = RunOptions(retry=RetryPolicy(max=3, initial=100, factor=1, cap=100, jitter=0))
QUEUE = "p:flow:1"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@asynccontextmanager
async def _serving(
    transport: Transport, catalog: Path, clock: HandClock, connect: Connect = in_a_thread
) -> AsyncGenerator[CoordinatorService, None]:
    service = CoordinatorService(
        transport, catalog, clock, peers.QUICK, connect, chance=lambda: 0.0
    )
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


@pytest.fixture
async def worker(broker: MemoryBroker) -> AsyncIterator[peers.Peer]:
    """Consumes its control queue and the definition's, and says nothing by itself."""
    async with peers.connected(broker) as transport:
        peer = peers.Peer(transport)
        await transport.declare(
            topology.DEAD,
            topology.OUTCOMES,
            control_queue("w"),
            topology.work_queue(QUEUE),
        )
        await peer.consume("control:w")
        await peer.consume(QUEUE)
        yield peer


def _invocations(worker: peers.Peer) -> list[Invocation]:
    return [
        invocation
        for delivery in worker.deliveries[QUEUE]
        for invocation in codec.decode(delivery.body, Invocations).runs
    ]


def _told(worker: peers.Peer) -> list[Control]:
    """What it was told, but for what every coordinator says first."""
    told = [codec.decode(delivery.body, Control) for delivery in worker.deliveries["control:w"]]
    return [control for control in told if not control.rejoin]


async def _fail_once(caller: peers.Caller, worker: peers.Peer) -> None:
    """A run whose first attempt failed, and that waits for its retry."""
    await caller.ask(peers.FLOW)
    await caller.request(build.submit(build.submission(ROOT, options=RETRIED)))
    await worker.until(lambda: len(_invocations(worker)) == 1)
    await worker.tell(build.outcomes(build.outcome(ROOT, "failed")))
    await _until_state(caller, ROOT, "waiting")


async def _until_state(caller: peers.Caller, run: str, state: str) -> None:
    async with asyncio.timeout(peers.PATIENCE):
        while await peers.state_of(caller, run) != state:
            await asyncio.sleep(0)


async def _pass(clock: HandClock, caller: peers.Caller, seconds: float = 1.0) -> None:
    """Time passes, and the service does what it has to do meanwhile."""
    await clock.let_pass(seconds)
    assert isinstance(await caller.ask(Hello(session="s", request="1")), Welcome)


# -- timers ---------------------------------------------------------------------------------------


async def test_a_retry_is_published_when_it_is_due_and_not_before(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    async with _serving(transport, tmp_path / "catalog", clock):
        await _fail_once(caller, worker)
        await clock.let_pass(99.0)
        assert await peers.state_of(caller, ROOT) == "waiting"
        await _let_pass_until(clock, lambda: len(_invocations(worker)) == 2)
        [first, second] = _invocations(worker)
        assert [(each.attempt, each.round, each.again) for each in (first, second)] == [
            (1, 1, False),
            (2, 2, False),
        ]
        await worker.tell(build.outcomes(build.outcome(ROOT, attempt=2)))
        await caller.until_finished(ROOT)
        assert caller.finished()[ROOT][0].state == "succeeded"


async def _let_pass_until(clock: HandClock, condition: Callable[[], bool]) -> None:
    """Time passes by and by: the catalog answers from a thread, in its own time."""
    async with asyncio.timeout(peers.PATIENCE):
        while not condition():
            await clock.let_pass(0.05)


@pytest.mark.parametrize("away", [10.0, 1000.0], ids=["due later", "due meanwhile"])
async def test_a_retry_survives_a_restart(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
    away: float,
) -> None:
    async with _serving(transport, tmp_path / "catalog", clock):
        await _fail_once(caller, worker)
    clock.jump(away)
    async with _serving(transport, tmp_path / "catalog", clock):
        await clock.let_pass(max(100.0 - away, 0.0))
        await _let_pass_until(clock, lambda: len(_invocations(worker)) == 2)
        assert _invocations(worker)[1].attempt == 2


@pytest.mark.parametrize("statement", ["timers.due_at <= :now", "min(due_at) FROM timers"])
async def test_a_timer_that_could_not_be_read_fires_when_it_can(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
    statement: str,
) -> None:
    connections: list[FailingConnection] = []

    async def connect(name: str) -> Connection:
        connections.append(FailingConnection(await in_a_thread(name)))
        return connections[0]

    async with _serving(transport, tmp_path / "catalog", clock, connect):
        await _fail_once(caller, worker)
        [connection] = connections
        connection.fails_at = statement
        clock.jump(100.0)
        async with asyncio.timeout(peers.PATIENCE):
            while connection.failures < 3:
                await clock.let_pass(0.01)
        connection.fails_at = None
        async with asyncio.timeout(peers.PATIENCE):
            while len(_invocations(worker)) < 2:
                await clock.let_pass(0.01)


# -- what is stuck --------------------------------------------------------------------------------


async def test_a_run_whose_confirmation_never_came_is_published_again(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    async with _serving(transport, tmp_path / "catalog", clock):
        await caller.ask(peers.FLOW)
        await caller.request(build.submit(build.submission(ROOT)))
        await worker.until(lambda: len(_invocations(worker)) == 1)
        await clock.let_pass(1.0)
        await _until_state(caller, ROOT, "queued")
        with sqlite3.connect(tmp_path / "catalog") as other:
            other.execute("UPDATE runs SET state = 'pending'")
        other.close()
        async with asyncio.timeout(peers.PATIENCE):
            while len(_invocations(worker)) < 2:
                await clock.let_pass(5.0)
        assert clock.now() - build.NOW > peers.QUICK.stuck_after
        assert [each.again for each in _invocations(worker)] == [False, True]


async def test_what_a_start_publishes_again_is_to_be_claimed(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    refusing = RefusingTransport(transport)
    refusing.full = {QUEUE}
    async with _serving(refusing, tmp_path / "catalog", clock):
        await caller.ask(peers.FLOW)
        asked = build.submission(ROOT, acknowledge=True)
        await caller.request(build.submit(asked))
        await caller.until(lambda: any(isinstance(reply, Accepted) for reply in caller.replies))
    async with _serving(transport, tmp_path / "catalog", clock):
        await worker.until(lambda: bool(_invocations(worker)))
    [invocation] = _invocations(worker)
    assert (invocation.attempt, invocation.again) == (1, True)


async def test_an_invocation_that_vanished_is_published_again_as_a_copy(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    async with _serving(transport, tmp_path / "catalog", clock):
        await caller.ask(peers.FLOW)
        await caller.request(build.submit(build.submission(ROOT)))
        await worker.until(lambda: len(_invocations(worker)) == 1)  # and acknowledges it, dying
        async with asyncio.timeout(peers.PATIENCE):
            while len(_invocations(worker)) < 2:
                await clock.let_pass(1.0)
        copy = _invocations(worker)[1]
        assert (copy.attempt, copy.again, copy.arguments) == (1, True, b"arguments")


# -- workers --------------------------------------------------------------------------------------


async def _join(worker: peers.Peer, definition: str, *claims: Outcomes) -> Control:
    count = len(_told(worker))
    beat = build.heartbeat(definition).model_copy(update={"nonce": f"secret {count}"})
    asked = tuple(claim for each in claims for claim in each.claims)
    await worker.tell(Outcomes(worker="w", join=beat, claims=asked))
    await worker.until(lambda: len(_told(worker)) > count)
    told = _told(worker)[-1]
    assert told.nonce == beat.nonce, "only who has read the question can answer it"
    return told


async def test_every_worker_that_joins_is_told_a_larger_generation_after_a_restart_too(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    generations: list[int | None] = []
    for _ in range(2):
        async with _serving(transport, tmp_path / "catalog", clock):
            registered = await caller.ask(peers.FLOW)
            assert isinstance(registered, Registered)
            for _ in range(2):
                joined = await _join(worker, registered.definitions[0].id)
                generations.append(joined.generation)
    numbers = [generation for generation in generations if generation is not None]
    assert len(numbers) == 4
    assert numbers == sorted(set(numbers)), "each larger than all before"


async def test_what_is_published_before_a_worker_joined_is_of_an_earlier_generation(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    async with _serving(transport, tmp_path / "catalog", clock):
        registered = await caller.ask(peers.FLOW)
        assert isinstance(registered, Registered)
        await caller.request(build.submit(build.submission(ROOT)))
        await worker.until(lambda: len(_invocations(worker)) == 1)
        joined = await _join(worker, registered.definitions[0].id)
        await caller.request(build.submit(build.submission(OTHER)))
        await worker.until(lambda: len(_invocations(worker)) == 2)
        before, after = (
            codec.decode(delivery.body, Invocations).generation
            for delivery in worker.deliveries[QUEUE]
        )
        assert joined.generation is not None
        assert before < joined.generation <= after


async def test_a_claim_is_answered_at_the_control_queue_of_its_worker_only(
    broker: MemoryBroker,
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    await caller.transport.declare(control_queue("w2"))
    await caller.consume("control:w2")
    async with _serving(transport, tmp_path / "catalog", clock):
        registered = await caller.ask(peers.FLOW)
        assert isinstance(registered, Registered)
        await caller.request(build.submit(build.submission(ROOT)))
        await worker.until(lambda: len(_invocations(worker)) == 1)
        await worker.tell(build.claim(ROOT, handed_out=False))
        await worker.until(lambda: bool(_told(worker)))
        [answer] = _told(worker)
        assert answer.verdicts == (Verdict(run=ROOT, attempt=1, granted=1),)
        assert (answer.generation, answer.stop) == (None, ())
        joined = await _join(worker, registered.definitions[0].id, build.claim(ROOT))
        assert joined.generation is not None
        assert joined.verdicts == (), "whoever has the first copy is to hear of it before"
        [stop] = [control.stop for control in _told(worker) if control.stop]
        assert stop == (Stop(run=ROOT, attempt=1),)
        granted = Verdict(run=ROOT, attempt=1, granted=2)
        began = clock.now()
        await _let_pass_until(clock, lambda: _told(worker)[-1].verdicts == (granted,))
        assert clock.now() - began >= peers.QUICK.hesitate
    assert [
        control.verdicts
        for delivery in caller.deliveries["control:w2"]
        if (control := codec.decode(delivery.body, Control)).verdicts
    ] == []


async def test_what_a_dead_worker_executed_is_given_to_the_next_one(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    async with _serving(transport, tmp_path / "catalog", clock):
        registered = await caller.ask(peers.FLOW)
        assert isinstance(registered, Registered)
        await caller.request(
            build.heartbeat(registered.definitions[0].id, worker="dead"),
            build.submit(build.submission(ROOT)),
        )
        await worker.until(lambda: len(_invocations(worker)) == 1)
        await worker.tell(build.started(ROOT, worker="dead", leased=True))
        await _until_state(caller, ROOT, "running")
        async with asyncio.timeout(peers.PATIENCE):
            while len(_invocations(worker)) < 2:
                await _pass(clock, caller)
        assert clock.now() - build.NOW <= 20.0, "nobody consumed its control queue"
        again = _invocations(worker)[1]
        assert (again.attempt, again.round, again.again) == (2, 1, False)
        [stop] = [stop for control in _told(worker) for stop in control.stop]
        assert (stop.run, stop.attempt) == (ROOT, 1)


async def test_what_a_worker_left_that_said_goodbye_is_given_to_the_next_one(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    async with _serving(transport, tmp_path / "catalog", clock):
        await caller.ask(peers.FLOW)
        await caller.request(build.heartbeat(worker="left"), build.submit(build.submission(ROOT)))
        await worker.until(lambda: len(_invocations(worker)) == 1)
        await worker.tell(build.started(ROOT, worker="left"))
        await _until_state(caller, ROOT, "running")
        await caller.request(Goodbye(worker="left"))
        async with asyncio.timeout(peers.PATIENCE):
            while len(_invocations(worker)) < 2:
                await _pass(clock, caller)
        assert clock.now() - build.NOW < 10.0, "at the next look"


# -- why ------------------------------------------------------------------------------------------


async def test_why_a_run_does_not_move_is_answered_with_what_is_in_its_queue(
    transport: MemoryTransport, caller: peers.Caller, clock: HandClock, tmp_path: Path
) -> None:
    async with _serving(transport, tmp_path / "catalog", clock):
        registered = await caller.ask(peers.FLOW)
        assert isinstance(registered, Registered)
        await caller.request(build.heartbeat(registered.definitions[0].id))
        await caller.request(build.submit(build.submission(ROOT)))
        await clock.let_pass(1.0)
        await _until_state(caller, ROOT, "queued")
        told = await caller.ask(Explain(session="s", request="why", run=ROOT))
        assert isinstance(told, Explanation)
        assert (told.request, told.state, told.chain) == ("why", "queued", (ROOT,))
        assert "with 1 invocation that no worker has taken yet" in told.text
        unknown = await caller.ask(Explain(session="s", request="why", run=OTHER))
        assert isinstance(unknown, Refused)
        assert unknown.code == "unknown-run"


async def test_a_timer_that_can_not_be_dealt_with_holds_up_nothing_and_is_tried_later(
    transport: MemoryTransport,
    caller: peers.Caller,
    worker: peers.Peer,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog"
    async with _serving(transport, path, clock):
        await caller.ask(peers.FLOW)
        await caller.request(build.submit(build.submission(ROOT), build.submission(OTHER)))
        await worker.until(lambda: len(_invocations(worker)) == 2)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE runs SET state = 'parked' WHERE id = ?", [ROOT])
        connection.execute("UPDATE runs SET state = 'waiting' WHERE id = ?", [OTHER])
        add = "INSERT INTO timers SELECT seq, ?, ? FROM runs WHERE id = ?"
        connection.execute(add, ["sleep", clock.now(), ROOT])  # no end of a parked run
        connection.execute(add, ["retry", clock.now(), OTHER])
        connection.commit()
    async with _serving(transport, path, clock):
        await _let_pass_until(clock, lambda: (OTHER, 2) in map(_attempt, _invocations(worker)))
        assert isinstance(await caller.ask(Hello(session="s", request="h")), Welcome)
    with closing(sqlite3.connect(path)) as connection:
        [(due_at,)] = connection.execute("SELECT due_at FROM timers").fetchall()
    assert due_at > clock.now() + peers.QUICK.failed_timer_after / 2


def _attempt(invocation: Invocation) -> tuple[str, int]:
    return invocation.run, invocation.attempt
