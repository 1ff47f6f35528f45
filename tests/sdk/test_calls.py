"""A call before it is submitted: its arguments, its warnings, its place in the workflow."""

import asyncio
from typing import Any, cast

import pytest

import leveret
from leveret import define, payload
from leveret.context import RunContext, entering


@define.task
async def add(a: int, b: int = 1) -> int:
    return a + b


@define.task
async def measure(values: list[int]) -> int:
    return len(values)


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


def test_a_call_as_an_argument_is_refused() -> None:
    inner = add(1)
    with pytest.raises(leveret.PayloadError, match="await"):
        cast(Any, add)(inner)
    inner.close()
