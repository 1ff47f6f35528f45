"""May a worker execute this attempt? Every answer, and the same answer to the same question."""

from dataclasses import replace

import pytest

from leveret_broker.messages import Claim, Outcomes, RunOptions, RunState, Verdict
from leveret_coordinator.facts import Facts
from leveret_coordinator.records import Holder, Run
from tests.coordinator import build
from tests.coordinator.deciding import (
    FIT,
    HELD,
    LEASED,
    ROOT,
    decide,
    ended,
    facts,
    granted,
    only,
    run,
    stopped,
    worker,
)

OTHERS = Holder(worker="w2", started_at=build.NOW - 10)
OTHERS_LEASED = Holder(worker="w2", started_at=build.NOW - 10, leased_at=build.NOW - 5)
OVER: tuple[RunState, ...] = ("waiting", "parked", "succeeded", "failed", "cancelled")
ACTIVE: tuple[RunState, ...] = ("pending", "queued", "running")


def _asked(*, attempt: int = 1, executing: bool = False, handed_out: bool = False) -> Outcomes:
    claim = Claim(
        run=ROOT,
        attempt=attempt,
        handed_out=handed_out,
        executing=executing,
        started_at=build.NOW - 3 if executing else None,
    )
    return Outcomes(worker="w", claims=(claim,))


WAITED = _asked()
HANDED_OUT = _asked(handed_out=True)
EXECUTING = _asked(executing=True)
EVERY_KIND = pytest.mark.parametrize(
    "claim", [WAITED, HANDED_OUT, EXECUTING], ids=["waited", "handed out", "executing"]
)


# -- refused --------------------------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("state", OVER)
def test_what_is_over_or_waits_is_executed_by_nobody(state: RunState, claim: Outcomes) -> None:
    decision = decide(facts(run(ROOT, state)), claim)
    [judged] = decision.verdicts
    assert judged.worker == "w"
    assert judged.verdict == Verdict(run=ROOT, attempt=1, granted=None)
    assert not decision.writes


@EVERY_KIND
def test_a_run_that_does_not_exist_is_executed_by_nobody(claim: Outcomes) -> None:
    assert granted(decide(facts(), claim)) == [("w", None)]


@EVERY_KIND
@pytest.mark.parametrize("holder", [None, OTHERS])
def test_an_attempt_that_is_not_the_latest_is_executed_by_nobody(
    claim: Outcomes, holder: Holder | None
) -> None:
    decision = decide(facts(run(ROOT, "running", attempt=2, holder=holder)), claim)
    assert granted(decision) == [("w", None)]
    assert not decision.writes


def test_an_attempt_that_does_not_exist_yet_is_executed_by_nobody() -> None:
    assert granted(decide(facts(run(ROOT)), _asked(attempt=2))) == [("w", None)]


# -- granted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ACTIVE)
def test_an_attempt_that_only_waited_is_granted_as_it_is(state: RunState) -> None:
    decision = decide(facts(run(ROOT, state)), WAITED)
    assert granted(decision) == [("w", 1)]
    held = only(decision)
    assert (held.state, held.attempt) == ("running", 1)
    assert held.holder == Holder(worker="w", started_at=build.NOW)
    assert [(each.number, each.state, each.worker) for each in decision.attempts] == [
        (1, "running", "w")
    ]
    assert decision.stops == ()
    assert decision.dispatched == ()


@pytest.mark.parametrize("state", ACTIVE)
def test_an_attempt_that_was_handed_out_before_is_granted_as_the_next_one(state: RunState) -> None:
    decision = decide(facts(run(ROOT, state)), HANDED_OUT)
    assert granted(decision) == [("w", 2)]
    held = only(decision)
    assert (held.state, held.attempt, held.round, held.losses) == ("running", 2, 1, 0)
    assert held.holder == Holder(worker="w", started_at=build.NOW)
    assert stopped(decision) == [(ROOT, 1)], "whoever executes it unheard"
    assert decision.dispatched == (), "the worker that asks executes it"


def test_what_the_attempt_before_tells_is_refused_once_the_next_one_is_granted() -> None:
    decision = decide(facts(run(ROOT)), HANDED_OUT, build.outcomes(build.outcome(ROOT)))
    assert ended(decision) == []
    assert [late.reason for late in decision.refused] == ["the attempt is 2"]


def test_what_executes_already_is_granted_and_leased_for_its_delivery_may_be_gone() -> None:
    decision = decide(facts(run(ROOT, "running", holder=HELD)), EXECUTING)
    assert granted(decision) == [("w", 1)]
    assert only(decision).holder == Holder(
        worker="w", started_at=HELD.started_at, leased_at=build.NOW
    )
    assert stopped(decision) == []


def test_what_executes_unheard_is_granted_with_the_time_at_which_it_began() -> None:
    decision = decide(facts(run(ROOT)), EXECUTING)
    assert only(decision).holder == Holder(
        worker="w", started_at=build.NOW - 3, leased_at=build.NOW
    )
    assert only(decision).started_at == build.NOW - 3


def test_what_executes_and_was_handed_out_before_stays_the_attempt_that_it_is() -> None:
    decision = decide(facts(run(ROOT)), _asked(executing=True, handed_out=True))
    assert granted(decision) == [("w", 1)]


def test_a_lease_keeps_the_time_at_which_it_began() -> None:
    decision = decide(facts(run(ROOT, "running", holder=LEASED)), WAITED)
    assert granted(decision) == [("w", 1)]
    assert only(decision).holder == LEASED


def test_a_claim_that_is_granted_ends_the_time_in_the_queue() -> None:
    waiting = run(ROOT, options=RunOptions(queue_timeout=5))
    decision = decide(facts(waiting), WAITED)
    assert decision.cleared == ((ROOT, "queue"),)
    assert decision.timers == ()
    decision = decide(facts(waiting), HANDED_OUT)
    assert (ROOT, "queue") in decision.cleared
    assert decision.timers == ()


# -- asked again ----------------------------------------------------------------------------------


def _after(given: Facts, *claims: Outcomes) -> tuple[list[tuple[str, int | None]], Run]:
    decision = decide(given, *claims)
    return granted(decision), only(decision)


@EVERY_KIND
def test_a_claim_is_answered_alike_however_often_it_comes(claim: Outcomes) -> None:
    given = facts(run(ROOT))
    once, after_one = _after(given, claim)
    thrice, after_three = _after(given, claim, claim, claim)
    assert thrice == once * 3
    assert after_three == after_one


def test_an_answer_that_did_not_arrive_is_given_again() -> None:
    held = run(ROOT, "running", attempt=2, holder=HELD)
    decision = decide(facts(held), HANDED_OUT)
    assert granted(decision) == [("w", 2)]
    assert not decision.writes


def test_an_attempt_that_was_granted_as_the_next_one_is_not_what_executes_as_the_first() -> None:
    held = run(ROOT, "running", attempt=2, holder=HELD)
    assert granted(decide(facts(held), EXECUTING)) == [("w", None)]


def test_the_next_attempt_is_not_given_to_who_asked_long_ago() -> None:
    held = run(ROOT, "running", attempt=3, holder=HELD)
    assert granted(decide(facts(held), HANDED_OUT)) == [("w", None)]


def test_two_workers_that_ask_for_one_attempt_are_not_both_granted_it() -> None:
    other = Outcomes(worker="w2", claims=HANDED_OUT.claims)
    given = facts(run(ROOT), workers=[worker("w"), worker("w2")])
    decision = decide(given, HANDED_OUT, other)
    assert granted(decision) == [("w", 2), ("w2", None)]
    waited = Outcomes(worker="w2", claims=WAITED.claims)
    assert granted(decide(given, WAITED, waited)) == [("w", 1), ("w2", None)]


# -- another one executes it ----------------------------------------------------------------------


@EVERY_KIND
def test_a_run_stays_with_its_holder_that_lives_and_is_suspected(claim: Outcomes) -> None:
    given = facts(run(ROOT, "running", holder=OTHERS), workers=[worker("w2")])
    decision = decide(given, claim)
    assert granted(decision) == [("w", None)]
    assert decision.suspects == ("w2",)
    assert only(decision).holder == Holder(
        worker="w2", started_at=OTHERS.started_at, leased_at=build.NOW
    ), "its delivery is here, so from now on it has none"
    [attempt] = decision.attempts
    assert (attempt.worker, attempt.state, attempt.leased_at) == ("w2", "running", build.NOW)


def test_a_lease_of_a_holder_that_lives_stays_as_it_is() -> None:
    given = facts(run(ROOT, "running", holder=OTHERS_LEASED), workers=[worker("w2")])
    decision = decide(given, HANDED_OUT)
    assert granted(decision) == [("w", None)]
    assert decision.suspects == ("w2",)
    assert not decision.writes


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("claim", [WAITED, HANDED_OUT])
def test_a_run_is_taken_over_from_a_holder_that_is_gone(claim: Outcomes, is_known: bool) -> None:
    gone = [worker("w2", is_alive=False)] if is_known else []
    given = facts(run(ROOT, "running", holder=OTHERS), workers=gone)
    decision = decide(given, claim)
    assert granted(decision) == [("w", 2)]
    taken = only(decision)
    assert (taken.state, taken.attempt, taken.losses) == ("running", 2, 1)
    assert taken.holder == Holder(worker="w", started_at=build.NOW)
    lost, begun = decision.attempts
    assert (lost.number, lost.state, lost.worker) == (1, "lost", "w2")
    assert (begun.number, begun.state, begun.worker) == (2, "running", "w")
    assert stopped(decision) == [(ROOT, 1)], "should the lost one come back"
    assert decision.suspects == ()


def test_taking_over_is_answered_alike_when_it_is_asked_again() -> None:
    given = facts(run(ROOT, "running", holder=OTHERS), workers=[worker("w2", is_alive=False)])
    decision = decide(given, HANDED_OUT, HANDED_OUT)
    assert granted(decision) == [("w", 2), ("w", 2)]
    assert only(decision).losses == 1


def test_what_a_worker_left_behind_that_said_goodbye_is_taken_over_at_no_cost() -> None:
    left = replace(worker("w2", is_alive=False), has_left=True)
    given = facts(run(ROOT, "running", losses=3, holder=OTHERS), workers=[left])
    decision = decide(given, HANDED_OUT)
    assert granted(decision) == [("w", 2)]
    assert only(decision).losses == 3
    assert [(each.number, each.state) for each in decision.attempts] == [
        (1, "returned"),
        (2, "running"),
    ]


def test_what_executes_beside_a_holder_that_is_gone_is_not_taken_over() -> None:
    given = facts(run(ROOT, "running", holder=OTHERS), workers=[worker("w2", is_alive=False)])
    decision = decide(given, EXECUTING)
    assert granted(decision) == [("w", None)]
    assert not decision.writes


def test_a_run_that_lost_too_many_workers_ends_when_it_would_be_taken_over() -> None:
    poison = run(ROOT, "running", definition=FIT, losses=3, attempt=4, holder=OTHERS)
    given = facts(poison, workers=[worker("w2", is_alive=False)])
    decision = decide(given, _asked(attempt=4, handed_out=True))
    assert granted(decision) == [("w", None)]
    assert ended(decision) == [(ROOT, "failed")]
    failure = only(decision).failure
    assert failure is not None
    assert failure.type == "leveret.errors.WorkerLost"
    assert "attempt 4 on host at" in failure.message


# -- what starts without a claim ------------------------------------------------------------------


def test_a_second_worker_that_starts_an_attempt_is_told_to_drop_it() -> None:
    given = facts(run(ROOT, "running", holder=OTHERS), workers=[worker("w2")])
    decision = decide(given, build.started(ROOT))
    assert granted(decision) == [("w", None)]
    assert [late.reason for late in decision.refused] == ["w2 executes it"]
    assert not decision.writes


@pytest.mark.parametrize("state", OVER)
def test_who_starts_what_is_over_is_told_to_drop_it(state: RunState) -> None:
    decision = decide(facts(run(ROOT, state)), build.started(ROOT))
    assert granted(decision) == [("w", None)]
    assert [late.reason for late in decision.refused] == [f"the run is {state}"]


def test_who_starts_a_run_that_does_not_exist_is_told_to_drop_it() -> None:
    assert granted(decide(facts(), build.started(ROOT))) == [("w", None)]


def test_an_outcome_that_comes_late_is_refused_without_a_verdict() -> None:
    decision = decide(facts(run(ROOT, attempt=2)), build.outcomes(build.outcome(ROOT)))
    assert decision.verdicts == ()
    assert len(decision.refused) == 1


def test_a_start_is_told_as_a_lease_once_the_delivery_is_to_be_acknowledged() -> None:
    decision = decide(facts(run(ROOT)), build.started(ROOT), build.started(ROOT, leased=True))
    assert only(decision).holder == Holder(
        worker="w", started_at=build.NOW + 0.5, leased_at=build.NOW
    )
    [attempt] = decision.attempts
    assert (attempt.started_at, attempt.leased_at) == (build.NOW + 0.5, build.NOW)


def test_a_start_that_is_told_again_takes_no_lease_back() -> None:
    decision = decide(facts(run(ROOT)), build.started(ROOT, leased=True), build.started(ROOT))
    holder = only(decision).holder
    assert holder is not None
    assert holder.leased_at == build.NOW


# -- joining --------------------------------------------------------------------------------------


def test_a_worker_that_joins_is_alive_serves_and_has_its_claims_judged() -> None:
    beat = build.heartbeat(FIT.id)
    join = Outcomes(worker="w", join=beat, claims=EXECUTING.claims)
    decision = decide(facts(run(ROOT, "running", holder=HELD), served=frozenset()), join)
    assert decision.joined == (beat,)
    assert decision.heartbeats == (beat,)
    assert granted(decision) == [("w", 1)]


def test_what_a_worker_tells_counts_before_what_it_claims() -> None:
    told = Outcomes(worker="w", outcomes=(build.outcome(ROOT),), claims=EXECUTING.claims)
    decision = decide(facts(run(ROOT, "running", holder=HELD)), told)
    assert ended(decision) == [(ROOT, "succeeded")]
    assert granted(decision) == [("w", None)]
