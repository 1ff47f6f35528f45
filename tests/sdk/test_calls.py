"""A call before it is submitted: its arguments, its warnings, its place in the workflow."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

import leveret
from leveret import define, payload
from leveret.connection import Connection
from leveret.context import RunContext, entering
from leveret_broker import identifiers
from tests.sdk.keeper import keeping


@define.task
async def add(a: int, b: int = 1) -> int:
    return a + b


@define.task
async def measure(values: list[int]) -> int:
    return len(values)


@define.task
async def collect(values: dict[str, int], **named: int) -> int:
    return len(values) + len(named)


@define.task
async def apply(function: Callable[[], int]) -> int:
    return function()


def in_workflow() -> RunContext:
    return RunContext(
        run="run_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        attempt=1,
        project="p",
        kind="workflow",
        definition="p:w:1",
        root="run_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    )


def test_a_call_is_a_coroutine_to_asyncio() -> None:
    call = add(1)
    assert asyncio.iscoroutine(call)
    call.close()


def test_arguments_are_bound_at_the_call() -> None:
    for wrong in ((), (1, 2, 3)):
        with pytest.raises(TypeError, match=r"^add\(\)"):
            cast(Any, add)(*wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        cast(Any, add)(1, c=2)


def test_a_call_that_is_never_awaited_warns() -> None:
    call = add(1)
    with pytest.warns(RuntimeWarning, match="call of <task add:0> was never awaited"):
        call.__del__()
    call.close()


async def test_a_call_that_is_cancelled_before_it_began_does_not_warn() -> None:
    call = add(1)
    task = asyncio.create_task(call)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    call.__del__()


def test_a_closed_call_does_not_warn() -> None:
    call = add(1)
    call.close()
    call.__del__()


def test_arguments_are_taken_as_they_are_at_the_call() -> None:
    values = [1]
    call = measure(values)
    before = call.arguments
    values.append(2)
    assert call.arguments == before == payload.encode_arguments(([1],), {})
    call.close()


def test_equal_calls_in_a_workflow_are_counted_when_they_are_made() -> None:
    with entering(in_workflow()):
        calls = [add(1), add(2), add(1), add(1, 1)]
    assert [call.ordinal for call in calls] == [0, 0, 1, 0]
    assert calls[0].identity == calls[2].identity != calls[1].identity
    for call in calls:
        call.close()


async def test_a_call_inside_a_task_is_refused_when_awaited() -> None:
    context = in_workflow()
    context.kind = "task"
    with entering(context):
        call = add(1)
    with pytest.raises(leveret.NestedCallError, match="make p:w:1 a workflow"):
        await call


def test_a_call_shows_what_it_calls() -> None:
    call = add(1)
    assert repr(call) == "<call of <task add:0>, not submitted>"
    call.close()


# -- what a call asks for -------------------------------------------------------------------------


def test_a_child_calls_digest_is_its_identity() -> None:
    with entering(in_workflow()):
        call = add(1)
    assert call.digest == call.identity
    call.close()


def test_dicts_that_were_filled_in_another_order_make_equal_calls() -> None:
    with entering(in_workflow()):
        calls = [collect({"a": 1, "b": 2}, x=1, y=2), collect({"b": 2, "a": 1}, y=2, x=1)]
    assert calls[0].identity == calls[1].identity
    assert [call.ordinal for call in calls] == [0, 1]
    for call in calls:
        call.close()


def test_what_needs_its_own_code_has_an_identity_and_no_digest() -> None:
    with entering(in_workflow()):
        call = apply(lambda: 1)
    assert call.identity
    assert call.digest is None
    call.close()


def test_a_root_call_has_a_digest_only_if_it_has_a_key() -> None:
    plain, keyed = add(1), add.options(key="k")(1)
    assert (plain.digest, plain.identity) == (None, "")
    assert keyed.digest is not None
    for call in (plain, keyed):
        call.close()


def test_the_same_key_is_the_same_call_each_time() -> None:
    with entering(in_workflow()):
        calls = [add.options(key="k")(1), add.options(key="k")(1), add.options(key="l")(1)]
    assert [(call.identity, call.ordinal) for call in calls] == [
        ("key:k", 0),
        ("key:k", 0),
        ("key:l", 0),
    ]
    for call in calls:
        call.close()


def test_a_key_with_other_arguments_is_refused_at_the_call() -> None:
    with entering(in_workflow()):
        first = add.options(key="k")(1, b=2)
        with pytest.raises(leveret.KeyConflictError, match=r"'k' of add:0 .*\(1, 2\).*\(3, 1\)"):
            add.options(key="k")(3, 1)
        other = measure.options(key="k")([1])
    for call in (first, other):
        call.close()


async def test_a_call_submits_what_its_definition_asks_for() -> None:
    async with keeping() as keeper:
        run = keeper.workflow_run(round=3)
        with entering(run):
            call = add.options(retries=2, timeout=5, key="k")(1)
        keeper.silent = True
        await call.start()
        await keeper.until(lambda keeper: bool(keeper.submissions))
    (submission,) = keeper.submissions
    assert submission.options == add.options(retries=2, timeout=5).run_options
    assert (submission.key, submission.identity, submission.ordinal) == ("k", "key:k", 0)
    assert (submission.digest, submission.round) == (call.digest, 3)
    assert (submission.parent, submission.root, submission.recorded) == (run.run, run.root, None)


async def test_a_key_names_a_root_run_for_whoever_asks() -> None:
    async with keeping() as keeper:
        keeper.silent = True
        connection = keeper.workflow_run().connection
        started = [
            await add.options(key=key)(1).start(connection)
            for key in ("order 1", "order 1", "order 2")
        ]
        started.append(await add(1).start(connection))
        await keeper.until(lambda keeper: len(keeper.submissions) == 3)
    first, again, second, unnamed = [run.id for run in started]
    assert first == again == identifiers.keyed_run_id("p", "add:0", "order 1")
    assert len({first, second, unnamed}) == 3
    assert [one.key for one in keeper.submissions] == ["order 1", "order 2", None]
    assert [one.options for one in keeper.submissions] == [None, None, None]


async def test_a_definition_with_other_options_is_served_as_the_one_it_was_made_of() -> None:
    served: list[object] = []

    async def serve(definition: object) -> None:
        served.append(definition)

    async with keeping() as keeper:
        keeper.silent = True
        assert keeper.session is not None
        connection = Connection(keeper.session, project="p", keys=None, serve=serve)
        await add.options(retries=1).options(key="k")(1).start(connection)
    assert served == [add]
