"""Attempts that fail: tried again later, at once, parked, or the run's end."""

import pytest

from leveret_broker.messages import Attach, Failure, Finished, RetryPolicy, RunOptions
from leveret_coordinator import retrying
from leveret_coordinator.records import Run, Timer, Waiter
from tests.coordinator import build
from tests.coordinator.deciding import (
    CHILD,
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

POLICY = RetryPolicy(max=3, initial=2, factor=3, cap=10, jitter=0)
FAILED = build.outcomes(build.outcome(ROOT, "failed"))
WAITING = (Waiter(run=ROOT, session="s"),)


def _run(policy: RetryPolicy | None, *, failures: int = 0, attempt: int = 1) -> Run:
    return run(
        ROOT,
        "running",
        attempt=attempt,
        round=attempt,
        failures=failures,
        options=RunOptions(retry=policy),
        holder=HELD,
    )


def _policy(**changed: object) -> RetryPolicy:
    return POLICY.model_copy(update=changed)


# -- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "delay"), [(0, 2), (1, 6), (2, 10), (3, 10), (10_000, 10)])
def test_delays_grow_by_the_factor_up_to_the_cap(failures: int, delay: float) -> None:
    assert retrying.delay(POLICY, failures, 0.5) == delay


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 2), (0.5, 1.5), (1.0, 1)])
def test_jitter_takes_a_share_of_the_delay_by_chance(chance: float, delay: float) -> None:
    assert retrying.delay(_policy(jitter=0.5), 0, chance) == delay


def test_a_run_that_failed_waits_until_its_retry_is_due() -> None:
    decision = decide(facts(_run(POLICY), waiters=WAITING), FAILED)
    waiting = only(decision)
    assert (waiting.state, waiting.attempt, waiting.holder) == ("waiting", 1, None)
    assert waiting.since == build.NOW
    assert decision.timers == (Timer(run=ROOT, kind="retry", due_at=build.NOW + 2),)
    assert [(each.number, each.state) for each in decision.attempts] == [(1, "failed")]
    assert replies(decision) == [], "a caller goes on waiting"
    assert decision.dispatched == ()
    assert waiting.failure == build.FAILURE, "it is told by listings"


def test_the_round_and_the_failures_grow_with_each_retry() -> None:
    given = _run(POLICY, failures=1, attempt=2)
    decision = decide(facts(given), build.outcomes(build.outcome(ROOT, "failed", attempt=2)))
    assert (only(decision).failures, only(decision).round) == (2, 3)
    assert [timer.due_at for timer in decision.timers] == [build.NOW + 6]


def test_chance_decides_upon_the_due_time() -> None:
    given = facts(_run(_policy(jitter=1)))
    assert decide(given, FAILED, chance=0.75).timers[0].due_at == build.NOW + 0.5


def test_a_delay_of_zero_makes_the_next_attempt_at_once() -> None:
    decision = decide(facts(_run(_policy(initial=0))), FAILED)
    again = only(decision)
    assert (again.state, again.attempt, again.round, again.failures) == ("pending", 2, 2, 1)
    assert decision.dispatched == (ROOT,)
    assert decision.timers == ()
    assert [(each.number, each.state) for each in decision.attempts] == [(1, "failed")]


def test_a_retry_that_is_due_is_the_next_attempt_of_the_same_round() -> None:
    waiting = run(ROOT, "waiting", round=2, failures=1, options=RunOptions(retry=POLICY))
    decision = decide(facts(waiting), Timer(run=ROOT, kind="retry", due_at=build.NOW))
    again = only(decision)
    assert (again.state, again.attempt, again.round, again.failures) == ("pending", 2, 2, 1)
    assert decision.dispatched == (ROOT,)
    assert (ROOT, "retry") in decision.cleared


@pytest.mark.parametrize("attempt", [1, 3])
def test_an_attempt_that_waits_for_its_retry_can_tell_nothing_more(attempt: int) -> None:
    waiting = run(ROOT, "waiting", failures=1, options=RunOptions(retry=POLICY))
    decision = decide(facts(waiting), build.outcomes(build.outcome(ROOT, attempt=attempt)))
    assert not decision.writes
    assert len(decision.refused) == 1


def test_the_same_failure_told_twice_is_one_failure() -> None:
    decision = decide(facts(_run(POLICY)), FAILED, FAILED)
    assert only(decision).failures == 1
    assert [late.reason for late in decision.refused] == ["the run is waiting"]


# -- how often ------------------------------------------------------------------------------------


def test_the_last_failure_ends_the_run_with_its_error() -> None:
    given = facts(_run(POLICY, failures=3, attempt=4), waiters=WAITING)
    told = build.outcome(ROOT, "failed", attempt=4)
    decision = decide(given, build.outcomes(told))
    assert ended(decision) == [(ROOT, "failed")]
    assert replies(decision) == [
        Finished(run=ROOT, state="failed", attempt=4, error=b"error", failure=build.FAILURE)
    ]
    assert decision.timers == ()


def test_a_policy_of_no_retries_ends_the_run() -> None:
    assert ended(decide(facts(_run(_policy(max=0))), FAILED)) == [(ROOT, "failed")]


def test_without_a_policy_a_failure_is_the_end() -> None:
    assert ended(decide(facts(_run(None)), FAILED)) == [(ROOT, "failed")]


def test_a_run_is_parked_after_its_last_failure_if_that_is_wanted() -> None:
    given = facts(_run(_policy(then="park"), failures=3, attempt=4), waiters=WAITING)
    decision = decide(given, build.outcomes(build.outcome(ROOT, "failed", attempt=4)))
    parked = only(decision)
    assert (parked.state, parked.holder, parked.failures) == ("parked", None, 4)
    assert parked.failure == build.FAILURE
    assert replies(decision) == [], "a caller goes on waiting"
    assert decision.ends == ()
    assert decision.dispatched == ()
    assert [(each.number, each.state) for each in decision.attempts] == [(4, "failed")]


def test_a_failure_that_the_policy_does_not_cover_is_never_parked() -> None:
    policy = _policy(then="park", unless=("ValueError",))
    assert ended(decide(facts(_run(policy, failures=3)), FAILED)) == [(ROOT, "failed")]


def test_a_failure_that_waits_for_a_person_is_told_to_who_attaches_later_when_it_ends() -> None:
    decision = decide(facts(run(ROOT, "parked")), Attach(session="late", runs=(ROOT,)))
    assert replies(decision, "late") == []
    assert decision.waiters == (Waiter(run=ROOT, session="late"),)


# -- which ----------------------------------------------------------------------------------------

KEY_ERROR = Failure(
    type="KeyError", message="k", kinds=("KeyError", "LookupError", "Exception", "BaseException")
)


@pytest.mark.parametrize(
    ("on", "unless", "covered"),
    [
        (None, (), True),
        (("KeyError",), (), True),
        (("LookupError",), (), True),
        (("ValueError",), (), False),
        (("ValueError", "Exception"), (), True),
        ((), (), False),
        (None, ("KeyError",), False),
        (None, ("LookupError",), False),
        (None, ("ValueError",), True),
        (("KeyError",), ("Exception",), False),
    ],
)
def test_a_policy_speaks_of_exceptions_by_the_names_of_their_bases(
    on: tuple[str, ...] | None, unless: tuple[str, ...], covered: bool
) -> None:
    policy = _policy(on=on, unless=unless)
    assert retrying.covers(policy, KEY_ERROR) == covered
    told = build.outcome(ROOT, "failed").model_copy(update={"failure": KEY_ERROR})
    decision = decide(facts(_run(policy)), build.outcomes(told))
    assert only(decision).state == ("waiting" if covered else "failed")


def test_a_failure_that_names_no_bases_is_known_by_its_own_name() -> None:
    failure = Failure(type="app.Odd", message="")
    assert retrying.covers(_policy(on=("app.Odd",)), failure)
    assert not retrying.covers(_policy(on=("Exception",)), failure)


def test_a_failure_that_a_worker_did_not_describe_is_a_failure_still() -> None:
    told = build.outcome(ROOT, "failed").model_copy(update={"failure": None})
    decision = decide(facts(_run(None), waiters=WAITING), build.outcomes(told))
    [reply] = replies(decision)
    assert isinstance(reply, Finished)
    assert reply.failure is not None
    assert reply.failure.message == "the worker told no failure"


# -- timeouts of one attempt ----------------------------------------------------------------------


def test_an_attempt_that_took_too_long_is_tried_again_like_one_that_failed() -> None:
    timed_out = build.outcomes(build.outcome(ROOT, "timed-out"))
    decision = decide(facts(_run(POLICY)), timed_out)
    assert (only(decision).state, only(decision).failures) == ("waiting", 1)
    assert [each.state for each in decision.attempts] == ["timed-out"]


def test_an_attempt_that_took_too_long_ends_a_run_without_retries() -> None:
    timed_out = build.outcomes(build.outcome(ROOT, "timed-out"))
    decision = decide(facts(_run(None), waiters=WAITING), timed_out)
    assert ended(decision) == [(ROOT, "failed")]
    assert stopped(decision) == [], "its worker has stopped it"
    assert len(replies(decision)) == 1


def test_what_a_workflow_called_is_stopped_with_an_attempt_that_took_too_long() -> None:
    root = _run(POLICY)
    called = run(CHILD, "running", parent=ROOT, attempt=2, holder=HELD)
    done = run(OTHER, "succeeded", parent=ROOT)
    given = facts(root, below=((ROOT, root), (ROOT, called), (ROOT, done)))
    timed_out = build.outcomes(build.outcome(ROOT, "timed-out"))
    decision = decide(given, timed_out)
    assert changed(decision)[ROOT].state == "waiting"
    assert ended(decision) == [(CHILD, "cancelled")]
    assert stopped(decision) == [(CHILD, 2)]
    assert needs(timed_out).below == {ROOT}
    assert needs(FAILED).below == frozenset()
