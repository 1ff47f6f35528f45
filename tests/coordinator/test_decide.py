"""Every kind of message, decided upon without a catalog, a broker or a clock."""

import pytest

from leveret_broker.messages import (
    Accepted,
    Attach,
    Cancel,
    Finished,
    Goodbye,
    Hello,
    ListWorkers,
    Outcomes,
    Rejected,
    RunState,
    Started,
    Submission,
    Target,
    Unserved,
    Welcome,
)
from leveret_coordinator.decision import Decision
from leveret_coordinator.facts import Message
from leveret_coordinator.records import Holder, RefusedAttempt, Run, Waiter
from tests.coordinator import build
from tests.coordinator.deciding import (
    CHILD,
    FIT,
    FLOW,
    OTHER,
    ROOT,
    decide,
    ended,
    facts,
    granted,
    only,
    replies,
    run,
)

# -- submissions ----------------------------------------------------------------------------------


def test_a_new_run_is_inserted_as_pending_and_its_invocation_published() -> None:
    decision = decide(facts(), build.submit(build.submission(ROOT)))
    [new] = decision.runs
    assert (new.run.id, new.run.state, new.run.attempt) == (ROOT, "pending", 1)
    assert (new.run.root, new.run.parent, new.asked_for) == (ROOT, None, "p:flow:1")
    assert decision.waiters == (Waiter(run=ROOT, session="s"),)
    [pending] = decision.invocations
    assert pending.queue == "p:flow:1"
    assert pending.as_message().arguments == b"arguments"
    assert decision.answers == ()


def test_acceptance_is_told_to_who_asks_for_it() -> None:
    decision = decide(facts(), build.submit(build.submission(ROOT, acknowledge=True)))
    [reply] = replies(decision)
    assert reply == Accepted(run=ROOT, definition=FLOW.as_message())


def test_a_run_that_no_live_worker_serves_is_said_to_wait() -> None:
    given = facts(served=frozenset())
    decision = decide(given, build.submit(build.submission(ROOT)))
    assert replies(decision) == [Unserved(run=ROOT, queue="p:flow:1")]


def test_a_worker_that_appears_in_the_same_batch_serves() -> None:
    given = facts(served=frozenset())
    decision = decide(given, build.heartbeat(FLOW.id), build.submit(build.submission(ROOT)))
    assert replies(decision) == []


def test_a_run_that_exists_is_never_made_again() -> None:
    decision = decide(facts(run(ROOT)), build.submit(build.submission(ROOT)))
    assert not decision.runs
    assert not decision.invocations
    assert decision.waiters == (Waiter(run=ROOT, session="s"),)


def test_a_run_that_is_submitted_twice_in_a_batch_is_made_once() -> None:
    decision = decide(
        facts(),
        build.submit(build.submission(ROOT), session="s"),
        build.submit(build.submission(ROOT), session="s2"),
        build.submit(build.submission(ROOT), session="s"),
    )
    assert len(decision.runs) == len(decision.invocations) == 1
    assert [waiter.session for waiter in decision.waiters] == ["s", "s2"]


def test_a_run_that_has_ended_is_answered_with_its_outcome() -> None:
    end = Finished(run=ROOT, state="succeeded", result=b"r")
    decision = decide(
        facts(run(ROOT, "succeeded"), ended=(end,)), build.submit(build.submission(ROOT))
    )
    assert replies(decision) == [end]
    assert not decision.runs


def test_a_child_belongs_to_the_tree_of_its_parent() -> None:
    child = build.submission(CHILD, "fit", parent=ROOT)
    decision = decide(facts(run(ROOT, "running")), build.submit(child))
    [new] = decision.runs
    assert (new.run.root, new.run.parent, new.run.definition) == (ROOT, ROOT, FIT.id)


def test_a_parent_and_its_child_may_come_in_one_batch() -> None:
    decision = decide(
        facts(),
        build.submit(build.submission(ROOT), build.submission(CHILD, "fit", parent=ROOT)),
    )
    assert [new.run.root for new in decision.runs] == [ROOT, ROOT]


def test_a_child_of_an_unknown_run_is_rejected() -> None:
    decision = decide(facts(), build.submit(build.submission(CHILD, "fit", parent=ROOT)))
    [reply] = replies(decision)
    assert isinstance(reply, Rejected)
    assert reply.code == "invalid"
    assert decision.runs == ()


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (Target(identifier="nothing"), "unidentified"),
        (Target(kind="task", name="fit", version="9"), "not-deployed"),
        (Target(), "invalid"),
    ],
)
def test_what_can_not_be_resolved_is_rejected_and_the_rest_accepted(
    target: Target, code: str
) -> None:
    bad = Submission(run=OTHER, target=target, project="p", arguments=b"")
    decision = decide(facts(), build.submit(bad, build.submission(ROOT)))
    [reply] = replies(decision)
    assert isinstance(reply, Rejected)
    assert (reply.run, reply.code) == (OTHER, code)
    assert [new.run.id for new in decision.runs] == [ROOT]


@pytest.mark.parametrize("id", ["r1", build.definition_id(1, "workflow"), ""])
def test_an_id_that_is_no_runs_is_rejected(id: str) -> None:
    [reply] = replies(decide(facts(), build.submit(build.submission(id))))
    assert isinstance(reply, Rejected)
    assert reply.code == "invalid"


# -- attach ---------------------------------------------------------------------------------------


def test_attaching_to_a_run_under_way_waits_for_its_end() -> None:
    decision = decide(facts(run(ROOT)), Attach(session="s", runs=(ROOT,)))
    assert decision.waiters == (Waiter(run=ROOT, session="s"),)
    assert replies(decision) == []


def test_attaching_to_a_run_that_has_ended_is_answered_at_once() -> None:
    end = Finished(run=ROOT, state="failed", error=b"e")
    given = facts(run(ROOT, "failed"), ended=(end,))
    assert replies(decide(given, Attach(session="s", runs=(ROOT,)))) == [end]


@pytest.mark.parametrize("waiting", [(), (Waiter(run=ROOT, session="s"),)], ids=["new", "again"])
def test_an_answer_about_a_run_that_has_ended_is_remembered_until_it_is_confirmed(
    waiting: tuple[Waiter, ...],
) -> None:
    end = Finished(run=ROOT, state="succeeded", result=b"r")
    given = facts(run(ROOT, "succeeded"), ended=(end,), waiters=waiting)
    for asked in (Attach(session="s", runs=(ROOT,)), build.submit(build.submission(ROOT))):
        assert decide(given, asked).waiters == (Waiter(run=ROOT, session="s"),)


def test_attaching_to_an_unknown_run_is_rejected() -> None:
    [reply] = replies(decide(facts(), Attach(session="s", runs=(ROOT,))))
    assert isinstance(reply, Rejected)
    assert reply.code == "unknown-run"


# -- outcomes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "queued", "running"])
def test_an_outcome_ends_the_run_and_is_told_to_all_who_wait(state: RunState) -> None:
    waiters = (Waiter(run=ROOT, session="s"), Waiter(run=ROOT, session="s2"))
    decision = decide(facts(run(ROOT, state), waiters=waiters), build.outcomes(build.outcome(ROOT)))
    assert ended(decision) == [(ROOT, "succeeded")]
    [attempt] = decision.attempts
    assert (attempt.run, attempt.state, attempt.worker) == (ROOT, "succeeded", "w")
    told = Finished(run=ROOT, state="succeeded", result=b"result")
    assert replies(decision, "s") == replies(decision, "s2") == [told]


def test_the_error_and_the_failure_travel_with_the_outcome() -> None:
    waiters = (Waiter(run=ROOT, session="s"),)
    failed = build.outcome(ROOT, "failed")
    decision = decide(facts(run(ROOT), waiters=waiters), build.outcomes(failed))
    [reply] = replies(decision)
    assert reply == Finished(run=ROOT, state="failed", error=b"error", failure=failed.failure)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_run_ends_once(state: RunState) -> None:
    decision = decide(facts(run(ROOT, state)), build.outcomes(build.outcome(ROOT, "failed")))
    assert not decision.writes
    assert decision.answers == ()
    [late] = decision.refused
    assert late.reason == f"the run is {state}"


def test_the_same_outcome_twice_in_a_batch_counts_once() -> None:
    told = build.outcomes(build.outcome(ROOT), build.outcome(ROOT, "failed"))
    decision = decide(facts(run(ROOT)), told, told)
    assert ended(decision) == [(ROOT, "succeeded")]
    assert [attempt.state for attempt in decision.attempts] == ["succeeded"]
    assert len(decision.refused) == 3


@pytest.mark.parametrize("attempt", [1, 3])
def test_news_of_another_attempt_are_refused(attempt: int) -> None:
    given = facts(run(ROOT, attempt=2))
    news = [
        build.outcomes(build.outcome(ROOT, attempt=attempt)),
        build.started(ROOT, attempt=attempt),
    ]
    for message, verdicts in zip(news, ([], [("w", None)]), strict=True):
        decision = decide(given, message)
        assert not decision.writes
        assert [late.reason for late in decision.refused] == ["the attempt is 2"]
        assert granted(decision) == verdicts, "who executes in vain is told so"


def test_news_of_an_unknown_run_are_refused() -> None:
    decision = decide(facts(), build.outcomes(build.outcome(ROOT)), build.started(ROOT))
    assert [late.reason for late in decision.refused] == ["no such run"] * 2


def test_outcomes_of_unknown_runs_are_set_aside_without_those_of_known_ones() -> None:
    stray = build.outcome(OTHER)
    decision = decide(facts(run(ROOT)), build.outcomes(build.outcome(ROOT), stray))
    assert decision.unknown == (build.outcomes(stray),)


# -- what the broker refuses ----------------------------------------------------------------------

REFUSED = RefusedAttempt(run=ROOT, attempt=1, reason="over the limit")


def test_a_run_that_no_worker_can_be_given_fails_and_all_who_wait_are_told() -> None:
    given = facts(run(ROOT, "pending"), waiters=(Waiter(run=ROOT, session="s"),))
    decision = decide(given, REFUSED)
    assert ended(decision) == [(ROOT, "failed")]
    assert decision.attempts == (), "no worker had it"
    [reply] = replies(decision)
    assert isinstance(reply, Finished)
    assert reply.failure == only(decision).failure
    assert reply.failure is not None
    assert reply.failure.type == "leveret.errors.PayloadError"
    assert "too large for the broker: over the limit" in reply.failure.message


@pytest.mark.parametrize(
    "refused",
    [
        run(ROOT, "succeeded"),
        run(ROOT, "cancelled"),
        run(ROOT, "waiting"),
        run(ROOT, attempt=2),
        run(OTHER),
    ],
)
def test_a_refusal_of_what_is_over_changes_nothing(refused: Run) -> None:
    assert decide(facts(refused), REFUSED) == Decision()


def test_an_outcome_after_the_submission_in_one_batch_answers_the_submitter() -> None:
    given = facts(run(ROOT))
    decision = decide(
        given, build.submit(build.submission(ROOT)), build.outcomes(build.outcome(ROOT))
    )
    assert [reply.type for reply in replies(decision)] == ["finished"]


def test_a_submission_after_the_outcome_in_one_batch_is_answered_too() -> None:
    decision = decide(
        facts(run(ROOT)),
        build.outcomes(build.outcome(ROOT)),
        build.submit(build.submission(ROOT)),
    )
    assert [reply.type for reply in replies(decision)] == ["finished"]


def test_a_started_attempt_is_noted_with_its_worker() -> None:
    decision = decide(facts(run(ROOT)), build.started(ROOT))
    [attempt] = decision.attempts
    assert (attempt.run, attempt.number, attempt.state) == (ROOT, 1, "running")
    assert (attempt.worker, attempt.started_at) == ("w", build.NOW + 0.5)
    holder = only(decision).holder
    assert holder == Holder(worker="w", started_at=build.NOW + 0.5)
    assert (only(decision).state, only(decision).since) == ("running", build.NOW)


def test_news_in_one_message_are_taken_in_the_order_start_then_end() -> None:
    told = Outcomes(
        worker="w",
        outcomes=(build.outcome(ROOT),),
        started=(Started(run=ROOT, attempt=1, started_at=build.NOW),),
    )
    decision = decide(facts(run(ROOT)), told)
    assert ended(decision) == [(ROOT, "succeeded")]
    assert [attempt.state for attempt in decision.attempts] == ["succeeded"]
    assert decision.refused == ()


# -- the rest -------------------------------------------------------------------------------------


def test_the_latest_heartbeat_of_a_worker_is_kept() -> None:
    early, late = build.heartbeat(FLOW.id), build.heartbeat(FIT.id)
    assert decide(facts(), early, late).heartbeats == (late,)


def test_a_worker_that_leaves_is_forgotten() -> None:
    decision = decide(facts(), build.heartbeat(FLOW.id), Goodbye(worker="w"))
    assert (decision.heartbeats, decision.goodbyes) == ((), ("w",))


def test_hello_is_answered_with_the_version() -> None:
    decision = decide(facts(), Hello(session="s", request="h"))
    assert replies(decision) == [Welcome(request="h", version="1.2")]
    assert not decision.writes


def test_questions_are_left_for_after_the_transaction() -> None:
    question = ListWorkers(session="s", request="q", project=None)
    decision = decide(facts(), question)
    assert decision.questions == (question,)
    assert not decision.writes


@pytest.mark.parametrize(
    "message",
    [
        build.submit(build.submission(ROOT)),
        build.outcomes(build.outcome(ROOT)),
        build.started(ROOT),
        build.heartbeat(FLOW.id),
        Attach(session="s", runs=(ROOT,)),
        Cancel(session="s", runs=(ROOT,)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_deciding_is_a_function_of_its_arguments(message: Message) -> None:
    given = facts(run(ROOT), waiters=(Waiter(run=ROOT, session="s"),))
    assert decide(given, message) == decide(given, message)


@pytest.mark.parametrize(
    ("state", "reached"), [("queued", ((FLOW.id, build.NOW - 20),)), ("running", ())]
)
def test_what_ends_tells_how_far_workers_have_come_in_its_queue(
    state: RunState, reached: tuple[tuple[str, float], ...]
) -> None:
    """Of one that was announced it is not known any more when it was published."""
    told = decide(facts(run(state=state)), build.outcomes(build.outcome(ROOT)))
    assert told.reached == reached
