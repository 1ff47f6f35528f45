"""Runs that are asked for: made, found, opened again, or refused. Pure.

A submission that comes again finds the run that it made, whatever became of it: that is how a
workflow goes on after a crash. What failed is executed again only for a later round of its parent.
"""

from leveret_broker.identifiers import is_database_id
from leveret_broker.messages import (
    Accepted,
    Attach,
    Recorded,
    Rejected,
    Submission,
    Submit,
    Unserved,
)
from leveret_coordinator import confinement, inputs, opening, resolution, states
from leveret_coordinator.errors import Invalid, KeyTaken, RequestRefused, UnknownRun, Unready
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import (
    STEP,
    STEP_VERSION,
    USUAL,
    Definition,
    End,
    NewRun,
    Run,
)


def submit(message: Submit, ledger: Ledger, *, is_late: bool = False) -> Submit | None:
    """Make or find each of the runs, and tell the session what it wants to hear of them.

    Returns the submissions whose inputs may come later in the batch; a late one is refused.
    """
    unready: list[Submission] = []
    for submission in message.submissions:
        try:
            run = _found_or_made(submission, ledger)
        except RequestRefused as refusal:
            if isinstance(refusal, Unready) and not is_late:
                unready.append(submission)
            else:
                ledger.answer(message.session, _rejected(submission.run, refusal, ledger))
        else:
            _tell(run, submission, message.session, ledger)
    return message.model_copy(update={"submissions": tuple(unready)}) if unready else None


def attach(message: Attach, ledger: Ledger) -> None:
    """Tell the session how the runs end."""
    for run in message.runs:
        found = ledger.run(run)
        if found is None or confinement.is_foreign(found, message.project):
            ledger.answer(message.session, _rejected(run, UnknownRun(unknown(run)), ledger))
        else:
            _tell_end(run, message.session, ledger)


def unknown(run: str, project: str | None = None) -> str:
    """What is told of a run that does not exist, or not for those who know this project only."""
    where = "in this catalog" if project is None else f"of the project {project!r} in this catalog"
    return (
        f"There is no run {run!r} {where}: there never was, or it was pruned. `leveret runs list` "
        "shows those that exist."
    )


def _found_or_made(submission: Submission, ledger: Ledger) -> Run:
    run = ledger.run(submission.run)
    if run is None:
        return _made(submission, ledger)
    _check_project(run, submission)
    _check_key(run, submission)
    if not _is_of_a_later_round(run, submission, ledger):
        return run
    if run.state == "succeeded":
        return run
    if not states.has_ended(run.state):
        return ledger.change(run, parent_round=submission.round)  # it is that round's from now on
    if submission.recorded is not None:
        return _recorded_anew(run, submission.recorded, submission.round, ledger)
    inputs.check(submission, run.project, ledger)
    return inputs.reopen(run, ledger, parent_round=submission.round)


def _check_project(run: Run, submission: Submission) -> None:
    if submission.confined and confinement.is_foreign(run, submission.project):
        raise Invalid(f"The run {run.id} is not of the project {submission.project!r}.")


def _check_key(run: Run, submission: Submission) -> None:
    if submission.key is None or None in (run.digest, submission.digest):
        return
    if run.digest != submission.digest:
        raise KeyTaken(
            f"The key {submission.key!r} belongs to the run {run.id}, which has other arguments. "
            "Use another key, or the same arguments."
        )


def _is_of_a_later_round(run: Run, submission: Submission, ledger: Ledger) -> bool:
    """Whether its parent asks in a later round. Not one that has ended: there nobody waits."""
    parent = ledger.run(submission.parent) if submission.parent is not None else None
    return (
        parent is not None
        and not states.has_ended(parent.state)
        and run.parent_round < submission.round
    )


def _tell(run: Run, submission: Submission, session: str, ledger: Ledger) -> None:
    definition = ledger.definition(run.definition)
    if submission.acknowledge:
        ledger.answer(session, Accepted(run=run.id, definition=definition.as_message()))
    if not submission.is_input:
        _tell_end(run.id, session, ledger)
    if (run.state in ("pending", "queued") or run.waits_for) and not ledger.is_served(
        definition.id
    ):
        _tell_unserved(run, definition, session, ledger)


def _tell_unserved(run: Run, definition: Definition, session: str, ledger: Ledger) -> None:
    is_shipped = definition.code is not None
    if is_shipped:
        ledger.tell_shipped(definition.project)
    if not (is_shipped and ledger.is_accepting(definition.project)):
        ledger.answer(session, Unserved(run=run.id, queue=definition.queue, shipped=is_shipped))


def _tell_end(run: str, session: str, ledger: Ledger) -> None:
    """Tell how the run ended, or tell it later.

    A note is made either way: it goes when the broker has confirmed the answer.
    """
    ended = ledger.ended(run)
    if ended is not None:
        ledger.answer(session, ended)
    ledger.wait(run, session)


# -- new ones -------------------------------------------------------------------------------------


def _made(submission: Submission, ledger: Ledger) -> Run:
    if not (submission.run.startswith("run_") and is_database_id(submission.run)):
        raise Invalid(f"{submission.run!r} is not the id of a run.")
    parent = _parent(submission, ledger)
    if submission.recorded is not None:
        return _recorded(submission, submission.recorded, parent, ledger)
    definition = resolution.resolve_target(
        submission.target,
        project=parent.project if parent else submission.project,
        known=(
            confinement.known_within(ledger.known, submission.project)
            if submission.confined
            else ledger.known
        ),
    )
    if definition.kind == "step":
        raise Invalid(f"{submission.target.identifier!r} is no task or workflow.")
    inputs.check(submission, definition.project, ledger)
    run = _inserted(submission, definition, parent, ledger)
    if parent is not None and states.has_ended(parent.state):
        # Nobody waits for it: what its parent left behind when it ended, or a second copy of it.
        run = ledger.change(run, "cancelled", finished_at=ledger.now)
        ledger.end(End(run=run.id, state="cancelled", parent_round=run.parent_round))
        return run
    opening.start_clocks(run, ledger)
    return inputs.begin(run, ledger) if run.inputs else run


def _parent(submission: Submission, ledger: Ledger) -> Run | None:
    if submission.parent is None:
        return None
    parent = ledger.run(submission.parent)
    if parent is None:
        raise Invalid(
            f"The run {submission.parent!r}, which is to be the parent of {submission.run!r}, "
            "is not in this catalog."
        )
    _check_project(parent, submission)
    if parent.losses and parent.kind == "workflow":
        ledger.change(parent, losses=0)  # it came further than before it was lost
    return parent


def _inserted(
    submission: Submission, definition: Definition, parent: Run | None, ledger: Ledger
) -> Run:
    needed = tuple(dict.fromkeys(submission.inputs))
    for made in needed:
        _mark_as_input(made, ledger)
    run = Run(
        id=submission.run,
        project=definition.project,
        definition=definition.id,
        kind=definition.kind,
        root=parent.root if parent else submission.run,
        parent=parent.id if parent else None,
        state="pending",
        since=ledger.now,
        parent_round=submission.round,
        options=submission.options or definition.options or USUAL,
        key=submission.key,
        digest=submission.digest,
        inputs=len(needed),
        is_input=submission.is_input,
    )
    ledger.insert(
        NewRun(
            run=run,
            identity=submission.identity,
            ordinal=submission.ordinal,
            asked_for=_asked_for(submission),
            arguments=submission.arguments,
            created_at=ledger.now,
            inputs=needed,
            code=submission.target.code or definition.code,
        )
    )
    return run


def _mark_as_input(made: str, ledger: Ledger) -> None:
    run = ledger.run(made)
    if run is not None and not run.is_input:
        ledger.change(run, is_input=True)


def _asked_for(submission: Submission) -> str:
    target = submission.target
    if submission.recorded is not None:
        return submission.recorded.name
    if target.identifier is not None:
        return target.identifier
    return f"{target.name}:{target.version}" if target.version else f"{target.name}"


# -- steps ----------------------------------------------------------------------------------------


def _recorded(
    submission: Submission, recorded: Recorded, parent: Run | None, ledger: Ledger
) -> Run:
    """The row of a step."""
    if parent is None:
        raise Invalid(f"The step {recorded.name!r} belongs to no run.")
    run = _inserted(submission, _step_definition(parent.project, ledger), parent, ledger)
    if not states.has_ended(parent.state):
        return _kept(run, recorded, ledger)
    run = ledger.change(run, "cancelled", finished_at=ledger.now)
    ledger.end(End(run=run.id, state="cancelled", parent_round=run.parent_round))
    return run


def _recorded_anew(run: Run, recorded: Recorded, parent_round: int, ledger: Ledger) -> Run:
    """What a step that did not succeed ended with is replaced."""
    ledger.reopen(run.id)
    run = ledger.change(
        run, "reopened", parent_round=parent_round, finished_at=None, failure=None, stopped_by=None
    )
    return _kept(run, recorded, ledger)


def _kept(run: Run, recorded: Recorded, ledger: Ledger) -> Run:
    """The step as it was recorded: it has ended, or does when it is due."""
    end = End(
        run=run.id,
        state="succeeded" if recorded.failure is None else "failed",
        parent_round=run.parent_round,
        result=recorded.result,
        error=recorded.error,
        failure=recorded.failure,
    )
    if recorded.delay is not None:
        run = ledger.change(run, "delayed")
        ledger.foresee(end)
        ledger.set_timer(run.id, "sleep", ledger.now + recorded.delay)
        return run
    run = ledger.change(run, end.state, finished_at=ledger.now, failure=end.failure)
    ledger.end(end)
    return run


def _step_definition(project: str, ledger: Ledger) -> Definition:
    for definition in ledger.known.definitions:
        if definition.project == project and definition.name == STEP:
            return definition
    made = Definition(
        id=ledger.issue("step"),
        project=project,
        kind="step",
        name=STEP,
        version=STEP_VERSION,
        fingerprint="",
        module="leveret",
        qualname="step",
        description="What `leveret.step` recorded",
        registered_at=ledger.now,
    )
    ledger.put_definitions([made])
    return made


def _rejected(run: str, refusal: RequestRefused, ledger: Ledger) -> Rejected:
    arguments = ledger.arguments.get(run) if isinstance(refusal, KeyTaken) else None
    return Rejected(run=run, code=refusal.code, message=str(refusal), arguments=arguments)
