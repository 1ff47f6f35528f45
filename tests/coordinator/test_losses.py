"""Attempts that nobody brought to an end: lost with their worker or process, or given back."""

from dataclasses import replace

import pytest

from leveret_broker.messages import (
    AttemptEnd,
    Cancel,
    Failure,
    Finished,
    Outcome,
    Outcomes,
    RunOptions,
)
from leveret_coordinator.facts import Message
from leveret_coordinator.records import (
    Holder,
    LostAttempt,
    Orphan,
    Run,
    Vanished,
    Waiter,
)
from tests.coordinator import build
from tests.coordinator.deciding import (
    CHILD,
    FIT,
    HELD,
    LEASED,
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
    worker,
)

ORPHAN = Orphan(run=ROOT, attempt=1, worker="w")
DIED = Failure(type="leveret.errors.WorkerLost", message="its process was killed by SIGSEGV")


def _lost(attempt: int = 1) -> Outcomes:
    told = Outcome(
        run=ROOT,
        attempt=attempt,
        state="lost",
        failure=DIED,
        started_at=build.NOW - 2,
        finished_at=build.NOW - 1,
    )
    return build.outcomes(told)


def _running(
    *, losses: int = 0, attempt: int = 1, holder: Holder = HELD, options: RunOptions | None = None
) -> Run:
    return run(
        ROOT,
        "running",
        definition=FIT,
        attempt=attempt,
        losses=losses,
        holder=holder,
        options=options or RunOptions(),
    )


# -- lost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [ORPHAN, _lost()], ids=["worker", "process"])
def test_a_lost_attempt_is_followed_by_the_next_one_of_the_same_round(message: Message) -> None:
    decision = decide(facts(_running(), workers=[worker(is_alive=False)]), message)
    again = only(decision)
    assert (again.state, again.attempt, again.round) == ("pending", 2, 1)
    assert (again.losses, again.failures, again.holder) == (1, 0, None)
    assert decision.dispatched == (ROOT,)
    [attempt] = decision.attempts
    assert (attempt.number, attempt.state, attempt.worker) == (1, "lost", "w")
    assert attempt.failure is not None
    assert attempt.failure.type == "leveret.errors.WorkerLost"


def test_a_lost_attempt_tells_its_cause_and_when_it_had_begun() -> None:
    [attempt] = decide(facts(_running(), workers=[worker()]), _lost()).attempts
    assert attempt.failure is not None
    assert attempt.failure.message == "its process was killed by SIGSEGV"
    assert (attempt.started_at, attempt.finished_at) == (build.NOW - 2, build.NOW)
    [attempt] = decide(facts(_running(), workers=[worker(is_alive=False)]), ORPHAN).attempts
    assert attempt.failure is not None
    assert attempt.failure.message == "the worker w (process 7 on host) was lost"


def test_a_worker_that_comes_back_is_told_to_stop_what_it_lost() -> None:
    assert stopped(decide(facts(_running()), ORPHAN)) == [(ROOT, 1)]


def test_an_attempt_of_a_worker_that_the_catalog_forgot_is_lost_too() -> None:
    [attempt] = decide(facts(_running()), ORPHAN).attempts
    assert attempt.failure is not None
    assert attempt.failure.message == "the worker w was lost"


@pytest.mark.parametrize(
    "now",
    [
        run(ROOT, "running", attempt=2, holder=HELD),
        run(ROOT, "running", holder=Holder(worker="w2", started_at=0)),
        run(ROOT, "queued"),
        run(ROOT, "waiting"),
        run(ROOT, "succeeded"),
        run(CHILD, "running", holder=HELD),
    ],
    ids=["next attempt", "other worker", "queued", "waiting", "ended", "other run"],
)
def test_an_orphan_that_is_not_one_any_more_is_left_alone(now: Run) -> None:
    decision = decide(facts(now), ORPHAN)
    assert not decision.writes
    assert decision.stops == ()


@pytest.mark.parametrize("message", [ORPHAN, _lost()], ids=["worker", "process"])
def test_a_loss_that_is_told_twice_counts_once(message: Message) -> None:
    decision = decide(facts(_running()), message, message)
    assert (only(decision).attempt, only(decision).losses) == (2, 1)
    assert len(decision.attempts) == 1


def test_an_outcome_that_came_with_the_news_of_the_loss_counts_if_it_was_first() -> None:
    decision = decide(facts(_running()), build.outcomes(build.outcome(ROOT)), ORPHAN)
    assert ended(decision) == [(ROOT, "succeeded")]
    decision = decide(facts(_running()), ORPHAN, build.outcomes(build.outcome(ROOT)))
    assert only(decision).state == "pending"
    assert [late.reason for late in decision.refused] == ["the attempt is 2"]


def test_what_a_worker_left_behind_that_said_goodbye_is_given_back_not_lost() -> None:
    left = replace(worker(is_alive=False), has_left=True)
    decision = decide(facts(_running(losses=3), workers=[left]), ORPHAN)
    again = only(decision)
    assert (again.state, again.attempt, again.losses) == ("pending", 2, 3)
    assert [(each.number, each.state) for each in decision.attempts] == [(1, "returned")]
    assert stopped(decision) == [(ROOT, 1)]


# -- the budget -----------------------------------------------------------------------------------

EARLIER = (
    LostAttempt(number=1, host="h1", finished_at=0.0, reason="killed by SIGKILL"),
    LostAttempt(number=2, host=None, finished_at=61.0, reason="the worker x was lost"),
)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (Orphan(run=ROOT, attempt=3, worker="w"), "the worker w (process 7 on host) was lost"),
        (_lost(3), "its process was killed by SIGSEGV"),
    ],
    ids=["worker", "process"],
)
def test_a_run_that_keeps_killing_its_workers_fails_naming_every_attempt(
    message: Message, cause: str
) -> None:
    poison = _running(losses=2, attempt=3, options=RunOptions(lost_retries=2))
    given = facts(
        poison,
        workers=[worker(is_alive=False)],
        lost={ROOT: EARLIER},
        waiters=(Waiter(run=ROOT, session="s"),),
    )
    decision = decide(given, message)
    assert ended(decision) == [(ROOT, "failed")]
    [reply] = replies(decision)
    assert isinstance(reply, Finished)
    assert (reply.error, reply.result) == (None, None)
    assert reply.failure is not None
    assert reply.failure.type == "leveret.errors.WorkerLost"
    assert reply.failure.message == (
        f"run {ROOT} of p:fit:0.1 lost what executed it 3 times, and lost_retries=2 allows no "
        "more: attempt 1 on h1 at 1970-01-01 00:00:00 UTC: killed by SIGKILL; "
        "attempt 2 at 1970-01-01 00:01:01 UTC: the worker x was lost; "
        f"attempt 3 on host at 1970-01-12 13:46:40 UTC: {cause}"
    )
    assert stopped(decision) == [(ROOT, 3)]
    assert decision.dispatched == ()
    assert [(each.number, each.state) for each in decision.attempts] == [(3, "lost")]


def test_only_the_losses_since_it_was_opened_are_told() -> None:
    poison = _running(losses=0, attempt=3, options=RunOptions(lost_retries=0))
    decision = decide(facts(poison, lost={ROOT: EARLIER}, workers=[worker()]), _lost(3))
    failure = only(decision).failure
    assert failure is not None
    assert "lost what executed it once" in failure.message
    assert "attempt 1" not in failure.message


@pytest.mark.parametrize("losses", [0, 1, 2])
def test_losses_have_a_budget_of_their_own(losses: int) -> None:
    decision = decide(facts(_running(losses=losses)), ORPHAN)
    assert only(decision).losses == losses + 1
    assert ended(decision) == []


def test_the_usual_budget_is_three() -> None:
    assert ended(decide(facts(_running(losses=3)), ORPHAN)) == [(ROOT, "failed")]


def _workflow(held_for: float, losses: int = 3) -> Run:
    """Its worker's clock is an hour behind, which says nothing."""
    holder = Holder(worker="w", started_at=build.NOW - 3600)
    since = build.NOW - held_for
    return replace(run(ROOT, "running", losses=losses, holder=holder), since=since)


def test_a_workflow_that_was_executed_for_a_while_is_not_what_kills_its_workers() -> None:
    decision = decide(facts(_workflow(60)), ORPHAN)
    assert (only(decision).state, only(decision).losses) == ("pending", 1)
    assert ended(decide(facts(_workflow(59)), ORPHAN)) == [(ROOT, "failed")]


def test_a_task_that_was_executed_for_a_while_may_be_what_kills_its_workers() -> None:
    steady = _running(losses=3, holder=Holder(worker="w", started_at=build.NOW - 3600))
    assert ended(decide(facts(steady), ORPHAN)) == [(ROOT, "failed")]


def test_a_workflow_that_came_further_has_its_losses_forgotten() -> None:
    child = build.submit(build.submission(CHILD, "fit", parent=ROOT))
    given = facts(_workflow(1))
    assert changed(decide(given, child))[ROOT].losses == 0
    assert ended(decide(given, child, ORPHAN)) == []


def test_a_workflow_that_only_repeats_what_it_did_has_not_come_further() -> None:
    again = build.submit(build.submission(CHILD, "fit", parent=ROOT))
    given = facts(_workflow(1), run(CHILD, "succeeded", definition=FIT, parent=ROOT))
    assert ROOT not in changed(decide(given, again))


def test_the_lost_attempts_are_looked_up_with_their_workers() -> None:
    for message in (ORPHAN, _lost(), _stopped(), build.claim(ROOT)):
        assert needs(message).lost == {ROOT}
        assert needs(message).workers == {"w"}
    assert needs(build.outcomes(build.outcome(ROOT, "failed"))).lost == frozenset()


# -- given back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("holder", [HELD, LEASED])
def test_what_a_worker_gives_back_is_the_next_attempt_and_costs_nothing(holder: Holder) -> None:
    returned = build.outcomes(build.outcome(ROOT, "returned"))
    decision = decide(facts(_running(holder=holder, losses=3)), returned)
    again = only(decision)
    assert (again.state, again.attempt, again.round) == ("pending", 2, 1)
    assert (again.losses, again.failures, again.failure) == (3, 0, None)
    assert [(each.number, each.state) for each in decision.attempts] == [(1, "returned")]
    assert decision.dispatched == (ROOT,)
    assert decision.stops == ()


@pytest.mark.parametrize("state", ["returned", "stopped"])
def test_nobody_speaks_for_an_attempt_that_another_worker_has(state: AttemptEnd) -> None:
    told = build.outcomes(build.outcome(ROOT, state), worker="other")
    decision = decide(facts(_running()), told)
    assert not decision.writes
    assert (decision.dispatched, decision.strangers) == ((), ())


# -- stopped by an order --------------------------------------------------------------------------


def _stopped(attempt: int = 1) -> Outcomes:
    """As a worker tells it: it can't know whose order that was."""
    told = Outcome(run=ROOT, attempt=attempt, state="stopped", started_at=1.0, finished_at=2.0)
    return build.outcomes(told)


@pytest.mark.parametrize("now", [_running(), run(ROOT, definition=FIT)], ids=["held", "unheard of"])
def test_what_a_stranger_stopped_is_lost_and_followed_by_the_next_attempt(now: Run) -> None:
    decision = decide(facts(now, workers=[worker()]), _stopped())
    again = only(decision)
    assert (again.state, again.attempt, again.round) == ("pending", 2, 1)
    assert (again.losses, again.failures, again.holder) == (1, 0, None)
    assert decision.dispatched == (ROOT,)
    [attempt] = decision.attempts
    assert (attempt.number, attempt.state, attempt.worker) == (1, "lost", "w")
    assert attempt.failure is not None
    assert attempt.failure.message == (
        "the worker w (process 7 on host) was told to stop it by a stranger"
    )
    [stranger] = decision.strangers
    assert (stranger.run, stranger.attempt, stranger.worker) == (ROOT, 1, "w")


def test_strangers_that_stop_every_attempt_end_the_run() -> None:
    decision = decide(facts(_running(losses=3, attempt=4), workers=[worker()]), _stopped(4))
    assert ended(decision) == [(ROOT, "failed")]
    failure = only(decision).failure
    assert failure is not None
    assert failure.type == "leveret.errors.WorkerLost"
    assert failure.message.endswith("was told to stop it by a stranger")


@pytest.mark.parametrize(
    "now",
    [
        run(ROOT, "cancelled"),
        run(ROOT, "parked"),
        run(ROOT, "waiting"),
        run(ROOT, "running", attempt=2, holder=HELD),
        run(CHILD, "running", holder=HELD),
    ],
    ids=["ended", "parked", "waiting", "next attempt", "other run"],
)
def test_what_the_coordinator_itself_stopped_needs_no_word(now: Run) -> None:
    decision = decide(facts(now), _stopped())
    assert not decision.writes
    assert (decision.refused, decision.strangers, decision.dispatched) == ((), (), ())


def test_a_run_that_is_cancelled_in_the_batch_that_tells_of_the_stop_stays_cancelled() -> None:
    cancel = Cancel(session="s", runs=(ROOT,))
    decision = decide(facts(_running(), below=[(ROOT, _running())]), cancel, _stopped())
    assert ended(decision) == [(ROOT, "cancelled")]
    assert decision.dispatched == ()


# -- vanished -------------------------------------------------------------------------------------

VANISHED = Vanished(run=ROOT, attempt=1)


def test_an_invocation_that_vanished_is_published_once_more_as_the_same_attempt() -> None:
    decision = decide(facts(run(ROOT)), VANISHED)
    assert (only(decision).state, only(decision).attempt) == ("pending", 1)
    assert decision.repeated == (ROOT,)
    assert decision.dispatched == ()


@pytest.mark.parametrize(
    "now",
    [run(ROOT, "running", holder=HELD), run(ROOT, "pending"), run(ROOT, attempt=2), run(CHILD)],
)
def test_what_is_not_in_its_queue_any_more_has_not_vanished(now: Run) -> None:
    assert not decide(facts(now), VANISHED).writes


def test_a_run_that_ends_in_the_batch_in_which_it_vanished_is_not_published() -> None:
    decision = decide(facts(run(ROOT)), VANISHED, build.outcomes(build.outcome(ROOT)))
    assert ended(decision) == [(ROOT, "succeeded")]
    assert decision.repeated == ()
