"""Runs that are asked for again: found, opened again, refused; children and keys and options."""

from dataclasses import replace

import pytest

from leveret_broker.messages import (
    Cancel,
    Finished,
    Rejected,
    RunOptions,
    RunState,
    Unserved,
)
from leveret_coordinator.records import Holder, Run, Timer, Waiter
from leveret_coordinator.resolution import Known
from tests.coordinator import build
from tests.coordinator.deciding import (
    CHILD,
    FIT,
    FLOW,
    HELD,
    ROOT,
    changed,
    decide,
    ended,
    facts,
    needs,
    replies,
    run,
)

ENDS: tuple[RunState, ...] = ("succeeded", "failed", "cancelled")
UNENDED: tuple[RunState, ...] = ("pending", "queued", "running", "waiting", "parked")


def _child(state: RunState, *, parent_round: int = 1, holder: Holder | None = None) -> Run:
    return run(
        CHILD,
        state,
        definition=FIT,
        parent=ROOT,
        attempt=2,
        round=2,
        failures=1,
        losses=1,
        parent_round=parent_round,
        holder=holder,
    )


def _parent(state: RunState = "running", *, round: int = 2) -> Run:
    return run(ROOT, state, round=round, attempt=round, holder=HELD if state == "running" else None)


def _end(state: RunState) -> tuple[Finished, ...]:
    if state == "succeeded":
        return (Finished(run=CHILD, state="succeeded", result=b"r"),)
    if state in ("failed", "cancelled"):
        return (Finished(run=CHILD, state="failed", error=b"e"),)
    return ()


ROUND_1, ROUND_2 = (
    build.submit(build.submission(CHILD, "fit", parent=ROOT, round=round)) for round in (1, 2)
)


# -- children, in rounds --------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_child_that_did_not_succeed_is_opened_again_for_a_later_round(state: RunState) -> None:
    given = facts(_parent(), _child(state), ended=_end(state))
    decision = decide(given, ROUND_2)
    child = changed(decision)[CHILD]
    assert (child.state, child.attempt, child.round, child.parent_round) == ("pending", 3, 3, 2)
    assert (child.failures, child.losses, child.finished_at) == (0, 0, None)
    assert decision.dispatched == (CHILD,)
    assert decision.reopened == (CHILD,)
    assert replies(decision) == [], "its new end is told, not the old one"
    assert decision.waiters == (Waiter(run=CHILD, session="s"),)


@pytest.mark.parametrize("state", ENDS)
def test_a_child_that_ended_is_answered_alike_within_a_round(state: RunState) -> None:
    given = facts(_parent(), _child(state, parent_round=2), ended=_end(state))
    decision = decide(given, ROUND_2)
    assert not decision.changed
    assert replies(decision) == [*_end(state)]


def test_a_child_that_succeeded_is_never_executed_again() -> None:
    given = facts(_parent(), _child("succeeded"), ended=_end("succeeded"))
    decision = decide(given, ROUND_2)
    assert not decision.changed
    assert replies(decision) == [*_end("succeeded")]


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_copy_of_an_earlier_round_opens_nothing(state: RunState) -> None:
    given = facts(_parent(), _child(state, parent_round=2), ended=_end(state))
    assert not decide(given, ROUND_1).changed


@pytest.mark.parametrize("state", UNENDED)
def test_a_child_under_way_is_attached_to_in_any_round(state: RunState) -> None:
    given = facts(_parent(), _child(state))
    decision = decide(given, ROUND_2)
    assert changed(decision)[CHILD] == replace(_child(state), parent_round=2), "its own from now on"
    assert not decision.dispatched
    assert decision.waiters == (Waiter(run=CHILD, session="s"),)
    assert replies(decision) == []


def test_a_child_is_opened_again_once_a_round() -> None:
    given = facts(_parent(), _child("failed"), ended=_end("failed"))
    decision = decide(given, ROUND_2, ROUND_2)
    assert changed(decision)[CHILD].attempt == 3
    assert decision.dispatched == (CHILD,)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_root_run_that_is_asked_for_again_is_not_opened_again(state: RunState) -> None:
    given = facts(run(ROOT, state))
    again = build.submit(build.submission(ROOT, round=7))
    assert not decide(given, again).changed


def test_a_new_child_remembers_the_round_of_its_parent() -> None:
    [new] = decide(facts(_parent()), ROUND_2).runs
    assert (new.run.round, new.run.parent_round) == (1, 2)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_child_of_a_run_that_has_ended_is_born_cancelled(state: RunState) -> None:
    decision = decide(facts(_parent(state)), ROUND_2)
    [new] = decision.runs
    assert (new.run.state, new.run.finished_at) == ("cancelled", build.NOW)
    assert decision.invocations == ()
    assert decision.timers == ()
    assert replies(decision) == [
        Finished(run=CHILD, state="cancelled", parent_round=2, has_parent_ended=True)
    ]


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_no_child_is_opened_again_below_a_run_that_has_ended(state: RunState) -> None:
    given = facts(_parent(state), _child("failed"), ended=_end("failed"))
    decision = decide(given, ROUND_2)
    assert not decision.changed
    assert replies(decision) == [*_end("failed")]


def test_an_end_that_is_told_while_the_child_is_opened_again_is_not_its_last() -> None:
    given = facts(_parent(), _child("failed"), ended=_end("failed"))
    outcome = build.outcomes(build.outcome(CHILD, attempt=3))
    decision = decide(given, ROUND_2, outcome)
    assert changed(decision)[CHILD].state == "succeeded"
    assert replies(decision) == [
        Finished(run=CHILD, state="succeeded", attempt=3, parent_round=2, result=b"result")
    ]
    assert [end.result for end in decision.ends] == [b"result"]
    assert decision.dispatched == ()


def test_who_waits_for_a_child_that_is_opened_again_is_noted_anew() -> None:
    """The confirmation of the last end may come later than this, and removes the old note."""
    waiting = Waiter(run=CHILD, session="s")
    given = facts(_parent(), _child("failed"), ended=_end("failed"), waiters=[waiting])
    assert decide(given, ROUND_2).waiters == (waiting,)


# -- keys -----------------------------------------------------------------------------------------


def test_a_run_with_a_key_keeps_it_with_the_digest_of_its_arguments() -> None:
    asked = build.submit(build.submission(ROOT, key="k", digest="d1"))
    [new] = decide(facts(), asked).runs
    assert (new.run.key, new.run.digest) == ("k", "d1")


@pytest.mark.parametrize("state", UNENDED)
def test_who_asks_by_the_same_key_attaches(state: RunState) -> None:
    asked = build.submit(build.submission(ROOT, key="k", digest="d1"), session="other")
    decision = decide(facts(run(ROOT, state, digest="d1")), asked)
    assert not decision.changed
    assert decision.runs == ()
    assert decision.waiters == (Waiter(run=ROOT, session="other"),)


def test_a_key_with_other_arguments_is_refused_with_those_that_it_has() -> None:
    asked = build.submit(build.submission(ROOT, key="k", digest="d2"))
    given = facts(run(ROOT, digest="d1"), arguments={ROOT: b"sealed"})
    decision = decide(given, asked)
    [reply] = replies(decision)
    assert isinstance(reply, Rejected)
    assert (reply.run, reply.code, reply.arguments) == (ROOT, "key-conflict", b"sealed")
    assert reply.message == (
        f"The key 'k' belongs to the run {ROOT}, which has other arguments. "
        "Use another key, or the same arguments."
    )
    assert not decision.writes


@pytest.mark.parametrize(("its", "asked"), [(None, "d"), ("d", None), (None, None)])
def test_arguments_without_a_digest_are_not_compared(its: str | None, asked: str | None) -> None:
    message = build.submit(build.submission(ROOT, key="k", digest=asked))
    decision = decide(facts(run(ROOT, digest=its)), message)
    assert decision.waiters == (Waiter(run=ROOT, session="s"),)


def test_two_keys_with_other_arguments_in_one_batch_are_one_run_and_one_refusal() -> None:
    first = build.submission(ROOT, key="k", digest="d1")
    second = build.submission(ROOT, key="k", digest="d2")
    decision = decide(facts(), build.submit(first, second))
    assert [new.run.digest for new in decision.runs] == ["d1"]
    [reply] = [reply for reply in replies(decision) if isinstance(reply, Rejected)]
    assert reply.code == "key-conflict"


def test_arguments_are_looked_up_for_keys_only() -> None:
    assert needs(build.submit(build.submission(ROOT, key="k"))).keyed == {ROOT}
    assert needs(build.submit(build.submission(ROOT))).keyed == frozenset()


# -- options --------------------------------------------------------------------------------------

QUICK, SLOW = RunOptions(timeout=1.0), RunOptions(timeout=60.0, total_timeout=90, queue_timeout=30)


def test_the_options_of_a_call_go_over_those_of_its_definition() -> None:
    known = Known(definitions=(replace(FLOW, options=SLOW),))
    own = decide(facts(known=known), build.submit(build.submission(ROOT, options=QUICK)))
    assert own.runs[0].run.options == QUICK
    assert own.invocations[0].as_message().timeout == 1.0
    its = decide(facts(known=known), build.submit(build.submission(ROOT)))
    assert its.runs[0].run.options == SLOW
    assert its.invocations[0].as_message().timeout == 60.0
    none = decide(facts(), build.submit(build.submission(ROOT)))
    assert none.runs[0].run.options == RunOptions()
    assert none.invocations[0].as_message().timeout is None


def test_the_times_of_a_run_begin_when_it_is_accepted() -> None:
    decision = decide(facts(), build.submit(build.submission(ROOT, options=SLOW)))
    assert set(decision.timers) == {
        Timer(run=ROOT, kind="total", due_at=build.NOW + 90),
        Timer(run=ROOT, kind="queue", due_at=build.NOW + 30),
    }


def test_a_worker_is_asked_to_tell_its_start_at_once_where_somebody_waits_for_it() -> None:
    decision = decide(facts(), build.submit(build.submission(ROOT, options=SLOW)))
    assert decision.invocations[0].as_message().announce
    decision = decide(facts(), build.submit(build.submission(ROOT, options=QUICK)))
    assert not decision.invocations[0].as_message().announce


def test_a_run_under_way_keeps_the_options_that_it_was_made_with() -> None:
    again = build.submit(build.submission(ROOT, options=QUICK))
    assert not decide(facts(run(ROOT, options=SLOW)), again).changed


# -- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "queued"])
def test_who_asks_again_for_what_nobody_serves_is_told_so(state: RunState) -> None:
    given = facts(run(ROOT, state), served=frozenset())
    asked = build.submit(build.submission(ROOT))
    assert replies(decide(given, asked)) == [Unserved(run=ROOT, queue="p:flow:1")]


@pytest.mark.parametrize("state", ["running", "waiting", "parked"])
def test_what_was_taken_by_a_worker_is_not_said_to_wait_for_one(state: RunState) -> None:
    given = facts(run(ROOT, state), served=frozenset())
    assert replies(decide(given, build.submit(build.submission(ROOT)))) == []


def test_a_child_opened_again_and_cancelled_in_one_batch_is_not_published() -> None:
    parent, child = _parent(), _child("failed")
    given = facts(parent, child, ended=_end("failed"), below=((ROOT, parent), (ROOT, child)))
    decision = decide(given, ROUND_2, Cancel(session="s", runs=(ROOT,)))
    assert dict(ended(decision)) == {ROOT: "cancelled", CHILD: "cancelled"}
    assert decision.dispatched == ()
    assert replies(decision)[-1] == Finished(
        run=CHILD, state="cancelled", attempt=3, parent_round=2, has_parent_ended=True
    )
