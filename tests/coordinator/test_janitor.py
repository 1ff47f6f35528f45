"""The janitor removes what nothing refers to, and never what a run still needs."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pytest

from leveret_broker import references
from leveret_broker.blocking import in_thread
from leveret_broker.memory import MemoryTransport
from leveret_broker.messages import Hello, Retry, Submission, Welcome
from leveret_broker.objects import Folder
from leveret_broker.references import Reference
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.janitor import Cleaned, Janitor
from leveret_coordinator.service import CoordinatorService
from tests.coordinator import build, peers
from tests.worker.clocks import START, HandClock

ROOT, OTHER, THIRD = (build.run_id(number) for number in range(1, 4))
GRACE = 30.0


class Store:
    """A payload store in a folder, with objects of any age."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = Folder(folder)

    def put(self, content: bytes, *, age: float = 10 * GRACE) -> bytes:
        """Store it so many seconds ago, and return what refers to it."""
        reference = Reference(digest=blake2b(content, digest_size=32).digest(), size=len(content))
        self.objects.write(reference.name, [content])
        self.age(reference.name, age)
        return references.head([self.small, reference]) + b"seal"

    small = Reference(digest=bytes(32), size=1, part=0)
    """An object that every payload refers to, and that was lost before the tests."""

    def age(self, name: str, seconds: float) -> None:
        path = self.folder / name[:2] / name
        os.utime(path, (START - seconds, START - seconds))

    @property
    def contents(self) -> set[bytes]:
        return {b"".join(map(bytes, self.objects.read(found.name))) for found in self.listed}

    @property
    def listed(self) -> list[references.Reference]:
        found = self.objects.listed()
        return [Reference(digest=bytes.fromhex(one.name), size=one.size) for one in found]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def janitor(store: Store, clock: HandClock) -> Janitor:
    return Janitor(store.folder.as_uri(), clock, lambda: None, grace=GRACE, every=10.0)


async def cleaned(janitor: Janitor, catalog: Catalog, clock: HandClock) -> None:
    """A whole round, with the coordinator answering what it asks."""
    janitor.start()
    await clock.let_pass(GRACE)
    await janitor.proceed(catalog, listening_since=START)
    assert janitor.is_cleaning
    async with asyncio.timeout(peers.PATIENCE):
        while janitor.is_cleaning:
            if janitor.is_due:
                await janitor.proceed(catalog, listening_since=START)
            await asyncio.sleep(0)
    await janitor.stop()


def submission(run: str, arguments: bytes) -> Submission:
    return build.submission(run, arguments=arguments)


# -- what is referred to --------------------------------------------------------------------------


async def test_what_a_run_refers_to_stays_and_the_rest_goes(
    catalog: Catalog, store: Store, clock: HandClock
) -> None:
    given, got, failed = store.put(b"arguments"), store.put(b"result"), store.put(b"error")
    store.put(b"nobody's")
    ended = build.outcome(OTHER, result=got)
    broken = build.outcome(THIRD, "failed").model_copy(update={"error": failed})
    await build.apply(catalog, peers.FLOW)
    await build.apply(
        catalog,
        build.submit(
            submission(ROOT, given), submission(OTHER, b"small"), submission(THIRD, b"small")
        ),
    )
    await build.apply(catalog, build.outcomes(ended, broken))

    await cleaned(janitor(store, clock), catalog, clock)

    assert store.contents == {b"arguments", b"result", b"error"}


async def test_what_two_runs_refer_to_stays_until_neither_does(
    catalog: Catalog, store: Store, clock: HandClock
) -> None:
    shared = store.put(b"shared")
    await build.apply(catalog, peers.FLOW)
    await build.apply(catalog, build.submit(submission(ROOT, b"1"), submission(OTHER, b"2")))
    broken = build.outcome(ROOT, "failed").model_copy(update={"error": shared})
    other = broken.model_copy(update={"run": OTHER})
    await build.apply(catalog, build.outcomes(broken, other))
    await build.apply(catalog, Retry(session="s", request="1", run=ROOT))
    await cleaned(janitor(store, clock), catalog, clock)
    assert store.contents == {b"shared"}

    await build.apply(catalog, Retry(session="s", request="2", run=OTHER))
    time = HandClock()
    await cleaned(janitor(store, time), catalog, time)

    assert store.contents == set()


# -- what is on its way ---------------------------------------------------------------------------


async def test_what_is_younger_than_the_grace_stays(
    catalog: Catalog, store: Store, clock: HandClock
) -> None:
    store.put(b"just stored", age=-1)  # while the grace passes in the test
    store.put(b"long ago", age=1)

    await cleaned(janitor(store, clock), catalog, clock)

    assert store.contents == {b"just stored"}


async def test_what_is_stored_again_after_it_was_found_unreferred_stays(
    catalog: Catalog, store: Store, clock: HandClock
) -> None:
    store.put(b"again")
    name = store.listed[0].name
    slow = janitor(store, clock)
    slow.start()
    await clock.let_pass(GRACE)
    await slow.proceed(catalog, listening_since=START)
    async with asyncio.timeout(peers.PATIENCE):
        while not slow.is_due:
            await asyncio.sleep(0)

    await slow.proceed(catalog, listening_since=START)  # nobody refers to it
    assert store.objects.renew(name)
    async with asyncio.timeout(peers.PATIENCE):
        while slow.is_cleaning:
            await asyncio.sleep(0)

    assert store.contents == {b"again"}
    await slow.stop()


async def test_nothing_is_removed_before_it_has_listened_for_the_grace(
    catalog: Catalog, store: Store, clock: HandClock
) -> None:
    store.put(b"its outcome waited for the broker to come back")
    waiting = janitor(store, clock)
    waiting.start()
    await clock.let_pass(GRACE)

    await waiting.proceed(catalog, listening_since=START + 1)

    assert not waiting.is_cleaning
    await waiting.stop()


# -- whose store it is ----------------------------------------------------------------------------


async def test_the_store_of_another_catalog_is_left_alone(
    catalog: Catalog, store: Store, clock: HandClock
) -> None:
    await cleaned(janitor(store, clock), catalog, clock)
    store.put(b"of the first catalog's runs")
    other, time = await Catalog.open(None), HandClock()

    await cleaned(janitor(store, time), other, time)
    await other.close()

    assert store.contents == {b"of the first catalog's runs"}


async def test_a_store_that_can_not_be_used_ends_the_round_and_nothing_else(
    catalog: Catalog, tmp_path: Path, clock: HandClock
) -> None:
    (tmp_path / "store").write_text("no folder")

    await cleaned(janitor(Store(tmp_path / "store"), clock), catalog, clock)


# -- many -----------------------------------------------------------------------------------------


async def test_a_store_of_several_pages_is_gone_through(
    catalog: Catalog, store: Store, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leveret_coordinator.janitor.PAGE", 10)
    kept = [store.put(f"kept {number}".encode()) for number in range(25)]
    for number in range(25):
        store.put(f"refuse {number}".encode())
    await build.apply(catalog, peers.FLOW)
    runs = [submission(build.run_id(100 + n), reference) for n, reference in enumerate(kept)]
    await build.apply(catalog, build.submit(*runs))

    found = await janitor(store, clock).clean_unserved(catalog)

    assert found == Cleaned(
        objects=50, removed=25, freed=sum(len(f"refuse {n}") for n in range(25))
    )
    assert store.contents == {f"kept {number}".encode() for number in range(25)}


# -- in the coordinator ---------------------------------------------------------------------------


@asynccontextmanager
async def serving(
    transport: MemoryTransport, catalog: Path, clock: HandClock, store: Store, *, at_start: bool
) -> AsyncGenerator[CoordinatorService, None]:
    settings = replace(
        peers.QUICK,
        payload_store=str(store.folder),
        payload_grace=GRACE,
        clean_every=10.0,
        cleans_at_start=at_start,
    )
    service = CoordinatorService(transport, catalog, clock, settings)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def pass_until(
    clock: HandClock, caller: peers.Caller, condition: Callable[[], bool], *, most: float
) -> float:
    """Let time pass until the condition holds. How many seconds that took."""
    passed = 0.0
    while not condition():
        assert passed < most, "it never happened"
        await clock.let_pass(1.0)
        passed += 1.0
        assert isinstance(await caller.ask(Hello(session="s", request="1")), Welcome)
        await in_thread(lambda: None)
    return passed


async def test_a_coordinator_cleans_its_store_when_it_has_listened_for_the_grace(
    transport: MemoryTransport,
    caller: peers.Caller,
    store: Store,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    given = store.put(b"arguments")
    store.put(b"nobody's")
    async with serving(transport, tmp_path / "catalog", clock, store, at_start=False):
        await caller.ask(peers.FLOW)
        await caller.ask(build.submit(build.submission(ROOT, arguments=given, acknowledge=True)))

        passed = await pass_until(clock, caller, lambda: len(store.listed) < 2, most=5 * GRACE)

    assert passed >= GRACE
    assert store.contents == {b"arguments"}


async def test_a_coordinator_that_nobody_can_have_written_to_cleans_at_its_start(
    transport: MemoryTransport, store: Store, clock: HandClock, tmp_path: Path
) -> None:
    store.put(b"left by a process that was killed", age=1)

    async with serving(transport, tmp_path / "catalog", clock, store, at_start=True):
        assert store.contents == set()


async def test_a_round_ends_with_its_coordinator(
    transport: MemoryTransport,
    caller: peers.Caller,
    store: Store,
    clock: HandClock,
    tmp_path: Path,
) -> None:
    store.put(b"nobody's")
    async with serving(transport, tmp_path / "catalog", clock, store, at_start=False):
        await pass_until(clock, caller, lambda: not store.listed, most=5 * GRACE)

    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "janitor"] == []
