"""Workers are replaced while there is much to do: nothing is lost, and nothing done twice."""

import asyncio
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from leveret import Call
from tests.acceptance.apps import book
from tests.acceptance.apps.load import ROLL, carry, carry_in_a_process, relay
from tests.acceptance.durable import COORDINATOR, DurableSite, becomes, reaches
from tests.acceptance.processes import Process

pytestmark = pytest.mark.rabbitmq

LOAD = "tests.acceptance.apps.load"
RUNS = 1_000
SLOTS = 32
WORKER = ("worker", LOAD, "--processes", "1")


@pytest.fixture
def site(rabbit_vhost_url: str, tmp_path: Path) -> Iterator[DurableSite]:
    site = DurableSite(rabbit_vhost_url, tmp_path)
    yield site
    site.close()


async def test_a_rolling_restart_loses_and_repeats_nothing(site: DurableSite) -> None:
    """What a worker executes when it is told to stop is let end; the rest it gives back."""
    _, *workers = site.together(COORDINATOR, WORKER, WORKER, WORKER)
    async with site.client() as client:
        runs = await asyncio.gather(*[client.start(call(number)) for number in range(RUNS)])
        passed = 0
        for old in workers:
            busy = passed + len(workers) * SLOTS
            await becomes(partial(is_taken, site, busy), "each slot of each worker is taken")
            passed = busy + 150
            drain(site, old, passed)
            site.worker(LOAD, "--processes", "1")
        assert len(site.lines("end")) < RUNS
        site.let_pass()
        results = await asyncio.gather(*[run.result() for run in runs])
    assert results == list(range(RUNS))
    assert len(site.counts("start")) == RUNS
    assert set(site.counts("start").values()) == {1}
    assert site.counts("end") == site.counts("start")


async def test_what_takes_longer_than_the_drain_is_given_to_another_worker(
    site: DurableSite,
) -> None:
    drained = (*WORKER, "--drain", "0.5", "--stop-grace", "1")
    _, first = site.together(COORDINATOR, drained)
    async with site.client() as client:
        calls = carry(1), carry_in_a_process(2), relay(3)
        runs = [await client.start(call) for call in calls]
        await becomes(lambda: taken(site) == 3, "they execute")
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        second = site.worker(LOAD)
        for run in runs[:2]:
            row = await reaches(client, run.id, "running", attempt=2)
            assert row.attempts[0].state == "returned"
        site.let_pass()
        assert [await run.result() for run in runs] == [1, 2, 3]
        trees = [await client.show(run.id) for run in runs]
    assert {row.attempts[-1].pid for rows in trees for row in rows} == {second.pid}
    assert [line.value for line in site.lines("stop")]
    assert len(site.lines("stop")) == len(site.lines("end")) == 3
    assert set(site.counts("start").values()) == {2}


def call(number: int) -> Call[int]:
    match number % 10:
        case 0:
            return relay(number)
        case 1:
            return carry_in_a_process(number)
        case _:
            return carry(number)


def taken(site: DurableSite) -> int:
    return book.taken(site.folder, ROLL)


def is_taken(site: DurableSite, count: int) -> bool:
    return taken(site) >= count


def drain(site: DurableSite, worker: Process, passed: int) -> None:
    """Tell it to stop, and only then let what it executes end, and some of the others."""
    worker.signal(signal.SIGTERM)
    worker.ready("worker stops")
    site.let_pass(passed, ROLL)
    assert worker.wait() == 0
