"""Steps, sleeps, keys and retries in whole programs: embedded, and closed and opened again."""

import asyncio
import datetime as dt
from collections.abc import AsyncGenerator
from pathlib import Path
from uuid import UUID

import pytest

import leveret
from leveret import Retry, define
from leveret.client import Client
from tests.integration.conftest import until

PATIENCE = 60.0
"""Seconds after which a test gives up waiting."""


class Unripe(Exception):
    pass


def note(ledger: Path, line: str) -> str:
    """Write a line, so that a test sees how often something was done."""
    with ledger.open("a") as file:
        file.write(f"{line}\n")
    return line


def fails_at_first(ledger: Path, line: str, times: int) -> int:
    """Fail so many times, and return how often it was called."""
    note(ledger, line)
    called = lines(ledger).count(line)
    if called <= times:
        raise Unripe(f"call {called}")
    return called


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


@define.task
async def noted(ledger: Path, line: str) -> str:
    return note(ledger, line)


@define.workflow
async def all_kinds() -> tuple[dt.datetime, UUID, float, int]:
    now, uuid, random = await asyncio.gather(leveret.now(), leveret.uuid(), leveret.random())
    return now, uuid, random, await leveret.step(abs, -3)


@define.workflow(retries=Retry(3, initial=0))
async def fails_after_its_steps(ledger: Path) -> tuple[list[str], list[UUID]]:
    done = await asyncio.gather(*[leveret.step(note, ledger, "step") for _ in range(50)])
    done.append(await noted(ledger, "task"))
    uuids = [await leveret.uuid() for _ in range(3)]
    note(ledger, " ".join(map(str, uuids)))
    await leveret.sleep(0)
    await leveret.step(fails_at_first, ledger, "flaky", 2)
    return done, uuids


@define.workflow
async def survives_a_step(ledger: Path) -> str:
    try:
        await leveret.step(fails_at_first, ledger, "once", 1)
    except Unripe as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


@define.workflow
async def sleeps(ledger: Path, seconds: float) -> str:
    started = await leveret.now()
    await leveret.step(note, ledger, "before")
    note(ledger, "executed")
    await leveret.sleep(seconds)
    await leveret.step(note, ledger, "after")
    assert await leveret.now() - started >= dt.timedelta(seconds=seconds)
    return "awake"


@define.workflow
async def naps(seconds: float) -> str:
    try:
        async with asyncio.timeout(0.2):
            await leveret.sleep(seconds)
    except TimeoutError:
        return "too long"
    return "awake"


@define.workflow
async def keyed_calls(ledger: Path) -> list[str]:
    first = noted.options(key="one")
    together = await asyncio.gather(first(ledger, "keyed"), first(ledger, "keyed"))
    return [*together, await first(ledger, "keyed")]


@define.workflow
async def conflicting_calls(ledger: Path) -> str:
    await noted.options(key="one")(ledger, "a")
    return await noted.options(key="one")(ledger, "b")


@define.task
async def flaky(ledger: Path, times: int) -> int:
    return fails_at_first(ledger, "flaky task", times)


@define.task
async def endless() -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def client() -> AsyncGenerator[Client]:
    async with leveret.local(project="vision") as client:
        yield client


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


async def test_steps_return_what_they_recorded(client: Client) -> None:
    run = await client.start(all_kinds())
    now, uuid, random, three = await run.result()
    assert abs(dt.datetime.now(dt.UTC) - now) < dt.timedelta(minutes=5)
    assert (uuid.version, three) == (4, 3)
    assert 0 <= random < 1
    rows = await run.show()
    assert sorted(row.asked_for for row in rows[1:]) == [
        "builtins.abs",
        "leveret.now",
        "leveret.random",
        "leveret.uuid",
    ]
    assert {(row.kind, row.state) for row in rows[1:]} == {("step", "succeeded")}


async def test_a_workflow_that_is_retried_does_no_step_again_but_the_one_that_failed(
    client: Client, ledger: Path
) -> None:
    async with asyncio.timeout(PATIENCE):
        done, uuids = await fails_after_its_steps(ledger)
    assert done == ["step"] * 50 + ["task"]
    written = lines(ledger)
    assert (written.count("step"), written.count("task")) == (50, 1)
    assert written.count("flaky") == 3
    assert written.count(" ".join(map(str, uuids))) == 3


async def test_an_exception_of_a_step_is_caught_as_its_own_type(
    client: Client, ledger: Path
) -> None:
    assert await survives_a_step(ledger) == "Unripe: call 1"


async def test_a_sleep_outlives_the_process_that_began_it(tmp_path: Path, ledger: Path) -> None:
    state = tmp_path / "state"
    async with leveret.local(project="vision", state=state) as client:
        run = (await client.start(sleeps(ledger, 1.5))).id
        await until(lambda: "executed" in lines(ledger))
    async with leveret.local(project="vision", state=state) as client, asyncio.timeout(PATIENCE):
        assert await client.run(run).result() == "awake"
    written = lines(ledger)
    assert (written.count("before"), written.count("after")) == (1, 1)
    assert written.count("executed") == 2


async def test_a_sleep_that_takes_too_long_is_cancelled(client: Client) -> None:
    run = await client.start(naps(3600))
    assert await run.result() == "too long"

    async def state() -> str:
        return (await run.show())[1].state

    async with asyncio.timeout(PATIENCE):
        while await state() != "cancelled":
            await asyncio.sleep(0.01)


async def test_a_key_within_a_workflow_is_one_run(client: Client, ledger: Path) -> None:
    run = await client.start(keyed_calls(ledger))
    assert await run.result() == ["keyed"] * 3
    assert lines(ledger) == ["keyed"]
    rows = await run.show()
    assert [row.key for row in rows] == [None, "one"]


async def test_a_key_with_other_arguments_fails_the_workflow(client: Client, ledger: Path) -> None:
    with pytest.raises(leveret.KeyConflictError, match=r"'one' of noted:0 .*'a'.*'b'"):
        await conflicting_calls(ledger)


async def test_a_root_run_with_a_key_is_started_once(client: Client, ledger: Path) -> None:
    keyed = noted.options(key="order 17")
    assert await keyed(ledger, "a") == "a"
    run = await client.start(keyed(ledger, "a"))
    assert await run.result() == "a"
    assert lines(ledger) == ["a"]
    with pytest.raises(leveret.KeyConflictError, match=r"order 17.*'a'.*'b'"):
        await keyed(ledger, "b")
    assert await keyed.options(key="order 18")(ledger, "b") == "b"


async def test_a_call_is_retried_as_it_asks(client: Client, ledger: Path) -> None:
    async with asyncio.timeout(PATIENCE):
        assert await flaky.options(retries=2, backoff=0.01)(ledger, 2) == 3
    with pytest.raises(Unripe):
        await flaky.options(retries=5, backoff=0.01, retry_on=OSError)(ledger, 4)
    assert len(lines(ledger)) == 4


async def test_a_call_ends_when_its_time_is_over(client: Client) -> None:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(leveret.RunTimeout, match="timeout"):
            await endless.options(timeout=0.2)()
        with pytest.raises(leveret.RunTimeout, match="total"):
            await endless.options(total_timeout=0.2)()
