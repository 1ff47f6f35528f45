"""What people do to runs: cancel, retry, resume, in every state."""

from typing import get_args

import pytest

from leveret_broker.messages import (
    Attach,
    Cancel,
    Cancelled,
    Finished,
    Refused,
    Retried,
    Retry,
    RunOptions,
    RunState,
)
from leveret_coordinator.facts import Facts
from leveret_coordinator.records import Run, Timer, Waiter
from leveret_coordinator.resolution import Known
from tests.coordinator import build
from tests.coordinator.deciding import (
    CHILD,
    FIT,
    FLOW,
    GRANDCHILD,
    HELD,
    OTHER,
    ROOT,
    changed,
    decide,
    ended,
    facts,
    needs,
    only,
    replies,
    run,
    stopped,
)

STATES: tuple[RunState, ...] = get_args(RunState)
FLOW_2 = build.definition(3, "p:flow:2")
STEP = build.definition(9, "p:leveret.step:1", "step")
ELSEWHERE = build.definition(4, "q:flow:3")


# -- cancellation ---------------------------------------------------------------------------------


def _tree() -> Facts:
    root, child = run(ROOT, "running", holder=HELD), run(CHILD, parent=ROOT)
    grandchild = run(GRANDCHILD, "running", parent=CHILD, attempt=3, holder=HELD)
    return facts(
        root,
        waiters=(Waiter(run=ROOT, session="s"), Waiter(run=GRANDCHILD, session="worker-s")),
        below=((ROOT, root), (ROOT, child), (ROOT, grandchild)),
    )


def test_cancelling_stops_the_run_and_all_below_it() -> None:
    decision = decide(_tree(), Cancel(session="s", request="c", runs=(ROOT,)))
    below = (ROOT, CHILD, GRANDCHILD)
    assert ended(decision) == [(run, "cancelled") for run in below]
    assert stopped(decision) == [(ROOT, 1), (CHILD, 1), (GRANDCHILD, 3)]
    assert [(attempt.run, attempt.state) for attempt in decision.attempts] == [
        (ROOT, "cancelled"),
        (GRANDCHILD, "cancelled"),
    ], "the one in between was executed by nobody yet"
    assert replies(decision) == [
        Finished(run=ROOT, state="cancelled"),
        Cancelled(request="c", runs=below),
    ]
    assert replies(decision, "worker-s") == [
        Finished(run=GRANDCHILD, state="cancelled", attempt=3, has_parent_ended=True)
    ]


def test_cancelling_twice_stops_nothing_more() -> None:
    cancel = Cancel(session="s", request="c", runs=(ROOT,))
    decision = decide(_tree(), cancel, cancel)
    assert len(ended(decision)) == len(decision.stops) == 3
    assert replies(decision)[-1] == Cancelled(request="c", runs=())


def test_cancelling_an_unknown_run_is_refused_and_stops_nothing() -> None:
    known = run(ROOT)
    given = facts(known, below=((ROOT, known),))
    decision = decide(given, Cancel(session="s", request="c", runs=(ROOT, OTHER)))
    [reply] = replies(decision)
    assert isinstance(reply, Refused)
    assert (reply.request, reply.code) == ("c", "unknown-run")
    assert OTHER in reply.message
    assert not decision.writes
    assert decision.stops == ()


def test_cancelling_an_unknown_run_without_a_request_stops_the_known_ones() -> None:
    known = run(ROOT)
    given = facts(known, below=((ROOT, known),))
    decision = decide(given, Cancel(session="s", runs=(OTHER, ROOT)))
    assert ended(decision) == [(ROOT, "cancelled")]
    assert replies(decision) == []


def test_a_cancellation_that_came_before_its_submission_counts() -> None:
    cancel = Cancel(session="s", request="c", runs=(ROOT,))
    decision = decide(facts(), cancel, build.submit(build.submission(ROOT)))
    assert decision.invocations == ()
    assert ended(decision) == [(ROOT, "cancelled")]
    assert replies(decision) == [
        Finished(run=ROOT, state="cancelled"),
        Cancelled(request="c", runs=(ROOT,)),
    ]


def test_a_run_made_below_one_that_has_ended_is_stopped_with_the_one_above() -> None:
    root, child = run(ROOT, "running", holder=HELD), run(CHILD, "succeeded", parent=ROOT)
    given = facts(root, child, below=((ROOT, root), (ROOT, child)))
    below = build.submit(build.submission(OTHER, "fit", parent=CHILD))
    decision = decide(given, below, Cancel(session="s", request="c", runs=(ROOT,)))
    assert replies(decision)[-1] == Cancelled(request="c", runs=(ROOT,))
    assert ended(decision) == [(ROOT, "cancelled"), (OTHER, "cancelled")], "it was born cancelled"
    assert stopped(decision) == [(ROOT, 1)]


def test_a_cancellation_without_a_request_is_not_answered() -> None:
    assert replies(decide(facts(), Cancel(session="s", runs=(ROOT,)))) == []


def test_the_outcome_of_a_cancelled_run_is_refused() -> None:
    cancel = Cancel(session="s", runs=(ROOT,))
    decision = decide(_tree(), cancel, build.outcomes(build.outcome(ROOT)))
    assert [late.reason for late in decision.refused] == ["the run is cancelled"]


def test_a_run_cancelled_in_the_batch_that_made_it_is_not_published() -> None:
    decision = decide(
        facts(),
        build.submit(build.submission(ROOT), build.submission(CHILD, "fit", parent=ROOT)),
        Cancel(session="s", runs=(ROOT,)),
    )
    assert len(decision.runs) == 2
    assert decision.invocations == ()
    assert decision.dispatched == ()
    assert ended(decision) == [(ROOT, "cancelled"), (CHILD, "cancelled")]
    assert [reply.type for reply in replies(decision)] == ["finished", "finished"]


@pytest.mark.parametrize("in_this_batch", [True, False])
def test_a_child_of_a_cancelled_run_is_born_cancelled(in_this_batch: bool) -> None:
    child = build.submit(build.submission(OTHER, "fit", parent=CHILD), session="worker-s")
    if in_this_batch:
        decision = decide(_tree(), Cancel(session="s", runs=(ROOT,)), child)
    else:
        decision = decide(facts(run(CHILD, "cancelled", parent=ROOT)), child)
    [new] = decision.runs
    assert (new.run.state, new.run.finished_at) == ("cancelled", build.NOW)
    assert not decision.invocations
    assert decision.waiters == (Waiter(run=OTHER, session="worker-s"),)
    assert replies(decision, "worker-s")[-1] == Finished(
        run=OTHER, state="cancelled", has_parent_ended=True
    )


@pytest.mark.parametrize("state", STATES)
def test_whatever_has_not_ended_can_be_cancelled_once(state: RunState) -> None:
    options = RunOptions(total_timeout=60)
    there = run(ROOT, state, holder=HELD if state == "running" else None, options=options)
    given = facts(there, below=((ROOT, there),))
    decision = decide(given, Cancel(session="s", request="c", runs=(ROOT,)))
    if state in ("succeeded", "failed", "cancelled"):
        assert not decision.writes
        assert replies(decision) == [Cancelled(request="c", runs=())]
        return
    assert ended(decision) == [(ROOT, "cancelled")]
    assert replies(decision) == [Cancelled(request="c", runs=(ROOT,))]
    assert decision.cleared == ((ROOT, None),), "nothing is due for it any more"
    is_told = state in ("pending", "queued", "running")
    assert stopped(decision) == ([(ROOT, 1)] if is_told else [])


@pytest.mark.parametrize("request_", [Cancel, Retry])
def test_a_run_of_another_project_is_left_alone_as_if_there_were_none(
    request_: type[Cancel | Retry],
) -> None:
    there = run(ROOT, "parked")
    given = facts(there, below=((ROOT, there),))
    if request_ is Cancel:
        message: Cancel | Retry = Cancel(session="s", request="c", runs=(ROOT,), project="q")
    else:
        message = Retry(session="s", request="c", run=ROOT, project="q")
    decision = decide(given, message)
    assert replies(decision) == replies(decide(facts(), message))
    [reply] = replies(decision)
    assert isinstance(reply, Refused)
    assert (reply.request, reply.code) == ("c", "unknown-run")
    assert f"There is no run {ROOT!r} of the project 'q'" in reply.message
    assert not decision.writes


# -- retry and resume -----------------------------------------------------------------------------


def _retry(version: str | None = None, *, resume: bool = False) -> Retry:
    return Retry(session="s", request="r", run=ROOT, version=version, resume=resume)


def _in(state: RunState, options: RunOptions | None = None) -> Facts:
    """A run that has been tried a few times, in a state."""
    there = run(
        ROOT,
        state,
        attempt=4,
        round=3,
        failures=2,
        losses=1,
        holder=HELD if state == "running" else None,
        options=options or RunOptions(),
    )
    ends = [Finished(run=ROOT, state="failed", error=b"old")] if state == "failed" else []
    return facts(there, ended=ends, known=Known(definitions=(FLOW, FLOW_2, ELSEWHERE, FIT)))


@pytest.mark.parametrize("state", ["failed", "cancelled", "parked", "waiting"])
def test_a_run_is_tried_again_at_once_with_a_later_round_and_fresh_budgets(
    state: RunState,
) -> None:
    decision = decide(_in(state), _retry())
    again = only(decision)
    assert (again.state, again.attempt, again.round) == ("pending", 5, 4)
    assert (again.failures, again.losses, again.finished_at) == (0, 0, None)
    assert decision.dispatched == (ROOT,)
    assert replies(decision) == [Retried(request="r", run=ROOT, attempt=5, definition="p:flow:1")]


@pytest.mark.parametrize("state", ["failed", "cancelled", "parked"])
def test_what_a_run_ended_with_is_forgotten_when_it_is_opened_again(state: RunState) -> None:
    decision = decide(_in(state), _retry())
    assert decision.reopened == (ROOT,)
    again = only(decision)
    assert (again.failure, again.started_at) == (None, None)


@pytest.mark.parametrize("state", ["pending", "queued", "running", "succeeded"])
def test_a_run_that_needs_no_retry_is_refused_one(state: RunState) -> None:
    decision = decide(_in(state), _retry())
    [reply] = replies(decision)
    assert isinstance(reply, Refused)
    assert (reply.request, reply.code) == ("r", "state")
    assert ("succeeded" if state == "succeeded" else f"it is {state}") in reply.message
    assert not decision.writes


@pytest.mark.parametrize("state", [state for state in STATES if state != "parked"])
def test_only_a_parked_run_can_be_resumed(state: RunState) -> None:
    decision = decide(_in(state), _retry(resume=True))
    [reply] = replies(decision)
    assert isinstance(reply, Refused)
    assert reply.code == "state"
    assert f"can't be resumed: it is {state}, and only a parked one can." in reply.message
    offers = "`leveret runs retry" in reply.message
    assert offers == (state in ("failed", "cancelled"))
    assert not decision.writes


def test_a_parked_run_is_resumed() -> None:
    decision = decide(_in("parked"), _retry(resume=True))
    assert (only(decision).state, only(decision).attempt) == ("pending", 5)
    assert [reply.type for reply in replies(decision)] == ["retried"]


def test_retrying_an_unknown_run_is_refused() -> None:
    [reply] = replies(decide(facts(), _retry()))
    assert isinstance(reply, Refused)
    assert reply.code == "unknown-run"


def test_a_step_is_not_retried_but_the_run_that_it_belongs_to() -> None:
    step = run(CHILD, "failed", definition=STEP, parent=ROOT)
    given = facts(step, known=Known(definitions=(FLOW, STEP)))
    [reply] = replies(decide(given, Retry(session="s", request="r", run=CHILD)))
    assert isinstance(reply, Refused)
    assert reply.code == "state"
    assert ROOT in reply.message


def test_the_times_of_a_run_that_is_opened_again_begin_anew() -> None:
    options = RunOptions(total_timeout=60, queue_timeout=5)
    decision = decide(_in("failed", options), _retry())
    assert set(decision.timers) == {
        Timer(run=ROOT, kind="total", due_at=build.NOW + 60),
        Timer(run=ROOT, kind="queue", due_at=build.NOW + 5),
    }


def test_a_waiting_run_that_is_retried_waits_no_more_and_keeps_its_total_time() -> None:
    decision = decide(_in("waiting", RunOptions(total_timeout=60)), _retry())
    assert decision.cleared == ((ROOT, "retry"),)
    assert decision.timers == ()


def test_a_caller_that_attaches_in_the_same_batch_hears_the_new_end_only() -> None:
    attach = Attach(session="s", runs=(ROOT,))
    decision = decide(_in("failed"), _retry(), attach)
    assert [reply.type for reply in replies(decision)] == ["retried"]
    assert decision.waiters == (Waiter(run=ROOT, session="s"),)


def test_a_run_cancelled_in_the_batch_that_retried_it_is_not_published() -> None:
    there = run(ROOT, "failed")
    given = facts(there, below=((ROOT, there),))
    decision = decide(given, _retry(), Cancel(session="s", runs=(ROOT,)))
    assert ended(decision) == [(ROOT, "cancelled")]
    assert decision.dispatched == ()


# -- other code -----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in STATES if state != "succeeded"])
def test_whatever_did_not_succeed_goes_on_with_another_revision(state: RunState) -> None:
    decision = decide(_in(state), _retry("2"))
    moved = only(decision)
    assert (moved.definition, moved.state) == (FLOW_2.id, "pending")
    assert (moved.attempt, moved.round) == (5, 4)
    assert replies(decision) == [Retried(request="r", run=ROOT, attempt=5, definition="p:flow:2")]


def test_who_executes_the_old_revision_is_stopped() -> None:
    decision = decide(_in("running"), _retry("2"))
    assert stopped(decision) == [(ROOT, 4)]
    assert [(attempt.number, attempt.state) for attempt in decision.attempts] == [(4, "returned")]


@pytest.mark.parametrize("version", ["3", "17"])
def test_a_revision_that_does_not_exist_here_is_refused_naming_those_that_do(version: str) -> None:
    decision = decide(_in("failed"), _retry(version))
    [reply] = replies(decision)
    assert isinstance(reply, Refused)
    assert reply.code == "unidentified"
    assert reply.message == (f"'flow' has no revision {version!r} in the project 'p'; it has 1, 2.")
    assert not decision.writes


def test_a_revision_that_can_not_be_one_is_refused() -> None:
    [reply] = replies(decide(_in("failed"), _retry("a b")))
    assert isinstance(reply, Refused)
    assert reply.code == "invalid"


def test_a_run_that_succeeded_is_not_moved() -> None:
    decision = decide(_in("succeeded"), _retry("2"))
    [reply] = replies(decision)
    assert isinstance(reply, Refused)
    assert reply.code == "state"
    assert not decision.writes


def test_all_versions_are_looked_up_only_for_a_run_that_is_moved() -> None:
    assert needs(_retry("2")).moved == {ROOT}
    assert needs(_retry()).moved == frozenset()


@pytest.mark.parametrize("there", [run(ROOT, "parked"), run(ROOT, "failed")])
def test_late_news_of_the_attempt_before_a_retry_are_refused(there: Run) -> None:
    decision = decide(facts(there), _retry(), build.outcomes(build.outcome(ROOT)))
    assert changed(decision)[ROOT].state == "pending"
    assert [late.reason for late in decision.refused] == ["the attempt is 2"]
