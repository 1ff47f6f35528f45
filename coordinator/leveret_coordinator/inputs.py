"""Runs that need the results of others: they wait for them, and fail with them. Pure.

Rules:

- An input exists before the run that has it, so nothing waits for what nobody has asked for. A
  submission that comes before those of its inputs is refused as unready, and sent again.
- How many inputs are missing is counted when a run is made or opened again. From then on the count
  goes down by the end of each, once, since what succeeded is never left.
- What waits is opened, or fails, in the transaction that has the end of its input.
- Whoever is stopped while it waits takes along what was made for it alone.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

from leveret_broker.messages import Submission
from leveret_coordinator import confinement, ending, opening, states
from leveret_coordinator.errors import Invalid, Unready
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import Run

LONGEST_REASON = 1000
"""Characters of an input's failure that a dependent's repeats."""


def check(submission: Submission, project: str, ledger: Ledger) -> None:
    """Raises `Unready` if an input is still to come, `Invalid` if it can be none."""
    for made in submission.inputs:
        run = ledger.run(made)
        is_hidden = submission.confined and confinement.is_foreign(run, project)
        if run is None or is_hidden:
            raise Unready(f"The run {made}, an input of {submission.run}, is not here yet.")
        if run.project != project:
            raise Invalid(
                f"The run {made} can't be an input of {submission.run}: it is not of the project "
                f"{project!r}."
            )
        _check_round(run, submission)


def _check_round(run: Run, submission: Submission) -> None:
    """What failed in an earlier round of their parent is about to be opened again."""
    has_failed = states.has_ended(run.state) and run.state != "succeeded"
    is_sibling = submission.parent is not None and run.parent == submission.parent
    if has_failed and is_sibling and run.parent_round < submission.round:
        raise Unready(
            f"The run {run.id}, an input of {submission.run}, is {run.state} in round "
            f"{run.parent_round}, and this is round {submission.round}."
        )


def begin(run: Run, ledger: Ledger) -> Run:
    """A run was made, or is opened again: it waits, if an input is missing, or fails with one."""
    missing = ledger.missing(run.id)
    for made in missing:
        if states.has_ended(made.state):
            _fail(run, made, ledger)
            return ledger.run(run.id) or run
    if not missing:
        ledger.dispatch(run.id)
        return run
    if run.options.queue_timeout is not None:
        ledger.clear_timers(run.id, "queue")
    return ledger.change(run, "delayed", waits_for=len(missing))


def reopen(run: Run, ledger: Ledger, **fields: Any) -> Run:
    """Execute a run again that has ended or is parked, once its inputs are there."""
    reopened = opening.reopen(run, ledger, **fields)
    return begin(reopened, ledger) if run.inputs else reopened


def retry(run: Run, ledger: Ledger, **fields: Any) -> Run:
    """The same, with those of its inputs, and theirs, that did not succeed."""
    tree = _in_order(run, ledger)
    for made in tree:
        if made.id != run.id and made.state in ("failed", "cancelled"):
            reopen(made, ledger)
    return reopen(run, ledger, **fields)


def _in_order(run: Run, ledger: Ledger) -> list[Run]:
    """What a run misses, each before what needs it; the run itself is the last."""
    found: dict[str, Run] = {}
    unseen: list[tuple[Run, bool]] = [(run, False)]
    while unseen:
        each, is_complete = unseen.pop()
        if is_complete:
            found.setdefault(each.id, each)
        elif each.id not in found:
            unseen.append((each, True))
            unseen += [(made, False) for made in ledger.missing(each.id)]
    return list(found.values())


def settle(ledger: Ledger) -> None:
    """Open what has got the last of its inputs, and end what has lost one."""
    while (made := ledger.take_ended_input()) is not None:
        if not states.has_ended(made.state):
            continue
        for run in ledger.dependents(made.id):
            if made.state != "succeeded":
                _fail(run, made, ledger)
            elif run.waits_for == 1:
                opening.provide(run, ledger)
            else:
                ledger.change(run, waits_for=run.waits_for - 1)


def _fail(run: Run, made: Run, ledger: Ledger) -> None:
    failure = ending.failure_of(ending.INPUT_FAILED, _reason(run, made, ledger))
    ending.end(run, "failed", ledger, failure=failure, blames=made.id)


def _reason(run: Run, made: Run, ledger: Ledger) -> str:
    of = ledger.definition(made.definition).queue
    text = f"run {run.id} was not executed, because its input {made.id} of {of} "
    if made.state == "cancelled" or made.failure is None:
        return f"{text}was {'cancelled' if made.state == 'cancelled' else made.state}"
    return f"{text}failed: {made.failure.type}: {made.failure.message}"[:LONGEST_REASON]


def stop_unneeded(runs: Iterable[str], ledger: Ledger) -> list[str]:
    """Stop those of the runs, and what they wait for, that nobody needs any more.

    Needed is what a session wants to hear the end of, or another run waits for. Returns the ids of
    all that were stopped.
    """
    stopped: list[str] = []
    unseen = deque(runs)
    while unseen:
        run = ledger.run(unseen.popleft())
        if run is None or ledger.is_awaited(run.id) or ledger.dependents(run.id):
            continue
        for below in ledger.unended_below(run.id):
            stopped.append(below.id)
            unseen.extend(stop(below, ledger))
    return stopped


def stop(run: Run, ledger: Ledger) -> list[str]:
    """Cancel a run; returns what it had waited for, which may be needed by nobody else."""
    inputs = [made.id for made in ledger.missing(run.id)] if run.waits_for else []
    ending.stop(run, "cancelled", ledger)
    return inputs
