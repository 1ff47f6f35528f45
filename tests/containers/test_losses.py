"""Containers are killed, cut off and restarted: what was accepted ends, and ends once."""

import asyncio
import signal
from collections.abc import Sequence

import pytest

from leveret import Run
from leveret.client import Client
from tests.acceptance.apps import load, tasks
from tests.acceptance.durable import TASKS, becomes, reaches
from tests.containers.engine import docker
from tests.containers.site import Site
from tests.containers.test_images import LOAD

COUNT = 12


@pytest.fixture
def site(site: Site) -> Site:
    site.settings |= {"LEVERET_WORKER_GONE_AFTER": "1", "LEVERET_LEASE_AFTER": "1"}
    return site


async def started(client: Client, site: Site) -> Sequence[Run[int]]:
    """Runs of which some execute, and all wait to be let pass."""
    runs = [await client.start(load.relay(number)) for number in range(COUNT)]
    await becomes(lambda: site.lines("start"), "some execute")
    return runs


async def ended(site: Site, runs: Sequence[Run[int]]) -> None:
    """Let all pass, and wait for what they end with."""
    site.let_pass()
    assert await asyncio.gather(*[run.result() for run in runs]) == list(range(COUNT))


async def test_a_killed_workers_runs_are_executed_by_another(site: Site, apps: str) -> None:
    site.coordinator()
    first = site.worker(apps, LOAD)
    async with site.client() as client:
        runs = await started(client, site)
        await becomes(lambda: len(site.lines("start")) == COUNT, "all execute")
        first.kill()
        second = site.worker(apps, LOAD)
        await ended(site, runs)
        rows = [row for run in runs for row in await client.show(run.id)]
    assert first.exit_code == 128 + signal.SIGKILL
    assert len(rows) == 2 * COUNT
    assert {row.host for row in rows} == {second.host}
    assert set(site.counts("start").values()) == {2}
    assert set(site.counts("end").values()) == {1}


async def test_a_killed_coordinator_is_followed_by_one_on_the_same_volume(
    site: Site, apps: str
) -> None:
    first = site.coordinator()
    site.worker(apps, LOAD)
    async with site.client() as client:
        runs = await started(client, site)
        first.kill()
        site.let_pass()
        site.coordinator()
        await ended(site, runs)
    assert set(site.counts("start").values()) == {1}


async def test_a_catalog_moves_to_another_container_with_its_volume(site: Site, apps: str) -> None:
    """What ended before is known there, and what was under way goes on."""
    first = site.coordinator()
    site.worker(apps, LOAD)
    async with site.client() as client:
        site.let_pass(1, load.ROLL)
        old = await client.start(load.carry(7))
        assert await old.result() == 7
        runs = await started(client, site)
        assert first.stop() == 0, first.text()
        first.remove()
        site.coordinator()
        assert await client.run(old.id).result() == 7
        await ended(site, runs)
        listed = await client.runs(limit=100)
    assert {run.id for run in (old, *runs)} <= {row.id for row in listed}
    assert set(site.counts("start").values()) == {1}


async def test_a_restarted_rabbitmq_loses_nothing(site: Site, apps: str) -> None:
    site.coordinator()
    site.worker(apps, LOAD)
    async with site.client() as client:
        runs = await started(client, site)
        docker("restart", site.broker.id)
        site.broker.await_startup()
        await ended(site, runs)
        assert await load.carry(99) == 99


async def test_a_worker_that_was_cut_off_for_longer_than_its_lease_comes_back(
    site: Site, apps: str
) -> None:
    """Its run is given to another meanwhile. It is told so, stops, and serves again."""
    site.coordinator()
    site.url += "?heartbeat=2"
    first = site.worker(apps, TASKS)
    async with site.client() as client:
        run = await client.start(tasks.draw("leased"))
        await becomes(lambda: is_leased(client, run.id), "it is leased")
        site.cut_off(first)
        second = site.worker(apps, TASKS)
        await reaches(client, run.id, "running", attempt=2)
        site.reconnect(first)
        await becomes(lambda: site.lines("stop", run.id), "the first has stopped it")
        site.let_pass()
        assert await run.result() == 1
        (row,) = await client.show(run.id)
        assert second.stop() == 0, second.text()
        assert await tasks.draw("after") == 0
    lost, succeeded = row.attempts
    assert (lost.state, succeeded.state) == ("lost", "succeeded")
    assert (lost.host, succeeded.host) == (first.host, second.host)
    assert len(site.lines("end", run.id)) == 1


async def is_leased(client: Client, run: str) -> bool:
    attempts = (await client.show(run))[0].attempts
    return bool(attempts) and attempts[-1].leased_at is not None
