"""What is due: times of runs as a whole and of attempts in their queue."""

import pytest

from leveret_broker.messages import Failure, Finished, RetryPolicy, RunOptions, RunState
from leveret_coordinator.facts import Message
from leveret_coordinator.records import Holder, Orphan, Run, Timer, TimerKind, Waiter
from tests.coordinator import build
from tests.coordinator.deciding import (
    CHILD,
    FIT,
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

OPTIONS = RunOptions(
    total_timeout=90,
    queue_timeout=5,
    retry=RetryPolicy(max=5, initial=1, factor=1, cap=1, jitter=0),
)
TOTAL = Timer(run=ROOT, kind="total", due_at=build.NOW)
QUEUE = Timer(run=ROOT, kind="queue", due_at=build.NOW)
UNENDED: tuple[RunState, ...] = ("pending", "queued", "running", "waiting", "parked")
ENDS: tuple[RunState, ...] = ("succeeded", "failed", "cancelled")


def _run(state: RunState = "queued", *, attempt: int = 1) -> Run:
    holder = HELD if state == "running" else None
    return run(ROOT, state, attempt=attempt, holder=holder, options=OPTIONS)


def _timeout(reply: object) -> Failure:
    assert isinstance(reply, Finished)
    assert (reply.state, reply.error) == ("failed", None)
    assert reply.failure is not None
    assert reply.failure.type == "leveret.errors.RunTimeout"
    assert "TimeoutError" in reply.failure.kinds
    return reply.failure


# -- the time in the queue ------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "queued"])
def test_a_run_that_nobody_took_in_time_fails_saying_so(state: RunState) -> None:
    given = facts(_run(state, attempt=2), waiters=[Waiter(run=ROOT, session="s")])
    decision = decide(given, QUEUE)
    assert ended(decision) == [(ROOT, "failed")]
    [reply] = replies(decision)
    assert _timeout(reply).message == (
        f"run {ROOT} ended in attempt 2: nobody took it within its queue_timeout of 5 s"
    )
    assert stopped(decision) == [(ROOT, 2)], "should a worker take it after all"
    assert decision.attempts == (), "nobody executed it"


@pytest.mark.parametrize("state", ["running", "waiting", "parked", *ENDS])
def test_the_time_in_the_queue_is_over_once_the_run_left_it(state: RunState) -> None:
    decision = decide(facts(_run(state)), QUEUE)
    assert not decision.changed
    assert decision.cleared == ((ROOT, "queue"),)


@pytest.mark.parametrize("message", [build.started(ROOT), build.claim(ROOT, handed_out=False)])
def test_the_time_in_the_queue_ends_with_the_start(message: Message) -> None:
    decision = decide(facts(_run()), message)
    assert decision.cleared == ((ROOT, "queue"),)


def test_every_attempt_has_its_time_in_the_queue() -> None:
    again: list[tuple[Run, Message]] = [
        (_run("waiting"), Timer(run=ROOT, kind="retry", due_at=build.NOW)),
        (_run("running"), build.outcomes(build.outcome(ROOT, "returned"))),
        (_run("running"), Orphan(run=ROOT, attempt=1, worker="w")),
    ]
    for before, message in again:
        decision = decide(facts(before), message)
        assert decision.timers == (Timer(run=ROOT, kind="queue", due_at=build.NOW + 5),)


# -- the time of the whole ------------------------------------------------------------------------


@pytest.mark.parametrize("state", UNENDED)
def test_a_run_that_took_too_long_fails_in_whatever_state_it_is(state: RunState) -> None:
    given = facts(_run(state, attempt=3), waiters=[Waiter(run=ROOT, session="s")])
    decision = decide(given, TOTAL)
    assert ended(decision) == [(ROOT, "failed")]
    [reply] = replies(decision)
    assert _timeout(reply).message == (
        f"run {ROOT} ended in attempt 3: it had not ended within its total_timeout of 90 s"
    )
    is_handed_out = state in ("pending", "queued", "running")
    assert stopped(decision) == ([(ROOT, 3)] if is_handed_out else [])
    assert (ROOT, None) in decision.cleared, "nothing more is due for it"
    assert decision.timers == ()


def test_an_attempt_that_executes_when_its_run_takes_too_long_is_timed_out() -> None:
    [attempt] = decide(facts(_run("running")), TOTAL).attempts
    assert (attempt.number, attempt.state, attempt.worker) == (1, "timed-out", "w")
    assert attempt.failure is not None
    assert attempt.failure.type == "leveret.errors.RunTimeout"


def test_what_is_below_a_run_that_took_too_long_is_cancelled() -> None:
    root = _run("running")
    child = run(CHILD, "waiting", definition=FIT, parent=ROOT, options=OPTIONS)
    grandchild = run(GRANDCHILD, "running", parent=CHILD, attempt=2, holder=HELD)
    done = run(OTHER, "succeeded", parent=ROOT)
    given = facts(
        root,
        below=((ROOT, root), (ROOT, child), (ROOT, grandchild), (ROOT, done)),
        waiters=[Waiter(run=CHILD, session="worker-s")],
    )
    decision = decide(given, TOTAL)
    assert dict(ended(decision)) == {ROOT: "failed", CHILD: "cancelled", GRANDCHILD: "cancelled"}
    assert stopped(decision) == [(ROOT, 1), (GRANDCHILD, 2)]
    assert replies(decision, "worker-s") == [
        Finished(run=CHILD, state="cancelled", has_parent_ended=True)
    ]
    assert needs(TOTAL).below == {ROOT}


def test_the_time_of_the_whole_goes_on_over_all_retries() -> None:
    decision = decide(facts(_run("running")), build.outcomes(build.outcome(ROOT, "failed")))
    assert only(decision).state == "waiting"
    assert [timer.kind for timer in decision.timers] == ["retry"]
    assert all(kind != "total" for _, kind in decision.cleared)


@pytest.mark.parametrize("state", ENDS)
@pytest.mark.parametrize("kind", ["retry", "sleep", "queue", "total"])
def test_a_timer_of_what_has_ended_only_goes(state: RunState, kind: TimerKind) -> None:
    decision = decide(facts(_run(state)), Timer(run=ROOT, kind=kind, due_at=build.NOW))
    assert not decision.changed
    assert decision.answers == ()
    assert decision.cleared == ((ROOT, kind),)


@pytest.mark.parametrize("state", ["pending", "queued", "running", "parked"])
def test_a_retry_that_is_not_waited_for_any_more_makes_no_attempt(state: RunState) -> None:
    decision = decide(facts(_run(state)), Timer(run=ROOT, kind="retry", due_at=build.NOW))
    assert not decision.changed
    assert decision.dispatched == ()


def test_a_timer_of_an_unknown_run_does_nothing() -> None:
    decision = decide(facts(), TOTAL)
    assert not decision.changed


def test_the_timers_of_a_run_go_when_it_ends() -> None:
    for before, message in (
        (_run("running"), build.outcomes(build.outcome(ROOT))),
        (run(ROOT, "queued", options=RunOptions(queue_timeout=1)), _succeeded()),
        (run(ROOT, "queued", options=RunOptions(total_timeout=1)), _succeeded()),
    ):
        assert (ROOT, None) in decide(facts(before), message).cleared


def _succeeded() -> Message:
    return build.outcomes(build.outcome(ROOT))


def test_a_timeout_and_an_end_in_one_batch_are_one_end() -> None:
    decision = decide(facts(_run("running")), _succeeded(), TOTAL)
    assert ended(decision) == [(ROOT, "succeeded")]
    decision = decide(facts(_run("running")), TOTAL, _succeeded())
    assert ended(decision) == [(ROOT, "failed")]
    assert [late.reason for late in decision.refused] == ["the run is failed"]


def test_whoever_took_a_run_over_is_not_stopped_by_the_time_of_its_first_attempt() -> None:
    taken = run(ROOT, "running", attempt=2, holder=Holder(worker="w2", started_at=build.NOW))
    decision = decide(facts(taken), QUEUE)
    assert ROOT not in changed(decision)
    assert decision.stops == ()
