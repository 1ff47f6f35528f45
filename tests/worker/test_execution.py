"""The record of an execution: its states, and what it came in."""

from typing import get_args

import pytest

from leveret_broker.messages import Invocation
from leveret_worker.execution import NEXT, RUNNING, Execution, State
from tests.worker.bench import work


def an_execution(state: State) -> Execution:
    invocation = Invocation(run="a", attempt=1, root="a", parent=None, arguments=b"")
    return Execution(
        invocation=invocation, definition=work, queue="q", project="p", bundles=[], state=state
    )


def test_every_state_says_what_may_follow() -> None:
    assert set(NEXT) == set(get_args(State))


@pytest.mark.parametrize("state", get_args(State))
def test_a_state_leads_only_where_the_table_says(state: State) -> None:
    for other in NEXT:
        execution = an_execution(state)
        if other in NEXT[state]:
            execution.become(other)
            assert execution.state == other
        else:
            with pytest.raises(AssertionError, match=f"what is {state} can't become {other}"):
                execution.become(other)


def test_what_runs_can_only_end_or_be_left_to_itself() -> None:
    for state in RUNNING:
        assert set(NEXT[state]) <= {*RUNNING, "ended", "abandoned"}
