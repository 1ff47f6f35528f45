"""Steps and sleeps: rows that no worker executes."""

from dataclasses import replace

import pytest

from leveret_broker.messages import (
    Accepted,
    Attach,
    Cancel,
    Finished,
    Recorded,
    Rejected,
    RunState,
    Submission,
    Submit,
    Target,
)
from leveret_coordinator.records import STEP, Run, Timer, Waiter
from leveret_coordinator.resolution import Known
from tests.coordinator import build
from tests.coordinator.deciding import (
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
    stopped,
)

STEPS = build.definition(9, f"p:{STEP}:1", "step")
KNOWN = Known(definitions=(FLOW, FIT, STEPS))
ID = build.run_id(5)
PARENT = run(ROOT, "running", holder=HELD)

RESULT = Recorded(name="app.roll", result=b"4")
OTHER_RESULT = Recorded(name="app.roll", result=b"6")
RAISED = Recorded(name="app.roll", error=b"e", failure=build.FAILURE)
SLEEP = Recorded(name="leveret.sleep", result=b"none", delay=30.0)


def record(
    recorded: Recorded,
    *,
    parent: str | None = ROOT,
    round: int = 1,
    key: str | None = None,
    digest: str | None = None,
    session: str = "s",
) -> Submit:
    submission = Submission(
        run=ID,
        target=Target(kind="step", name=STEP),
        project="p",
        arguments=b"",
        parent=parent,
        recorded=recorded,
        round=round,
        key=key,
        digest=digest,
    )
    return Submit(session=session, submissions=(submission,))


def _step(state: RunState, *, parent_round: int = 1) -> Run:
    return run(ID, state, definition=STEPS, parent=ROOT, parent_round=parent_round)


# -- recorded -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        (RESULT, Finished(run=ID, state="succeeded", result=b"4")),
        (RAISED, Finished(run=ID, state="failed", error=b"e", failure=build.FAILURE)),
    ],
    ids=["result", "error"],
)
def test_a_step_has_ended_when_it_is_recorded(recorded: Recorded, told: Finished) -> None:
    decision = decide(facts(PARENT, known=KNOWN), record(recorded))
    [new] = decision.runs
    assert (new.run.state, new.run.kind, new.run.finished_at) == (told.state, "step", build.NOW)
    assert (new.run.definition, new.run.parent, new.run.root) == (STEPS.id, ROOT, ROOT)
    assert new.asked_for == "app.roll"
    assert replies(decision) == [told]
    [end] = decision.ends
    assert end.as_message() == told
    assert decision.invocations == ()
    assert decision.attempts == ()


def test_the_first_step_of_a_project_brings_its_definition_once() -> None:
    another = Submission(
        run=build.run_id(6),
        target=Target(kind="step", name=STEP),
        project="p",
        arguments=b"",
        parent=ROOT,
        recorded=RESULT,
    )
    decision = decide(facts(PARENT), record(RESULT), Submit(session="s", submissions=(another,)))
    [definition] = decision.definitions
    assert (definition.project, definition.kind) == ("p", "step")
    assert (definition.name, definition.version) == (STEP, "1")
    assert {new.run.definition for new in decision.runs} == {definition.id}
    assert decision.queues == (), "nobody consumes steps"


def test_the_definition_that_the_catalog_has_is_used() -> None:
    decision = decide(facts(PARENT, known=KNOWN), record(RESULT))
    assert decision.definitions == ()
    assert needs(record(RESULT)).names == {STEP}


def test_the_first_record_wins_and_everybody_is_told_it() -> None:
    given = facts(PARENT, known=KNOWN)
    decision = decide(given, record(RESULT), record(OTHER_RESULT, session="copy"))
    told = Finished(run=ID, state="succeeded", result=b"4")
    assert replies(decision) == replies(decision, "copy") == [told]
    assert len(decision.runs) == len(decision.ends) == 1


def test_a_record_that_the_catalog_has_stays_as_it_is() -> None:
    told = Finished(run=ID, state="succeeded", result=b"4")
    given = facts(PARENT, _step("succeeded"), known=KNOWN, ended=[told])
    decision = decide(given, record(OTHER_RESULT, round=2))
    assert replies(decision) == [told]
    assert not decision.changed
    assert decision.ends == ()


def test_acceptance_of_a_step_is_told_to_who_asks_for_it() -> None:
    asked = record(RESULT)
    [submission] = asked.submissions
    asked = Submit(session="s", submissions=(submission.model_copy(update={"acknowledge": True}),))
    accepted, finished = replies(decide(facts(PARENT, known=KNOWN), asked))
    assert isinstance(accepted, Accepted)
    assert accepted.definition.queue == "p:leveret.step:1"
    assert isinstance(finished, Finished)


def test_asking_for_a_step_that_was_not_recorded_tells_so() -> None:
    [reply] = replies(decide(facts(PARENT), Attach(session="s", runs=(ID,))))
    assert isinstance(reply, Rejected)
    assert reply.code == "unknown-run"


def test_a_step_belongs_to_a_run() -> None:
    [reply] = replies(decide(facts(), record(RESULT, parent=None)))
    assert isinstance(reply, Rejected)
    assert reply.code == "invalid"
    assert "the step 'app.roll' belongs to no run" in reply.message.lower()


def test_a_step_of_an_unknown_run_is_rejected() -> None:
    [reply] = replies(decide(facts(), record(RESULT)))
    assert isinstance(reply, Rejected)
    assert reply.code == "invalid"


def test_steps_can_not_be_called_like_tasks() -> None:
    called = build.submit(build.submission(ID, "p:leveret.step:1", parent=ROOT))
    [reply] = replies(decide(facts(PARENT, known=KNOWN), called))
    assert isinstance(reply, Rejected)
    assert reply.code == "invalid"


def test_a_step_with_a_key_and_other_arguments_is_refused() -> None:
    there = run(ID, "succeeded", definition=STEPS, parent=ROOT, digest="d1")
    asked = record(RESULT, key="k", digest="d2")
    [reply] = replies(decide(facts(PARENT, there, known=KNOWN), asked))
    assert isinstance(reply, Rejected)
    assert reply.code == "key-conflict"


def test_a_step_shows_that_its_workflow_came_further() -> None:
    poison = run(ROOT, "running", losses=2, holder=HELD)
    decision = decide(facts(poison, known=KNOWN), record(RESULT))
    assert changed(decision)[ROOT].losses == 0


@pytest.mark.parametrize("recorded", [RESULT, SLEEP], ids=["step", "sleep"])
def test_a_step_of_a_run_that_has_ended_is_born_cancelled(recorded: Recorded) -> None:
    given = facts(run(ROOT, "cancelled"), known=KNOWN)
    decision = decide(given, record(recorded))
    [new] = decision.runs
    assert new.run.state == "cancelled"
    assert replies(decision) == [Finished(run=ID, state="cancelled", has_parent_ended=True)]
    assert decision.timers == ()
    assert decision.ends == ()


# -- in later rounds ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_step_that_did_not_succeed_is_recorded_anew_in_a_later_round(state: RunState) -> None:
    old = Finished(run=ID, state="failed", error=b"e")
    given = facts(PARENT, _step(state), known=KNOWN, ended=[old])
    decision = decide(given, record(OTHER_RESULT, round=2))
    step = changed(decision)[ID]
    assert (step.state, step.parent_round, step.finished_at) == ("succeeded", 2, build.NOW)
    assert replies(decision) == [Finished(run=ID, state="succeeded", parent_round=2, result=b"6")]
    assert decision.dispatched == (), "it is executed by nobody"
    assert [end.result for end in decision.ends] == [b"6"]
    assert decision.reopened == (ID,)


def test_a_failed_step_stays_failed_within_its_round() -> None:
    old = Finished(run=ID, state="failed", error=b"e")
    given = facts(PARENT, _step("failed", parent_round=2), known=KNOWN, ended=[old])
    decision = decide(given, record(OTHER_RESULT, round=2))
    assert replies(decision) == [old]
    assert not decision.changed


def test_a_sleep_that_was_cancelled_begins_anew_in_a_later_round() -> None:
    old = Finished(run=ID, state="cancelled")
    given = facts(PARENT, _step("cancelled"), known=KNOWN, ended=[old])
    decision = decide(given, record(SLEEP, round=2))
    step = changed(decision)[ID]
    assert (step.state, step.finished_at) == ("waiting", None)
    assert decision.timers == (Timer(run=ID, kind="sleep", due_at=build.NOW + 30),)
    assert decision.dispatched == ()
    assert replies(decision) == []
    assert [end.result for end in decision.ends] == [b"none"]


# -- sleeps ---------------------------------------------------------------------------------------

DUE = Timer(run=ID, kind="sleep", due_at=build.NOW)


def test_a_sleep_waits_for_its_time() -> None:
    decision = decide(facts(PARENT, known=KNOWN), record(SLEEP))
    [new] = decision.runs
    assert (new.run.state, new.run.finished_at) == ("waiting", None)
    assert decision.timers == (Timer(run=ID, kind="sleep", due_at=build.NOW + 30),)
    assert replies(decision) == []
    assert decision.waiters == (Waiter(run=ID, session="s"),)
    assert [end.result for end in decision.ends] == [b"none"], "kept for then"


def test_a_sleep_that_is_asked_for_again_goes_on() -> None:
    given = facts(PARENT, _step("waiting"), known=KNOWN)
    decision = decide(given, record(SLEEP, round=2), now=build.NOW + 20)
    assert changed(decision)[ID] == replace(_step("waiting"), parent_round=2)
    assert decision.timers == ()
    assert decision.waiters == (Waiter(run=ID, session="s"),)


def test_a_sleep_ends_when_it_is_due_with_the_result_that_came_with_it() -> None:
    given = facts(
        _step("waiting"),
        foreseen={ID: b"none"},
        waiters=[Waiter(run=ID, session="s")],
    )
    decision = decide(given, DUE)
    assert ended(decision) == [(ID, "succeeded")]
    assert replies(decision) == [Finished(run=ID, state="succeeded", result=b"none")]
    assert decision.cleared == ((ID, "sleep"),)
    assert needs(DUE).sleeping == {ID}


def test_a_sleep_that_is_over_in_the_batch_that_began_it_has_its_result() -> None:
    decision = decide(facts(PARENT, known=KNOWN), record(SLEEP), DUE)
    assert replies(decision) == [Finished(run=ID, state="succeeded", result=b"none")]
    assert decision.timers == ()


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
def test_a_sleep_ends_once(state: RunState) -> None:
    decision = decide(facts(_step(state)), DUE)
    assert ended(decision) == []
    assert replies(decision) == []


def test_a_sleep_is_cancelled_with_its_workflow() -> None:
    sleeping = _step("waiting")
    given = facts(
        PARENT,
        sleeping,
        below=((ROOT, PARENT), (ROOT, sleeping)),
        waiters=[Waiter(run=ID, session="s")],
    )
    decision = decide(given, Cancel(session="c", runs=(ROOT,)), DUE)
    assert dict(ended(decision)) == {ROOT: "cancelled", ID: "cancelled"}
    assert (ID, None) in decision.cleared
    assert stopped(decision) == [(ROOT, 1)], "no worker has the sleep"
    assert replies(decision) == [Finished(run=ID, state="cancelled", has_parent_ended=True)]


def test_a_sleep_that_was_cancelled_keeps_nothing_of_what_it_would_have_ended_with() -> None:
    sleeping = _step("waiting")
    given = facts(sleeping, below=((ID, sleeping),))
    decision = decide(given, Cancel(session="s", runs=(ID,)))
    assert decision.ends == ()
    assert decision.reopened == (ID,)
