"""Looking into runs, stopping them and repeating them, by client and by command, on a cluster."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

import leveret
from leveret import define
from leveret.client import Client
from leveret.errors import (
    IdentificationError,
    KeyConflictError,
    RunCancelled,
    RunStateError,
)
from tests.cluster import Cluster
from tests.integration.conftest import key_text

pytestmark = pytest.mark.rabbitmq

PROJECT = "ops"
PARKING = leveret.Retry(1, initial=0, jitter=0, then="park")
NOWHERE = "run_00000000000000000000000000"


@define.task
async def count(path: str) -> int:
    """How often it was executed, itself included."""
    before = Path(path).read_text() if Path(path).exists() else ""
    Path(path).write_text(f"{before}x")
    return len(before) + 1


@define.task
async def need(path: str) -> str:
    """What the file holds; fails as long as there is none."""
    return Path(path).read_text()


@define.task(name="parking", retries=PARKING)
async def need_or_park(path: str) -> str:
    return Path(path).read_text()


@define.task(retries=leveret.Retry(5, initial=3000))
async def try_tomorrow() -> None:
    raise ValueError("not today")


@define.task
async def wait_for_ever(started: str) -> None:
    Path(started).touch()
    await asyncio.Event().wait()


@define.workflow
async def count_and_need(counted: str, needed: str) -> tuple[int, str]:
    return await count(counted), await need(needed)


@define.workflow
async def wait_below(started: str) -> None:
    await wait_for_ever(started)


@define.workflow(name="moved", revision=1)
async def moved_1(counted: str) -> str:
    return f"old {await count(counted)}, {await need('nowhere')}"


@define.workflow(name="moved", revision=2)
async def moved_2(counted: str) -> str:
    return f"new {await count(counted)}"


DEFINITIONS = (
    count,
    need,
    need_or_park,
    try_tomorrow,
    wait_for_ever,
    count_and_need,
    wait_below,
    moved_1,
    moved_2,
)


class Site:
    def __init__(self, url: str, client: Client, folder: Path) -> None:
        self.url = url
        self.client = client
        self.folder = folder

    async def leveret(self, *command: str, project: str = PROJECT) -> tuple[int, str, str]:
        """Exit code, output and errors of a command, while this process serves the cluster."""
        kept = {name: value for name, value in os.environ.items() if "LEVERET" not in name}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "leveret", *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**kept, "LEVERET_URL": self.url, "LEVERET_PROJECT": project},
        )
        output, errors = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in errors
        return process.returncode, output.decode(), errors.decode()

    async def json(self, *command: str) -> Any:
        code, output, errors = await self.leveret(*command, "--json")
        assert code == 0, errors
        return json.loads(output)

    async def until_state(self, run: str, state: str) -> None:
        async with asyncio.timeout(20):
            while (await self.client.show(run))[0].state != state:
                await asyncio.sleep(0.01)

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture
async def site(rabbit_vhost_url: str, tmp_path: Path) -> AsyncGenerator[Site]:
    url = rabbit_vhost_url
    cluster = Cluster(url, DEFINITIONS, project=PROJECT, processes=1)
    async with cluster, leveret.connect(url, project=PROJECT, key=key_text()) as client:
        yield Site(url, client, tmp_path)


# -- retrying -------------------------------------------------------------------------------------


async def test_a_retried_run_keeps_what_had_succeeded_below_it(site: Site) -> None:
    counted, needed = site.file("counted"), site.file("needed")
    run = await site.client.start(count_and_need(counted, needed))
    with pytest.raises(FileNotFoundError):
        await run.result()
    Path(needed).write_text("there")
    begun = await run.retry()
    assert (begun.run, begun.definition) == (run.id, f"{PROJECT}:count_and_need:1")
    assert begun.attempt == 2
    assert await run.result() == (1, "there")


async def test_another_process_awaits_the_end_after_the_retry(site: Site) -> None:
    needed = site.file("needed")
    run = await site.client.start(need(needed))
    with pytest.raises(FileNotFoundError):
        await run.result()
    Path(needed).write_text("there")
    again = await site.client.retry(run.id)
    assert await again.result() == "there"


async def test_retry_prints_the_attempt_that_began(site: Site) -> None:
    needed = site.file("needed")
    run = await site.client.start(need(needed))
    with pytest.raises(FileNotFoundError):
        await run.result()
    document = await site.json("runs", "retry", run.id)
    assert document == {"run": run.id, "attempt": 2, "definition": f"{PROJECT}:need:0"}
    await site.until_state(run.id, "failed")
    _, printed, _ = await site.leveret("runs", "retry", run.id)
    assert printed == f"{run.id}: attempt 3, by {PROJECT}:need:0\n"


async def test_what_succeeded_or_still_runs_is_not_retried(site: Site) -> None:
    done = await site.client.start(count(site.file("counted")))
    await done.result()
    started = site.file("started")
    busy = await site.client.start(wait_for_ever(started))
    await site.until_state(busy.id, "running")
    for run in (done, busy):
        with pytest.raises(RunStateError, match=run.id):
            await run.retry()
        code, printed, told = await site.leveret("runs", "retry", run.id)
        assert (code, printed) == (2, "")
        assert run.id in told
    assert await done.result() == 1


async def test_a_run_is_moved_to_another_revision_and_keeps_equal_calls(site: Site) -> None:
    counted = site.file("counted")
    run = await site.client.start(f"{PROJECT}:moved:1", counted)
    with pytest.raises(FileNotFoundError):
        await run.result()
    document = await site.json("runs", "retry", run.id, "--revision", "2")
    assert document["definition"] == f"{PROJECT}:moved:2"
    assert await site.client.run(run.id).result() == "new 1"


async def test_a_revision_that_is_none_is_not_found(site: Site) -> None:
    run = await site.client.start(f"{PROJECT}:moved:1", site.file("counted"))
    with pytest.raises(FileNotFoundError):
        await run.result()
    for revision in ("7", "-1", "", "a b"):
        with pytest.raises(IdentificationError):
            await run.retry(revision=revision)
    code, _, told = await site.leveret("runs", "retry", run.id, "--revision=7")
    assert code == 3
    assert told.startswith("leveret: ")
    assert "'7'" in told
    [row, *_] = await site.client.show(run.id)
    assert (row.state, row.attempt) == ("failed", 1)


# -- parking and resuming -------------------------------------------------------------------------


async def test_a_parked_run_is_listed_explained_and_resumed(site: Site) -> None:
    needed = site.file("needed")
    run = await site.client.start(need_or_park(needed))
    waiting = asyncio.create_task(run.result())
    await site.until_state(run.id, "parked")
    [listed] = await site.json("runs", "list", "--state", "parked")
    assert (listed["id"], listed["state"]) == (run.id, "parked")
    explanation = await site.json("why", run.id)
    assert set(explanation) == {"run", "state", "text", "chain"}
    assert "parked" in explanation["text"]
    assert explanation["chain"] == [run.id]
    _, printed, _ = await site.leveret("why", run.id)
    assert printed == explanation["text"] + "\n" or "parked" in printed
    _, shown, _ = await site.leveret("runs", "show", run.id)
    assert "‖ parking:0  parked, attempt 2" in shown
    assert f"{run.id} of {PROJECT}:parking:0: parked, 2 attempts" in shown
    assert f"pid {os.getpid()}" in shown
    assert "FileNotFoundError" in shown
    assert shown.count("Traceback") == 1
    assert not waiting.done()
    Path(needed).write_text("there")
    assert (await site.json("runs", "resume", run.id))["attempt"] == 3
    assert await waiting == "there"


async def test_only_a_parked_run_is_resumed(site: Site) -> None:
    run = await site.client.start(count(site.file("counted")))
    await run.result()
    with pytest.raises(RunStateError, match="parked"):
        await site.client.resume(run.id)
    code, printed, told = await site.leveret("runs", "resume", run.id)
    assert (code, printed) == (2, "")
    assert "parked" in told


async def test_a_waiting_run_shows_when_it_goes_on(site: Site) -> None:
    run = await site.client.start(try_tomorrow())
    await site.until_state(run.id, "waiting")
    [listed] = await site.json("runs", "list", "--state", "waiting")
    assert listed["due_at"] > listed["created_at"]
    _, printed, _ = await site.leveret("runs", "list")
    assert "DUE AT" in printed
    _, shown, _ = await site.leveret("runs", "show", run.id)
    assert "◷ try_tomorrow:0  waiting until" in shown
    _, told, _ = await site.leveret("why", run.id)
    assert "not today" in told


# -- cancelling -----------------------------------------------------------------------------------


async def test_cancel_stops_a_run_and_all_below_it(site: Site) -> None:
    started = site.file("started")
    first = await site.client.start(wait_below(started))
    second = await site.client.start(try_tomorrow())
    await site.until_state(second.id, "waiting")
    async with asyncio.timeout(20):
        while not Path(started).exists():
            await asyncio.sleep(0.01)
    code, printed, _ = await site.leveret("runs", "cancel", first.id, second.id)
    assert code == 0
    assert printed.splitlines() == [
        f"{first.id} cancelled, with 1 below it",
        f"{second.id} cancelled",
    ]
    for run in (first, second):
        with pytest.raises(RunCancelled):
            await run.result()


async def test_a_run_that_has_ended_is_not_cancelled(site: Site) -> None:
    run = await site.client.start(count(site.file("counted")))
    await run.result()
    assert list(await site.client.cancel(run.id)) == []
    code, printed, told = await site.leveret("runs", "cancel", run.id, "--json")
    assert code == 2
    assert json.loads(printed) == [{"run": run.id, "state": "succeeded", "stopped": []}]
    assert f"run {run.id} was not cancelled: it had already succeeded at " in told


async def test_one_wrong_run_keeps_no_other_from_being_cancelled(site: Site) -> None:
    run = await site.client.start(try_tomorrow())
    await site.until_state(run.id, "waiting")
    code, printed, told = await site.leveret("runs", "cancel", NOWHERE, run.id)
    assert code == 3
    assert NOWHERE in told
    assert printed == f"{run.id} cancelled\n"


# -- runs that are not there ----------------------------------------------------------------------


@pytest.mark.parametrize("command", [["runs", "cancel"], ["runs", "retry"], ["why"]])
async def test_unknown_and_foreign_runs_are_not_found(site: Site, command: list[str]) -> None:
    foreign = (await site.client.start(try_tomorrow())).id
    await site.until_state(foreign, "waiting")
    for run, project, part in ((NOWHERE, PROJECT, "catalog"), (foreign, "other", "'other'")):
        code, printed, told = await site.leveret(*command, run, project=project)
        assert (code, printed) == (3, "")
        assert run in told
        assert part in told
    assert (await site.client.show(foreign))[0].state == "waiting"


async def test_clients_are_refused_the_same(site: Site) -> None:
    mine = await site.client.start(try_tomorrow())
    await site.until_state(mine.id, "waiting")
    async with leveret.connect(site.url, project="other") as client:
        for run in (client.run(NOWHERE), client.run(mine.id)):
            for asked in (run.cancel, run.retry, run.resume, run.explain):
                with pytest.raises(IdentificationError, match=run.id):
                    await asked()


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [True, False], ids=["by this process", "by another"])
async def test_a_key_with_other_arguments_names_the_key_the_run_and_both(
    site: Site, held: bool
) -> None:
    by_key = need_or_park.options(key="nightly")
    first = await site.client.start(by_key(site.file("one")))
    await site.until_state(first.id, "parked")
    client = site.client
    other = leveret.connect(site.url, project=PROJECT, key=key_text())
    async with other:
        if not held:
            client = other
        with pytest.raises(KeyConflictError) as caught:
            await (await client.start(by_key(site.file("two")))).result()
        told = str(caught.value)
        for part in ("'nightly'", first.id, site.file("one"), site.file("two")):
            assert part in told
        again = await client.start(by_key(site.file("one")))
    assert again.id == first.id


async def test_a_key_conflict_without_the_key_of_payloads_says_so(site: Site) -> None:
    by_key = need_or_park.options(key="nightly")
    await site.client.start(by_key(site.file("one")))
    wrong = leveret.connect(site.url, project=PROJECT, key="A" * 43)
    async with wrong:
        with pytest.raises(KeyConflictError, match="arguments that can't be shown"):
            await (await wrong.start(by_key(site.file("two")))).result()


async def test_the_explanation_leads_to_the_run_that_holds_it_up(site: Site) -> None:
    run = await site.client.start(wait_below(site.file("started")))
    await site.until_state(run.id, "running")
    async with asyncio.timeout(20):
        while len(await site.client.show(run.id)) < 2:
            await asyncio.sleep(0.01)
    explanation = await run.explain()
    child = (await site.client.show(run.id))[1].id
    assert explanation.chain == (run.id, child)
