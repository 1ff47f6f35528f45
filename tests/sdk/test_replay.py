"""What a workflow is told of a call that was stopped, so that it goes the same way again."""

import asyncio

import pytest

from leveret.context import RunContext
from leveret.replay import wait_if_stopped_otherwise
from leveret_broker.messages import Finished


def _caller(attempt: int = 2) -> RunContext:
    return RunContext(
        run="run_1", attempt=attempt, project="p", kind="workflow", definition="p:f:1", root="run_1"
    )


async def _is_told(end: Finished, caller: RunContext | None) -> bool:
    """Whether the end comes as an answer, in this turn of the loop."""
    waiting = asyncio.ensure_future(wait_if_stopped_otherwise(end, caller))
    for _ in range(5):
        await asyncio.sleep(0)
    is_told = waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return is_told


@pytest.mark.parametrize(
    "end",
    [
        Finished(run="run_2", state="succeeded", result=b"r", has_parent_ended=True),
        Finished(run="run_2", state="failed", has_parent_ended=True),
        Finished(run="run_2", state="cancelled"),
        Finished(run="run_2", state="cancelled", stopped_by=2),
    ],
    ids=["succeeded", "failed", "stopped by somebody", "stopped by this attempt"],
)
async def test_an_end_is_told_where_nothing_else_tells_it(end: Finished) -> None:
    assert await _is_told(end, _caller())


@pytest.mark.parametrize(
    "end",
    [
        Finished(run="run_2", state="cancelled", stopped_by=1),
        Finished(run="run_2", state="cancelled", has_parent_ended=True),
    ],
    ids=["stopped by an earlier attempt", "stopped with its workflow"],
)
async def test_what_was_stopped_with_its_caller_or_by_it_is_told_by_cancelling(
    end: Finished,
) -> None:
    assert not await _is_told(end, _caller())
    assert await _is_told(end, None), "outside of a workflow nothing is replayed"


async def test_an_await_is_told_once_this_attempt_has_stopped_the_call_as_well() -> None:
    caller = _caller()
    end = Finished(run="run_2", state="cancelled", stopped_by=1)
    waiting = asyncio.ensure_future(wait_if_stopped_otherwise(end, caller))
    assert not await _is_told(end, caller)
    caller.note_stopped("run_2")
    await asyncio.wait_for(waiting, 5)
    assert await _is_told(end, caller), "and so is who awaits it later"
