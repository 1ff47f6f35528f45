"""Whatever the SDK does, it does in one process and on RabbitMQ alike."""

import asyncio
import math
import os
import traceback
from pathlib import Path
from typing import Any, cast

import pytest

import leveret
from leveret.client import Client
from tests.integration import behaviours as on
from tests.integration.conftest import PROJECT, until

pytestmark = pytest.mark.usefixtures("client")


# -- results --------------------------------------------------------------------------------------


async def test_an_async_task_returns_its_result() -> None:
    assert await on.add(2, b=3) == 5


async def test_defaults_fill_in() -> None:
    assert await on.add(2) == 3


async def test_a_sync_task_runs_in_another_process_on_its_main_thread() -> None:
    pid, on_main_thread = await on.where()
    assert pid != os.getpid()
    assert on_main_thread


async def test_a_task_may_run_in_a_thread_instead() -> None:
    assert await on.double(21) == 42


@pytest.mark.parametrize(
    "value",
    [None, True, 2**100, 1.5, "é", b"\0", (1, (2,)), [1, [2]], {"a": {1: "b"}}, {1, 2}, 3 + 4j],
    ids=repr,
)
async def test_values_arrive_equal_and_of_equal_type(value: object) -> None:
    arrived = await on.echo(value)
    assert arrived == value
    assert type(arrived) is type(value)


async def test_classes_of_the_users_arrive_as_they_are() -> None:
    assert await on.echo(on.Bent) is on.Bent


async def test_a_workflow_awaits_what_it_calls() -> None:
    assert await on.sum_of([1, 2, 3]) == 6


async def test_equal_calls_are_calls_of_their_own() -> None:
    assert await on.equal_calls() == [2] * 20


async def test_workflows_nest() -> None:
    assert await on.nest(10) == 10


# -- errors ---------------------------------------------------------------------------------------


async def test_an_error_arrives_as_its_own_type() -> None:
    with pytest.raises(ValueError, match=r"^oh$"):
        await on.fail("oh")


async def test_an_error_has_the_traceback_from_where_it_was_raised() -> None:
    with pytest.raises(ValueError, match="oh") as caught:
        await on.fail("oh")
    shown = "".join(traceback.format_exception(caught.value))
    assert "behaviours.py" in shown
    assert "raise ValueError(message)" in shown


async def test_an_error_of_the_users_keeps_attributes_and_notes() -> None:
    with pytest.raises(on.Bent, match="bent by 90 because tests") as caught:
        await on.bend(90)
    assert (caught.value.angle, caught.value.why) == (90, "tests")
    assert caught.value.__notes__ == ["a note"]


async def test_an_error_without_arguments_arrives() -> None:
    with pytest.raises(ValueError, match=r"^$"):
        await on.raise_nothing()


async def test_a_workflow_catches_what_its_task_raised() -> None:
    assert await on.catch("oh") == "caught oh"


async def test_an_error_goes_through_a_workflow_with_both_tracebacks() -> None:
    with pytest.raises(ValueError, match="oh") as caught:
        await on.pass_on("oh")
    shown = "".join(traceback.format_exception(caught.value))
    assert "in pass_on" in shown
    assert "in fail" in shown


async def test_wrong_arguments_are_refused_at_the_call() -> None:
    with pytest.raises(TypeError, match=r"add\(\): missing a required argument: 'a'"):
        cast(Any, on.add)(b=1)


async def test_wrong_arguments_by_identifier_fail_the_run(client: Client) -> None:
    run = await client.start("add", c=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        await run.result()


async def test_an_argument_that_cannot_be_encoded_is_named() -> None:
    with pytest.raises(leveret.PayloadError, match="value"):
        await on.echo(number for number in [1])


async def test_a_result_that_cannot_be_encoded_is_the_runs_failure() -> None:
    with pytest.raises(leveret.PayloadError, match="lock"):
        await on.lock()


@pytest.mark.parametrize(
    ("how", "message"),
    [("segfault", "SIGSEGV"), ("killed", "SIGKILL"), ("exit", "exit code 7")],
)
async def test_a_dead_process_fails_its_run_and_nothing_else(how: str, message: str) -> None:
    with pytest.raises(leveret.WorkerLost, match=message):
        await on.die(how)
    assert (await on.where())[0] != os.getpid()


async def test_a_call_inside_a_task_says_what_to_do() -> None:
    with pytest.raises(leveret.NestedCallError, match="make vision:call_inside:0 a workflow"):
        await on.call_inside()


# -- cancelling -----------------------------------------------------------------------------------


async def test_cancelling_who_awaits_cancels_the_run(tmp_path: Path) -> None:
    awaiting = asyncio.create_task(on.wait_for_file(str(tmp_path / "never"), str(tmp_path / "end")))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(awaiting, 0.3)
    await until((tmp_path / "end").exists)


async def test_leaving_a_timeout_cancels_the_tree(client: Client, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await on.wait_below(str(tmp_path / "never"), str(tmp_path / "end"))
    await until((tmp_path / "end").exists)
    (root,) = await client.runs(definition="wait_below")
    await _until_states(client, root.id, {"cancelled"})


async def test_a_sync_task_is_stopped_and_its_finally_runs(tmp_path: Path) -> None:
    started, stopped = tmp_path / "started", tmp_path / "stopped"
    awaiting = asyncio.create_task(on.spin(str(started), str(stopped)))
    await until(started.exists)
    awaiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await awaiting
    await until(stopped.exists)


async def test_who_awaits_a_run_that_another_cancelled_is_told(
    client: Client, tmp_path: Path
) -> None:
    run = await client.start(on.wait_for_file(str(tmp_path / "never"), str(tmp_path / "end")))
    assert run.id in await client.cancel(run.id)
    with pytest.raises(leveret.RunCancelled, match=run.id):
        await run.result()


async def test_what_ended_is_not_cancelled(client: Client) -> None:
    run = await client.start(on.add(1))
    assert await run.result() == 2
    assert run.id not in await client.cancel(run.id)
    assert await client.run(run.id).result() == 2


async def test_what_was_cancelled_before_it_began_never_begins(
    client: Client, tmp_path: Path
) -> None:
    """All slots for processes are taken, so nothing else can begin meanwhile."""
    go = tmp_path / "go"
    holding = [
        await client.start(on.hold_a_process(str(tmp_path / str(n)), str(go))) for n in range(2)
    ]
    await until((tmp_path / "0").exists)
    await until((tmp_path / "1").exists)
    for turns in range(60):
        call = asyncio.create_task(on.leave_a_file(str(tmp_path / f"begun-{turns}")))
        for _ in range(turns % 12):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    async with asyncio.timeout(20):
        while any(row.state != "cancelled" for row in await client.runs(definition="leave_a_file")):
            await asyncio.sleep(0.02)
    go.touch()
    for run in holding:
        await run.result()
    assert await on.echo(1) == 1
    assert not list(tmp_path.glob("begun-*"))


async def test_code_that_cancels_itself_fails_its_run_and_not_who_awaits() -> None:
    with pytest.raises(leveret.RunCancelled, match="cancelled itself"):
        await on.cancel_itself()
    assert await on.add(1) == 2


async def test_code_that_exits_fails_its_run_and_nothing_else() -> None:
    with pytest.raises(SystemExit):
        await on.exit_below()
    assert await on.add(1) == 2
    assert await on.sum_of([1]) == 1


# -- calls are awaitables -------------------------------------------------------------------------


async def test_a_call_goes_wherever_a_coroutine_goes() -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(on.add(1))
    assert task.result() == 2
    assert await asyncio.wait_for(on.add(2), 10) == 3
    assert await asyncio.shield(on.add(3)) == 4
    assert sorted([await done for done in asyncio.as_completed([on.add(4), on.add(5)])]) == [5, 6]
    assert list(await asyncio.gather(on.add(6), on.add(7))) == [7, 8]


async def test_a_call_awaited_twice_gives_the_same_result(client: Client) -> None:
    call = on.where()
    first, second = await asyncio.gather(asyncio.create_task(call), asyncio.create_task(call))
    assert first == second == await call
    assert len(await client.runs(definition="where")) == 1


@pytest.mark.parametrize("count", [0, 1, 1_000])
async def test_gather_takes_none_one_and_many(count: int) -> None:
    assert await leveret.gather([on.add(n, 0) for n in range(count)]) == list(range(count))
    assert await on.sum_of(list(range(count))) == math.comb(count, 2)


async def test_map_is_bounded_and_keeps_the_order() -> None:
    assert [n async for n in leveret.map(on.double, range(30), limit=4)] == list(range(0, 60, 2))


# -- detached runs --------------------------------------------------------------------------------


async def test_a_run_is_found_again_by_its_id(client: Client) -> None:
    run = await client.start(on.sum_of([1, 2]))
    assert await client.run(run.id).result() == 3
    assert await run.result() == 3


@pytest.mark.parametrize("identifier", ["sum_of", "sum_of:1", f"{PROJECT}:sum_of:1"])
async def test_a_run_is_started_by_identifier(client: Client, identifier: str) -> None:
    await on.sum_of([])
    run = await client.start(identifier, numbers=[1, 2])
    assert await run.result() == 3


async def test_a_database_id_is_an_identifier(client: Client) -> None:
    definition = await client.resolve("add")
    assert definition.id.startswith("task_")
    assert (definition.project, definition.name, definition.version) == (PROJECT, "add", "0")
    assert definition.queue == f"{PROJECT}:add:0"
    assert await (await client.start(definition.id, 1)).result() == 2


async def test_an_unknown_identifier_offers_the_nearest(client: Client) -> None:
    with pytest.raises(leveret.IdentificationError, match="sum_of"):
        await client.start("sum_off")


async def test_several_who_wait_for_one_run_all_hear_its_end(
    client: Client, tmp_path: Path
) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    run = await client.start(on.hold_on(str(started), str(go)))
    waiting = [asyncio.ensure_future(client.run(run.id).result()) for _ in range(3)]
    await until(started.exists)
    go.touch()
    assert await asyncio.gather(*waiting, run.result()) == [None] * 4


async def test_an_unknown_run_is_an_identification_error(client: Client) -> None:
    with pytest.raises(leveret.IdentificationError, match="run_00000000000000000000000000"):
        await client.run("run_00000000000000000000000000").result()


async def test_the_tree_of_a_run_nests(client: Client) -> None:
    run = await client.start(on.nest(2))
    assert await run.result() == 2
    rows = await run.show()
    assert [row.parent for row in rows] == [None, rows[0].id, rows[1].id]
    assert {row.root for row in rows} == {run.id}
    assert {row.state for row in rows} == {"succeeded"}
    assert all(row.host and row.worker for row in rows)


async def _until_states(client: Client, run: str, states: set[str]) -> None:
    async with asyncio.timeout(20):
        while {row.state for row in await client.show(run)} != states:
            await asyncio.sleep(0.02)
