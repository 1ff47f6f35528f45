"""Requests that come late or twice: of an attempt that another has replaced, after a reconnect."""

from leveret_broker.messages import Caller, Cancel, Finished, Retried, Retry
from leveret_coordinator.records import PendingRun, Waiter
from tests.coordinator import build
from tests.coordinator.deciding import CHILD, ROOT, changed, decide, facts, needs, replies, run

CHILD_OF_ROOT = run(CHILD, "running", parent=ROOT, attempt=1)


def _cancel(attempt: int) -> Cancel:
    caller = Caller(run=CHILD, parent=ROOT, attempt=attempt)
    return Cancel(session="s", runs=(CHILD,), callers=(caller,))


def test_a_workflow_stops_what_it_called() -> None:
    given = facts(run(ROOT, "running", attempt=2), CHILD_OF_ROOT, below=((CHILD, CHILD_OF_ROOT),))
    assert changed(decide(given, _cancel(2)))[CHILD].state == "cancelled"


def test_an_attempt_that_was_replaced_stops_nothing_that_the_next_one_goes_on_with() -> None:
    given = facts(run(ROOT, "running", attempt=3), CHILD_OF_ROOT, below=((CHILD, CHILD_OF_ROOT),))
    decision = decide(given, _cancel(2))
    assert not decision.changed
    assert not decision.stops


def test_a_workflow_that_has_ended_still_stops_what_its_last_attempt_had_called() -> None:
    given = facts(run(ROOT, "failed", attempt=2), CHILD_OF_ROOT, below=((CHILD, CHILD_OF_ROOT),))
    assert changed(decide(given, _cancel(2)))[CHILD].state == "cancelled"


def test_a_retry_that_is_asked_for_again_is_answered_as_it_was() -> None:
    retry = Retry(session="s", request="r", run=ROOT)
    first = decide(facts(run(ROOT, "failed", attempt=2)), retry)
    opened = changed(first)[ROOT]
    told = Retried(request="r", run=ROOT, attempt=3, definition="p:flow:1")
    assert replies(first) == [told]
    again = decide(facts(opened), retry)
    assert replies(again) == [told]
    assert not again.writes


def test_another_retry_of_a_run_that_was_just_retried_is_refused() -> None:
    first = decide(facts(run(ROOT, "failed")), Retry(session="s", request="r", run=ROOT))
    other = decide(facts(changed(first)[ROOT]), Retry(session="s", request="r2", run=ROOT))
    [refused] = replies(other)
    assert refused.type == "refused"
    assert not other.writes


def test_the_caller_of_a_cancellation_is_looked_up() -> None:
    assert ROOT in needs(_cancel(1)).runs


def test_a_child_that_its_workflow_stopped_is_told_with_the_attempt_that_did() -> None:
    given = facts(
        run(ROOT, "running", attempt=2),
        CHILD_OF_ROOT,
        below=((CHILD, CHILD_OF_ROOT),),
        waiters=(Waiter(run=CHILD, session="s"),),
    )
    decision = decide(given, _cancel(2))
    assert changed(decision)[CHILD].stopped_by == 2
    assert replies(decision) == [Finished(run=CHILD, state="cancelled", stopped_by=2)]


def test_what_others_stop_is_told_without() -> None:
    given = facts(CHILD_OF_ROOT, below=((CHILD, CHILD_OF_ROOT),))
    decision = decide(given, Cancel(session="s", request="c", runs=(CHILD,)))
    assert changed(decision)[CHILD].stopped_by is None


def test_a_run_whose_worker_was_lost_is_to_be_claimed_by_the_next() -> None:
    lost = build.outcomes(build.outcome(ROOT, "lost"))
    decision = decide(facts(run(ROOT, "running")), lost)
    pending = PendingRun(run=changed(decision)[ROOT], queue="p:flow:1", arguments=b"")
    assert pending.as_message().claim
    assert not PendingRun(run=run(ROOT), queue="p:flow:1", arguments=b"").as_message().claim
