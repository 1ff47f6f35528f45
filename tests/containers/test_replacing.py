"""Workers come and go while there is work: more of them, other code, other projects."""

import asyncio

from tests.acceptance.apps import load
from tests.acceptance.durable import becomes
from tests.containers.site import Site
from tests.containers.test_images import LOAD

FIRST, SECOND = "tests.containers.apps.survey_1", "tests.containers.apps.survey_2"
OLD = ["0 by the first", "1 by the first"]
NEW = ["upgraded", "0 by the second", "1 by the second"]


async def test_a_worker_that_joins_takes_its_share(site: Site, apps: str) -> None:
    site.coordinator()
    first = site.worker(apps, LOAD, "--slots", "2")
    async with site.client() as client:
        runs = [await client.start(load.carry(number)) for number in range(12)]
        await becomes(lambda: len(site.lines("start")) == 2, "the first is full")
        second = site.worker(apps, LOAD, "--slots", "2")
        await becomes(lambda: len(site.lines("start")) == 4, "the second is full")
        site.let_pass()
        assert await asyncio.gather(*[run.result() for run in runs]) == list(range(12))
        rows = [(await client.show(run.id))[0] for run in runs]
    assert {row.host for row in rows} == {first.host, second.host}
    assert set(site.counts("start").values()) == {1}


async def test_docker_stop_drains_and_nothing_is_lost_or_done_twice(site: Site, apps: str) -> None:
    """What it executes may end; what waits goes to another."""
    site.coordinator()
    first = site.worker(apps, LOAD, "--slots", "2", "--processes", "1")
    async with site.client() as client:
        calls = [load.carry(0), load.carry_in_a_process(1), *map(load.carry, range(2, 8))]
        runs = [await client.start(call) for call in calls]
        await becomes(lambda: len(site.lines("start")) == 2, "it is full")
        stopping = asyncio.create_task(asyncio.to_thread(first.stop))
        await becomes(lambda: "worker stops" in first.text(), "it drains")
        site.let_pass(2, load.ROLL)
        assert await stopping == 0, first.text()
        assert len(site.lines("end")) == 2
        second = site.worker(apps, LOAD)
        site.let_pass()
        assert await asyncio.gather(*[run.result() for run in runs]) == list(range(8))
        assert [worker.host for worker in await client.workers()] == [second.host]
    assert set(site.counts("start").values()) == {1}


async def test_an_upgrade_leaves_runs_under_way_with_their_code(site: Site, apps: str) -> None:
    """A second version of a task and a second revision of its workflow, one worker at a time."""
    site.coordinator()
    old = [site.starting_worker(apps, FIRST) for _ in range(2)]
    for worker in old:
        worker.ready("worker ready")
    async with site.client() as client:
        before = await client.start("survey", count=2)
        await becomes(lambda: len(site.lines("start", None)) == 2, "its tasks execute")
        site.worker(apps, SECOND)
        during = await client.start("survey", count=2)
        site.let_pass(root=during.id)
        assert await during.result() == NEW
        drained = asyncio.create_task(asyncio.to_thread(old[0].stop))
        await becomes(lambda: "worker stops" in old[0].text(), "the first of the old drains")
        site.let_pass(root=before.id)
        assert await before.result() == OLD
        assert await drained == 0, old[0].text()
        assert await asyncio.to_thread(old[1].stop) == 0, old[1].text()
        site.let_pass()
        after = await client.start("survey", count=2)
        assert await after.result() == NEW
        definitions = [(await client.show(run.id))[0].definition for run in (before, during, after)]
    assert definitions == ["default:survey:1", "default:survey:2", "default:survey:2"]


async def test_two_projects_have_their_own_code_under_the_same_names(site: Site, apps: str) -> None:
    site.coordinator()
    workers = {
        "vision": site.starting_worker(apps, FIRST, LEVERET_PROJECT="vision"),
        "sound": site.starting_worker(apps, SECOND, LEVERET_PROJECT="sound"),
    }
    for worker in workers.values():
        worker.ready("worker ready")
    site.let_pass()
    for project, expected in (("vision", OLD), ("sound", NEW)):
        async with site.client(project) as client:
            run = await client.start("survey", count=2)
            assert await run.result() == expected
            rows = await client.show(run.id)
            assert {row.host for row in rows} == {workers[project].host}
            assert {row.project for row in rows} == {project}
            (served_by,) = await client.workers()
            assert served_by.host == workers[project].host
