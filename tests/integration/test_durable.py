"""Runs that take too long, and runs that kill their processes, embedded and on a cluster."""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

import leveret
from leveret import Call
from leveret.client import Client
from tests.cluster import Cluster
from tests.integration import limits
from tests.integration.conftest import key_text, until

PROJECT = "limits"
PATIENCE = 30.0
"""Seconds after which a limit counts as not kept at all."""


@pytest.fixture(params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
async def client(request: pytest.FixtureRequest) -> AsyncGenerator[Client]:
    if request.param == "embedded":
        async with leveret.local(project=PROJECT, processes=2) as client:
            yield client
        return
    url: str = request.getfixturevalue("rabbit_vhost_url")
    cluster = Cluster(url, limits.DEFINITIONS, project=PROJECT, processes=2)
    async with cluster, leveret.connect(url, project=PROJECT, key=key_text()) as client:
        yield client


async def timed_out(client: Client, call: Call[Any]) -> tuple[str, str]:
    """The id of a run that took too long, and what its caller is told."""
    run = await client.start(call)
    with pytest.raises(leveret.RunTimeout) as caught:
        async with asyncio.timeout(PATIENCE):
            await run.result()
    assert isinstance(caught.value, TimeoutError)
    assert run.id in str(caught.value)
    return run.id, str(caught.value)


# -- one attempt ----------------------------------------------------------------------------------


async def test_a_sync_task_over_its_timeout_is_ended_with_its_process(
    client: Client, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    _, told = await timed_out(client, limits.overrun_in_a_process(str(pid)))
    assert " its timeout of 4 s for one attempt" in told
    await until(lambda: not Path(f"/proc/{pid.read_text()}").exists())


async def test_an_async_task_over_its_timeout_is_cancelled(client: Client, tmp_path: Path) -> None:
    unwound = tmp_path / "unwound"
    _, told = await timed_out(client, limits.overrun(str(unwound)))
    assert " its timeout of 0.5 s for one attempt" in told
    assert unwound.exists()


async def test_a_workflow_over_its_timeout_stops_what_it_called(client: Client) -> None:
    run, told = await timed_out(client, limits.wait_below.options(timeout=2)())
    assert " its timeout of 2 s for one attempt" in told
    parent, child = await client.show(run)
    assert (parent.state, child.state) == ("failed", "cancelled")


async def test_a_timeout_is_retried_like_any_failure(client: Client, tmp_path: Path) -> None:
    run = await client.start(limits.slow_at_first(str(tmp_path / "tries")))
    assert await run.result() == 3
    (row,) = await client.show(run.id)
    states = [attempt.state for attempt in row.attempts]
    assert states == ["timed-out", "timed-out", "succeeded"]


async def test_a_run_whose_every_attempt_takes_too_long_fails_with_the_timeout(
    client: Client, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    run, told = await timed_out(client, limits.always_slow(str(tries)))
    assert "attempt 3" in told
    assert tries.read_text() == "xxx"
    (row,) = await client.show(run)
    assert [attempt.state for attempt in row.attempts] == ["timed-out"] * 3


# -- all of it ------------------------------------------------------------------------------------


async def test_total_timeout_ends_the_retries(client: Client) -> None:
    run, told = await timed_out(client, limits.fail_for_ever())
    assert "its total_timeout of 1 s" in told
    (row,) = await client.show(run)
    assert row.state == "failed"
    assert {attempt.state for attempt in row.attempts} <= {"failed", "timed-out"}


async def test_total_timeout_stops_the_tree(client: Client) -> None:
    run, told = await timed_out(client, limits.wait_below.options(total_timeout=2)())
    assert "its total_timeout of 2 s" in told
    parent, child = await client.show(run)
    assert (parent.state, child.state) == ("failed", "cancelled")


async def test_queue_timeout_ends_what_nobody_has_time_for(client: Client, tmp_path: Path) -> None:
    """It is never executed, though the worker gets time for it afterwards."""
    go, executed = str(tmp_path / "go"), tmp_path / "executed"
    started = [tmp_path / str(number) for number in range(2)]
    busy = [await client.start(limits.hold_a_process(str(path), go)) for path in started]
    await until(lambda: all(path.exists() for path in started))
    run, told = await timed_out(client, limits.be_quick(str(executed)))
    assert "its queue_timeout of 0.5 s" in told
    Path(go).touch()
    for one in busy:
        await one.result()
    await client.start(limits.be_quick.options(queue_timeout=None)(str(tmp_path / "last")))
    await until((tmp_path / "last").exists)
    assert not executed.exists()
    (row,) = await client.show(run)
    assert (row.state, row.started_at) == ("failed", None)


# -- lost processes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "losses", "cause"),
    [
        (limits.leave, 2, "exit code 7"),
        (limits.crash, 3, "SIGSEGV"),
        (limits.leave_at_once, 1, "exit code 7"),
    ],
    ids=["exits", "crashes", "is not tried again"],
)
async def test_a_task_that_kills_its_process_ends_as_lost_and_tells_of_each_attempt(
    client: Client, call: Any, losses: int, cause: str
) -> None:
    run = await client.start(call())
    with pytest.raises(leveret.WorkerLost) as caught:
        await run.result()
    told = str(caught.value)
    (row,) = await client.show(run.id)
    assert [attempt.state for attempt in row.attempts] == ["lost"] * losses
    assert f"lost_retries={losses - 1}" in told
    host = re.escape(socket.gethostname())
    pattern = rf"attempt (\d+) on {host} at \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC: [^;]*{cause}"
    assert re.findall(pattern, told) == [str(number + 1) for number in range(losses)]


# -- keys -----------------------------------------------------------------------------------------


async def test_calls_with_one_key_are_one_run(client: Client, tmp_path: Path) -> None:
    keyed = limits.slow_at_first.options(key="only once")
    runs = await asyncio.gather(*[client.start(keyed(str(tmp_path / "tries"))) for _ in range(5)])
    assert len({run.id for run in runs}) == 1
    assert await asyncio.gather(*[run.result() for run in runs]) == [3] * 5
    assert await keyed(str(tmp_path / "tries")) == 3
