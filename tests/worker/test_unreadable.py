"""What a worker remembers of payloads that it could not read. Time by hand."""

import pytest

from leveret.signatures import LACKS_KEY
from leveret_broker.messages import Failure, Outcome
from leveret_worker.execution import Execution
from leveret_worker.unreadable import REMEMBERED, Unreadable
from tests.worker.bench import work
from tests.worker.clocks import HandClock
from tests.worker.sites import invocation

LACKING = f"the arguments can't be read: it was signed with the key ab, {LACKS_KEY}"


def outcome(message: str | None = None, type: str = "leveret.errors.PayloadError") -> Outcome:
    failure = None if message is None else Failure(type=type, message=message)
    return Outcome(
        run="run_1",
        attempt=1,
        state="succeeded" if failure is None else "failed",
        started_at=1.0,
        finished_at=2.0,
        failure=failure,
    )


def execution(run: str) -> Execution:
    return Execution(
        invocation=invocation(run, []), definition=work, queue="q", project="p", bundles=[]
    )


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def unreadable(clock: HandClock) -> Unreadable:
    return Unreadable(clock)


def test_a_payload_whose_key_it_lacks_is_held_against_it(unreadable: Unreadable) -> None:
    assert unreadable.problem is None
    unreadable.note(outcome(LACKING), execution("run_1"))
    assert unreadable.problem == LACKING


def test_not_once_it_has_read_another(unreadable: Unreadable) -> None:
    unreadable.note(outcome(LACKING), execution("run_1"))
    unreadable.note(outcome(), execution("run_2"))
    assert unreadable.problem is None
    unreadable.note(outcome(LACKING), execution("run_3"))
    unreadable.note(outcome("no number", type="builtins.ValueError"), execution("run_4"))
    assert unreadable.problem is None


def test_nor_for_ever(unreadable: Unreadable, clock: HandClock) -> None:
    unreadable.note(outcome(LACKING), execution("run_1"))
    clock.jump(REMEMBERED)
    assert unreadable.problem == LACKING
    clock.jump(1.0)
    assert unreadable.problem is None


def test_what_has_another_cause_is_told_and_says_nothing_of_its_key(
    unreadable: Unreadable, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable.note(outcome("the result can't be sent: too large"), execution("run_1"))
    assert unreadable.problem is None
    assert "a payload could not be read or made" in caplog.text
