"""Every kind of message, decided upon without a catalog, a broker or a clock."""

import pytest

from leveret_broker.messages import (
    Accepted,
    Attach,
    Cancel,
    Cancelled,
    Finished,
    Goodbye,
    Hello,
    ListWorkers,
    Outcomes,
    Rejected,
    Reply,
    RunState,
    Started,
    Submission,
    Target,
    Unserved,
    Welcome,
)
from leveret_coordinator.decide import decide
from leveret_coordinator.decision import Decision
from leveret_coordinator.facts import Facts, Message
from leveret_coordinator.records import RefusedAttempt, Run, Waiter
from leveret_coordinator.resolution import Known
from tests.coordinator import build

FLOW = build.definition(1, "p:flow:1")
FIT = build.definition(2, "p:fit:0.1", "task")
KNOWN = Known(definitions=(FLOW, FIT))
ROOT, CHILD, GRANDCHILD, OTHER = (build.run_id(number) for number in range(1, 5))


def _run(
    run: str, state: RunState = "queued", *, parent: str | None = None, attempt: int = 1
) -> Run:
    return Run(
        id=run,
        project="p",
        definition=FLOW.id,
        root=ROOT if parent else run,
        parent=parent,
        state=state,
        attempt=attempt,
    )


def _facts(
    *runs: Run,
    waiters: tuple[Waiter, ...] = (),
    ended: tuple[Finished, ...] = (),
    below: tuple[tuple[str, Run], ...] = (),
    served: frozenset[str] = frozenset({FLOW.id, FIT.id}),
) -> Facts:
    return Facts(known=KNOWN, runs=runs, waiters=waiters, ended=ended, below=below, served=served)


def _decide(facts: Facts, *messages: Message) -> Decision:
    return decide(messages, facts, now=build.NOW, version="1.2", issue=build.issue)


def _replies(decision: Decision, session: str = "s") -> list[Reply]:
    return [answer.reply for answer in decision.answers if answer.session == session]


# -- submissions ----------------------------------------------------------------------------------


def test_a_new_run_is_inserted_as_pending_and_its_invocation_published() -> None:
    decision = _decide(_facts(), build.submit(build.submission(ROOT)))
    [new] = decision.runs
    assert (new.run.id, new.run.state, new.run.attempt) == (ROOT, "pending", 1)
    assert (new.run.root, new.run.parent, new.asked_for) == (ROOT, None, "p:flow:1")
    assert decision.waiters == (Waiter(run=ROOT, session="s"),)
    [pending] = decision.invocations
    assert pending.queue == "p:flow:1"
    assert pending.as_message().arguments == b"arguments"
    assert decision.answers == ()


def test_acceptance_is_told_to_who_asks_for_it() -> None:
    decision = _decide(_facts(), build.submit(build.submission(ROOT, acknowledge=True)))
    [reply] = _replies(decision)
    assert reply == Accepted(run=ROOT, definition=FLOW.as_message())


def test_a_run_that_no_live_worker_serves_is_said_to_wait() -> None:
    facts = _facts(served=frozenset())
    decision = _decide(facts, build.submit(build.submission(ROOT)))
    assert _replies(decision) == [Unserved(run=ROOT, queue="p:flow:1")]


def test_a_worker_that_appears_in_the_same_batch_serves() -> None:
    facts = _facts(served=frozenset())
    decision = _decide(facts, build.heartbeat(FLOW.id), build.submit(build.submission(ROOT)))
    assert _replies(decision) == []


def test_a_run_that_exists_is_never_made_again() -> None:
    decision = _decide(_facts(_run(ROOT)), build.submit(build.submission(ROOT)))
    assert not decision.runs
    assert not decision.invocations
    assert decision.waiters == (Waiter(run=ROOT, session="s"),)


def test_a_run_that_is_submitted_twice_in_a_batch_is_made_once() -> None:
    decision = _decide(
        _facts(),
        build.submit(build.submission(ROOT), session="s"),
        build.submit(build.submission(ROOT), session="s2"),
        build.submit(build.submission(ROOT), session="s"),
    )
    assert len(decision.runs) == len(decision.invocations) == 1
    assert [waiter.session for waiter in decision.waiters] == ["s", "s2"]


def test_a_run_that_has_ended_is_answered_with_its_outcome() -> None:
    end = Finished(run=ROOT, state="succeeded", result=b"r")
    decision = _decide(
        _facts(_run(ROOT, "succeeded"), ended=(end,)), build.submit(build.submission(ROOT))
    )
    assert _replies(decision) == [end]
    assert not decision.runs


def test_a_child_belongs_to_the_tree_of_its_parent() -> None:
    child = build.submission(CHILD, "fit", parent=ROOT)
    decision = _decide(_facts(_run(ROOT, "running")), build.submit(child))
    [new] = decision.runs
    assert (new.run.root, new.run.parent, new.run.definition) == (ROOT, ROOT, FIT.id)


def test_a_parent_and_its_child_may_come_in_one_batch() -> None:
    decision = _decide(
        _facts(),
        build.submit(build.submission(ROOT), build.submission(CHILD, "fit", parent=ROOT)),
    )
    assert [new.run.root for new in decision.runs] == [ROOT, ROOT]


def test_a_child_of_an_unknown_run_is_rejected() -> None:
    decision = _decide(_facts(), build.submit(build.submission(CHILD, "fit", parent=ROOT)))
    [reply] = _replies(decision)
    assert isinstance(reply, Rejected)
    assert reply.code == "unknown-run"
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
    decision = _decide(_facts(), build.submit(bad, build.submission(ROOT)))
    [reply] = _replies(decision)
    assert isinstance(reply, Rejected)
    assert (reply.run, reply.code) == (OTHER, code)
    assert [new.run.id for new in decision.runs] == [ROOT]


@pytest.mark.parametrize("run", ["r1", build.definition_id(1, "workflow"), ""])
def test_an_id_that_is_no_runs_is_rejected(run: str) -> None:
    [reply] = _replies(_decide(_facts(), build.submit(build.submission(run))))
    assert isinstance(reply, Rejected)
    assert reply.code == "invalid"


# -- attach ---------------------------------------------------------------------------------------


def test_attaching_to_a_run_under_way_waits_for_its_end() -> None:
    decision = _decide(_facts(_run(ROOT)), Attach(session="s", runs=(ROOT,)))
    assert decision.waiters == (Waiter(run=ROOT, session="s"),)
    assert _replies(decision) == []


def test_attaching_to_a_run_that_has_ended_is_answered_at_once() -> None:
    end = Finished(run=ROOT, state="failed", error=b"e")
    facts = _facts(_run(ROOT, "failed"), ended=(end,))
    assert _replies(_decide(facts, Attach(session="s", runs=(ROOT,)))) == [end]


@pytest.mark.parametrize("waiting", [(), (Waiter(run=ROOT, session="s"),)], ids=["new", "again"])
def test_an_answer_about_a_run_that_has_ended_is_remembered_until_it_is_confirmed(
    waiting: tuple[Waiter, ...],
) -> None:
    end = Finished(run=ROOT, state="succeeded", result=b"r")
    facts = _facts(_run(ROOT, "succeeded"), ended=(end,), waiters=waiting)
    for asked in (Attach(session="s", runs=(ROOT,)), build.submit(build.submission(ROOT))):
        assert _decide(facts, asked).waiters == (Waiter(run=ROOT, session="s"),)


def test_attaching_to_an_unknown_run_is_rejected() -> None:
    [reply] = _replies(_decide(_facts(), Attach(session="s", runs=(ROOT,))))
    assert isinstance(reply, Rejected)
    assert reply.code == "unknown-run"


# -- outcomes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "queued", "running"])
def test_an_outcome_ends_the_run_and_is_told_to_all_who_wait(state: RunState) -> None:
    waiters = (Waiter(run=ROOT, session="s"), Waiter(run=ROOT, session="s2"))
    decision = _decide(
        _facts(_run(ROOT, state), waiters=waiters), build.outcomes(build.outcome(ROOT))
    )
    [finished] = decision.finished
    assert (finished.run, finished.state, finished.worker) == (ROOT, "succeeded", "w")
    told = Finished(run=ROOT, state="succeeded", result=b"result")
    assert _replies(decision, "s") == _replies(decision, "s2") == [told]


def test_the_error_and_the_failure_travel_with_the_outcome() -> None:
    waiters = (Waiter(run=ROOT, session="s"),)
    failed = build.outcome(ROOT, "failed")
    decision = _decide(_facts(_run(ROOT), waiters=waiters), build.outcomes(failed))
    [reply] = _replies(decision)
    assert reply == Finished(run=ROOT, state="failed", error=b"error", failure=failed.failure)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_run_ends_once(state: RunState) -> None:
    decision = _decide(_facts(_run(ROOT, state)), build.outcomes(build.outcome(ROOT, "failed")))
    assert not decision.writes
    assert decision.answers == ()
    [late] = decision.refused
    assert late.reason == f"the run is {state}"


def test_the_same_outcome_twice_in_a_batch_counts_once() -> None:
    told = build.outcomes(build.outcome(ROOT), build.outcome(ROOT, "failed"))
    decision = _decide(_facts(_run(ROOT)), told, told)
    assert [finished.state for finished in decision.finished] == ["succeeded"]
    assert len(decision.refused) == 3


@pytest.mark.parametrize("attempt", [1, 3])
def test_news_of_another_attempt_are_refused(attempt: int) -> None:
    facts = _facts(_run(ROOT, attempt=2))
    news = [
        build.outcomes(build.outcome(ROOT, attempt=attempt)),
        build.started(ROOT, attempt=attempt),
    ]
    for message in news:
        decision = _decide(facts, message)
        assert not decision.writes
        assert [late.reason for late in decision.refused] == ["the attempt is 2"]


def test_news_of_an_unknown_run_are_refused() -> None:
    decision = _decide(_facts(), build.outcomes(build.outcome(ROOT)), build.started(ROOT))
    assert [late.reason for late in decision.refused] == ["no such run"] * 2


def test_outcomes_of_unknown_runs_are_set_aside_without_those_of_known_ones() -> None:
    stray = build.outcome(OTHER)
    decision = _decide(_facts(_run(ROOT)), build.outcomes(build.outcome(ROOT), stray))
    assert decision.unknown == (build.outcomes(stray),)


# -- what the broker refuses ----------------------------------------------------------------------

REFUSED = RefusedAttempt(run=ROOT, attempt=1, reason="over the limit")


def test_a_run_that_no_worker_can_be_given_fails_and_all_who_wait_are_told() -> None:
    facts = _facts(_run(ROOT, "pending"), waiters=(Waiter(run=ROOT, session="s"),))
    decision = _decide(facts, REFUSED)
    [finished] = decision.finished
    assert (finished.state, finished.worker) == ("failed", None)
    [reply] = _replies(decision)
    assert isinstance(reply, Finished)
    assert reply.failure == finished.failure
    assert reply.failure is not None
    assert reply.failure.type == "leveret.errors.PayloadError"
    assert "too large for the broker: over the limit" in reply.failure.message


@pytest.mark.parametrize(
    "run", [_run(ROOT, "succeeded"), _run(ROOT, "cancelled"), _run(ROOT, attempt=2), _run(OTHER)]
)
def test_a_refusal_of_what_is_over_changes_nothing(run: Run) -> None:
    assert _decide(_facts(run), REFUSED) == Decision()


def test_an_outcome_after_the_submission_in_one_batch_answers_the_submitter() -> None:
    facts = _facts(_run(ROOT))
    decision = _decide(
        facts, build.submit(build.submission(ROOT)), build.outcomes(build.outcome(ROOT))
    )
    assert [reply.type for reply in _replies(decision)] == ["finished"]


def test_a_submission_after_the_outcome_in_one_batch_is_answered_too() -> None:
    decision = _decide(
        _facts(_run(ROOT)),
        build.outcomes(build.outcome(ROOT)),
        build.submit(build.submission(ROOT)),
    )
    assert [reply.type for reply in _replies(decision)] == ["finished"]


def test_a_started_attempt_is_noted_with_its_worker() -> None:
    [attempt] = _decide(_facts(_run(ROOT)), build.started(ROOT)).started
    assert (attempt.run, attempt.attempt, attempt.worker) == (ROOT, 1, "w")


def test_news_in_one_message_are_taken_in_the_order_start_then_end() -> None:
    told = Outcomes(
        worker="w",
        outcomes=(build.outcome(ROOT),),
        started=(Started(run=ROOT, attempt=1, started_at=build.NOW),),
    )
    decision = _decide(_facts(_run(ROOT)), told)
    assert len(decision.started) == len(decision.finished) == 1
    assert decision.refused == ()


# -- cancellation ---------------------------------------------------------------------------------


def _tree() -> Facts:
    root, child = _run(ROOT, "running"), _run(CHILD, parent=ROOT)
    grandchild = _run(GRANDCHILD, "running", parent=CHILD)
    return _facts(
        root,
        waiters=(Waiter(run=ROOT, session="s"), Waiter(run=GRANDCHILD, session="worker-s")),
        below=((ROOT, root), (ROOT, child), (ROOT, grandchild)),
    )


def test_cancelling_stops_the_run_and_all_below_it() -> None:
    decision = _decide(_tree(), Cancel(session="s", request="c", runs=(ROOT,)))
    stopped = (ROOT, CHILD, GRANDCHILD)
    assert tuple(finished.run for finished in decision.finished) == stopped
    assert {finished.state for finished in decision.finished} == {"cancelled"}
    assert decision.cancelled == stopped
    assert _replies(decision) == [
        Finished(run=ROOT, state="cancelled"),
        Cancelled(request="c", runs=stopped),
    ]
    assert _replies(decision, "worker-s") == [Finished(run=GRANDCHILD, state="cancelled")]


def test_cancelling_twice_stops_nothing_more() -> None:
    cancel = Cancel(session="s", request="c", runs=(ROOT,))
    decision = _decide(_tree(), cancel, cancel)
    assert len(decision.finished) == 3
    assert _replies(decision)[-1] == Cancelled(request="c", runs=())


def test_cancelling_an_unknown_run_stops_nothing() -> None:
    decision = _decide(_facts(), Cancel(session="s", request="c", runs=(ROOT,)))
    assert _replies(decision) == [Cancelled(request="c", runs=())]
    assert not decision.writes


def test_a_cancellation_that_came_before_its_submission_counts() -> None:
    cancel = Cancel(session="s", request="c", runs=(ROOT,))
    decision = _decide(_facts(), cancel, build.submit(build.submission(ROOT)))
    assert decision.invocations == ()
    assert [finished.state for finished in decision.finished] == ["cancelled"]
    assert _replies(decision) == [
        Finished(run=ROOT, state="cancelled"),
        Cancelled(request="c", runs=(ROOT,)),
    ]


def test_a_run_made_below_one_that_has_ended_is_stopped_with_the_one_above() -> None:
    root, child = _run(ROOT, "running"), _run(CHILD, "succeeded", parent=ROOT)
    facts = _facts(root, child, below=((ROOT, root), (ROOT, child)))
    below = build.submit(build.submission(OTHER, "fit", parent=CHILD))
    decision = _decide(facts, below, Cancel(session="s", runs=(ROOT,)))
    assert decision.cancelled == (ROOT, OTHER)


def test_a_cancellation_without_a_request_is_not_answered() -> None:
    assert _replies(_decide(_facts(), Cancel(session="s", runs=(ROOT,)))) == []


def test_the_outcome_of_a_cancelled_run_is_refused() -> None:
    cancel = Cancel(session="s", runs=(ROOT,))
    decision = _decide(_tree(), cancel, build.outcomes(build.outcome(ROOT)))
    assert [late.reason for late in decision.refused] == ["the run is cancelled"]


def test_a_run_cancelled_in_the_batch_that_made_it_is_not_published() -> None:
    decision = _decide(
        _facts(),
        build.submit(build.submission(ROOT), build.submission(CHILD, "fit", parent=ROOT)),
        Cancel(session="s", runs=(ROOT,)),
    )
    assert len(decision.runs) == 2
    assert decision.invocations == ()
    assert [finished.run for finished in decision.finished] == [ROOT, CHILD]
    assert [reply.type for reply in _replies(decision)] == ["finished", "finished"]


@pytest.mark.parametrize("in_this_batch", [True, False])
def test_a_child_of_a_cancelled_run_is_born_cancelled(in_this_batch: bool) -> None:
    child = build.submit(build.submission(OTHER, "fit", parent=CHILD), session="worker-s")
    if in_this_batch:
        decision = _decide(_tree(), Cancel(session="s", runs=(ROOT,)), child)
    else:
        decision = _decide(_facts(_run(CHILD, "cancelled", parent=ROOT)), child)
    [new] = decision.runs
    assert (new.run.state, new.finished_at) == ("cancelled", build.NOW)
    assert not decision.invocations
    assert decision.waiters == (Waiter(run=OTHER, session="worker-s"),)
    assert _replies(decision, "worker-s")[-1] == Finished(run=OTHER, state="cancelled")


# -- the rest -------------------------------------------------------------------------------------


def test_the_latest_heartbeat_of_a_worker_is_kept() -> None:
    early, late = build.heartbeat(FLOW.id), build.heartbeat(FIT.id)
    assert _decide(_facts(), early, late).heartbeats == (late,)


def test_a_worker_that_leaves_is_forgotten() -> None:
    decision = _decide(_facts(), build.heartbeat(FLOW.id), Goodbye(worker="w"))
    assert (decision.heartbeats, decision.goodbyes) == ((), ("w",))


def test_hello_is_answered_with_the_version() -> None:
    decision = _decide(_facts(), Hello(session="s", request="h"))
    assert _replies(decision) == [Welcome(request="h", version="1.2")]
    assert not decision.writes


def test_questions_are_left_for_after_the_transaction() -> None:
    question = ListWorkers(session="s", request="q", project=None)
    decision = _decide(_facts(), question)
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
    facts = _facts(_run(ROOT), waiters=(Waiter(run=ROOT, session="s"),))
    assert _decide(facts, message) == _decide(facts, message)
