"""What people do to runs: cancel, retry, resume. Pure."""

from collections.abc import Sequence
from typing import Any

from leveret_broker.errors import InvalidName
from leveret_broker.identifiers import check
from leveret_broker.messages import Caller, Cancel, Cancelled, Refused, Retried, Retry
from leveret_coordinator import confinement, inputs, opening, states, submissions
from leveret_coordinator.errors import (
    Invalid,
    RequestRefused,
    Unidentified,
    UnknownRun,
    WrongState,
)
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import Definition, Run


def cancel(message: Cancel, ledger: Ledger) -> None:
    """Stop the runs and all below them."""
    try:
        stopped = _cancelled(message, ledger)
    except RequestRefused as refusal:
        _refuse(message.session, message.request, refusal, ledger)
        return
    if message.request is not None:
        ledger.answer(message.session, Cancelled(request=message.request, runs=tuple(stopped)))


def _cancelled(message: Cancel, ledger: Ledger) -> list[str]:
    if message.request is not None:
        for top in message.runs:
            _named(top, message.project, ledger)
    callers = {caller.run: caller for caller in message.callers}
    stopped: list[str] = []
    unneeded: list[str] = []
    for top in _of_project(message.runs, message.project, ledger):
        caller = callers.get(top)
        if caller is not None and _goes_on(caller, ledger):
            continue
        for run in ledger.unended_below(top):
            stopped.append(run.id)
            if caller is not None and run.id == top:
                run = ledger.change(run, stopped_by=caller.attempt)
            unneeded += inputs.stop(run, ledger)
    for made in _of_project(message.unneeded, message.project, ledger):
        caller = callers.get(made)
        if caller is None or not _goes_on(caller, ledger):
            unneeded.append(made)
    return stopped + inputs.stop_unneeded(unneeded, ledger)


def _of_project(runs: Sequence[str], project: str | None, ledger: Ledger) -> list[str]:
    return [run for run in runs if not confinement.is_foreign(ledger.run(run), project)]


def _goes_on(caller: Caller, ledger: Ledger) -> bool:
    """Whether another attempt at the workflow has taken over what this one had called."""
    parent = ledger.run(caller.parent)
    return parent is not None and parent.attempt != caller.attempt


def retry(message: Retry, ledger: Ledger) -> None:
    """Execute a run again, maybe by other code."""
    try:
        run = _retried(message, ledger)
    except RequestRefused as refusal:
        _refuse(message.session, message.request, refusal, ledger)
        return
    ledger.answer(
        message.session,
        Retried(
            request=message.request,
            run=run.id,
            attempt=run.attempt,
            definition=ledger.definition(run.definition).queue,
        ),
    )


def _retried(message: Retry, ledger: Ledger) -> Run:
    run = _named(message.run, message.project, ledger)
    if run.retried_by == message.request:
        return run  # the same request once more: its answer may not have arrived
    _check_state(run, message)
    fields: dict[str, Any] = {"retried_by": message.request}
    if message.version is not None:
        fields["definition"] = _other_version(run, message.version, ledger).id
    if run.state in ("failed", "cancelled", "parked"):
        return inputs.retry(run, ledger, **fields)
    if run.waits_for:
        return ledger.change(run, **fields)
    ledger.stop(run.id, run.attempt)
    return opening.requeue(run, ledger, round=run.round + 1, failures=0, losses=0, **fields)


def _check_state(run: Run, message: Retry) -> None:
    if run.kind == "step":
        raise WrongState(f"{run.id} is a step: retry the run that it belongs to, {run.parent}.")
    if message.resume and run.state != "parked":
        raise WrongState(
            f"The run {run.id} can't be resumed: it is {run.state}, and only a parked one can. "
            f"{_instead(run)}".rstrip()
        )
    if run.state == "succeeded":
        raise WrongState(f"The run {run.id} succeeded: there is nothing to retry.")
    if not message.resume and message.version is None and not _may_be_retried(run):
        raise WrongState(
            f"The run {run.id} can't be retried: it is {run.state}. `leveret why {run.id}` tells "
            "what it waits for."
        )


def _may_be_retried(run: Run) -> bool:
    is_delayed = run.state == "waiting" and not run.waits_for
    return states.has_ended(run.state) or run.state == "parked" or is_delayed


def _instead(run: Run) -> str:
    retriable = run.state in ("failed", "cancelled")
    return f"`leveret runs retry {run.id}` executes it again." if retriable else ""


def _other_version(run: Run, version: str, ledger: Ledger) -> Definition:
    now = ledger.definition(run.definition)
    try:
        check("version", version)
    except InvalidName as error:
        raise Invalid(f"{error}.") from error
    versions = {
        row.version: row
        for row in ledger.known.definitions
        if (row.project, row.name) == (now.project, now.name)
    }
    if version not in versions:
        what = "revision" if now.kind == "workflow" else "version"
        raise Unidentified(
            f"{now.name!r} has no {what} {version!r} in the project {now.project!r}; it has "
            f"{', '.join(sorted(versions))}."
        )
    return versions[version]


def _named(run_id: str, project: str | None, ledger: Ledger) -> Run:
    """The run that a person named. Raises `UnknownRun`, for one of another project as well: whose
    it is, and that it exists, is not for everybody to know."""
    run = ledger.run(run_id)
    if run is None or confinement.is_foreign(run, project):
        raise UnknownRun(submissions.unknown(run_id, project))
    return run


def _refuse(session: str, request: str | None, refusal: RequestRefused, ledger: Ledger) -> None:
    if request is not None:
        ledger.answer(session, Refused(request=request, code=refusal.code, message=str(refusal)))
