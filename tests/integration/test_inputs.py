"""Calls as arguments of calls, in one process and on RabbitMQ alike."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

import leveret
from leveret import result_of
from leveret.client import Client
from leveret_broker.messages import RunRow
from tests.integration import behaviours as on
from tests.integration.conftest import until

LARGE = 200_000
"""Bytes, of which a few are too many for an invocation."""


async def _runs(client: Client) -> dict[str, RunRow]:
    return {row.id: row for row in await client.runs(limit=200)}


async def test_a_process_a_thread_and_a_loop_get_results_in_place_of_calls(client: Client) -> None:
    assert await on.echo([on.add(1), on.add(2)]) == [2, 3]
    assert await on.double(result_of(on.add(20))) == 42
    assert await on.add(result_of(on.add(1)), b=result_of(on.double(2))) == 6
    counted = Counter(row.definition for row in (await _runs(client)).values())
    assert counted == {"vision:add:0": 5, "vision:echo:0": 1, "vision:double:2.0": 2}


async def test_results_are_put_into_every_container(client: Client) -> None:
    given: Any = {"list": [on.add(1)], "tuple": (on.add(2), {on.add(3)}), "plain": 1}
    assert await on.echo(given) == {"list": [2], "tuple": (3, {4}), "plain": 1}


async def test_a_workflow_and_a_script_pass_results_on(client: Client) -> None:
    assert await on.diamond(5) == [[6, 7], 5]
    assert (
        await on.sum_of([result_of(on.add(1)), result_of(on.sum_of([result_of(on.add(2))]))]) == 5
    )
    children = [row for row in (await _runs(client)).values() if row.parent is not None]
    assert Counter(row.definition for row in children)["vision:add:0"] == 3 + 2 + 1


async def test_large_results_are_fetched_by_the_worker(client: Client) -> None:
    parts = [on.echo(bytes([number]) * LARGE) for number in range(30)]
    got = cast("list[bytes]", await on.echo(parts))
    assert [(part[0], len(part)) for part in got] == [(number, LARGE) for number in range(30)]


async def test_inputs_are_submitted_once_whoever_awaits_them(client: Client) -> None:
    one: Any = on.add(1)
    assert await leveret.gather([on.echo([one, 0]), on.echo([one, 1]), one]) == [[2, 0], [2, 1], 2]
    other: Any = on.add(5)
    assert await other == 6
    assert await on.echo([other]) == [6]
    third: Any = on.add(7)
    assert await on.echo([third]) == [8]
    assert await third == 8
    adds = [row for row in (await _runs(client)).values() if row.definition == "vision:add:0"]
    assert len(adds) == 3


async def test_gather_and_map_take_calls_with_calls(client: Client) -> None:
    calls: list[Any] = [on.add(number) for number in range(5)]
    assert [each async for each in leveret.map(on.echo, calls, limit=2)] == [1, 2, 3, 4, 5]
    assert await asyncio.gather(*[on.double(result_of(on.add(n))) for n in range(3)]) == [2, 4, 6]


async def test_a_started_run_gets_its_inputs(client: Client) -> None:
    run = await client.start(on.echo([on.add(1), on.add(2)]))
    assert await run.result() == [2, 3]
    named = await client.start("echo", [on.add(3)])
    assert await named.result() == [4]


async def test_a_keyed_call_asks_for_its_inputs_once(client: Client) -> None:
    for _ in range(2):
        assert await on.echo.options(key="k")([on.add(1), on.add(1)]) == [2, 2]
    assert len(await _runs(client)) == 3
    with pytest.raises(leveret.KeyConflictError, match=r"asked for with \(\[<result of run_"):
        await on.echo.options(key="k")([on.add(1), on.add(2)])


async def test_a_failed_input_fails_the_call_and_is_its_cause(client: Client) -> None:
    with pytest.raises(leveret.InputFailed) as raised:
        await on.echo([on.add(1), on.fail("no")])
    assert isinstance(raised.value.__cause__, ValueError)
    assert raised.value.__cause__.args == ("no",)
    failed = [row for row in (await _runs(client)).values() if row.definition == "vision:fail:0"]
    assert f"its input {failed[0].id} of vision:fail:0 failed: ValueError: no" in str(raised.value)
    told, cause = await on.catch_input("other")
    assert "vision:fail:0 failed: ValueError: other" in told
    assert cause == "ValueError('other')"


async def test_a_failure_comes_through_a_chain(client: Client) -> None:
    with pytest.raises(leveret.InputFailed) as raised:
        await on.echo(on.echo(on.echo(on.fail("deep"))))
    causes = [raised.value.__cause__]
    while isinstance(causes[-1], leveret.InputFailed):
        causes.append(causes[-1].__cause__)
    assert [type(cause) for cause in causes] == [leveret.InputFailed] * 2 + [ValueError]


async def test_an_input_that_is_cancelled_fails_the_call(client: Client, tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    waiting: Any = on.wait_between(str(started), str(go))
    run = await client.start(on.echo(waiting))
    await until(started.exists)
    [row] = [row for row in (await _runs(client)).values() if "wait_between" in row.definition]
    await client.cancel(row.id)
    with pytest.raises(leveret.InputFailed, match="was cancelled") as raised:
        await run.result()
    assert isinstance(raised.value.__cause__, leveret.RunCancelled)


async def test_who_leaves_a_call_stops_what_was_made_for_it(client: Client, tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    assert await on.leave_early(str(started), str(go)) == "left"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await on.echo(on.wait_between(str(started), str(go)))

    async def all_stopped() -> bool:
        runs = (await _runs(client)).values()
        states = Counter(row.state for row in runs if row.definition != "vision:leave_early:1")
        return states == {"cancelled": 4}

    async with asyncio.timeout(20):
        while not await all_stopped():
            await asyncio.sleep(0.05)


async def test_a_call_that_needs_what_is_not_deployed_is_refused(client: Client) -> None:
    @leveret.define.task
    async def nowhere() -> int:
        return 1

    if client.connection._serve is not None:  # pyright: ignore[reportPrivateUsage]
        assert await on.echo([nowhere()]) == [1]
        return
    with pytest.raises(leveret.NotDeployedError, match="its input run_"):
        await on.echo([nowhere()])


async def test_what_waits_tells_for_what(client: Client, tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    run = await client.start(on.echo([on.wait_between(str(started), str(go)), on.add(1)]))
    await until(started.exists)

    async def waits_for_one() -> bool:
        return (await run.show())[0].waits_for == 1

    async with asyncio.timeout(20):
        while not await waits_for_one():
            await asyncio.sleep(0.05)
    [row] = await run.show()
    runs = await _runs(client)
    assert [runs[made].definition for made in row.inputs] == [
        "vision:wait_between:0",
        "vision:add:0",
    ]
    told = await run.explain()
    assert f"Run {run.id} of vision:echo:0 waits for 1 of its 2 inputs, such as" in told.text
    assert told.chain == (run.id, row.inputs[0])
    go.touch()
    assert await run.result() == [None, 2]


async def test_retrying_a_run_retries_its_failed_input(client: Client, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    run = await client.start(on.echo(on.read(str(missing))))
    with pytest.raises(leveret.InputFailed) as raised:
        await run.result()
    assert isinstance(raised.value.__cause__, FileNotFoundError)
    missing.write_text("there")
    assert await (await client.retry(run.id)).result() == "there"
