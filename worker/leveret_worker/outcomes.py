"""What the end of an execution means, as the coordinator is told."""

from leveret.errors import RunTimeout
from leveret.failures import describe
from leveret_broker.messages import AttemptEnd, Failure, Outcome
from leveret_worker.execution import Execution
from leveret_worker.perform import Ending

NOTHING = Ending()
"""How an execution ends that was stopped or never ran."""


def outcome_of(execution: Execution, ending: Ending | None, *, now: float) -> Outcome:
    """A result counts, however it came about, unless nobody wants it. An error does only if nobody
    stopped the execution: code that is made to unwind raises all sorts of things."""
    assert execution.started_at is not None, "what ended was started"
    state, told = _state(execution, ending)
    return Outcome(
        run=execution.run,
        attempt=execution.number,
        state=state,
        result=told.result,
        error=told.error,
        failure=told.failure,
        started_at=execution.started_at,
        finished_at=now,
        seconds=execution.seconds,
    )


def _state(execution: Execution, ending: Ending | None) -> tuple[AttemptEnd, Ending]:
    if execution.is_dropped:  # whatever it made is not wanted
        return "stopped", NOTHING
    if ending is not None and ending.result is not None:
        return "succeeded", ending
    if execution.stopped_for == "timed-out":
        return "timed-out", Ending(failure=_timeout(execution))
    if ending is None or execution.stopped_for == "returned":
        return "returned", NOTHING
    return ("lost" if ending.is_lost else "failed"), ending


def _timeout(execution: Execution) -> Failure:
    return describe(
        RunTimeout(
            f"run {execution.run} of {execution.queue} was stopped in attempt {execution.number}, "
            f"by its timeout of {execution.invocation.timeout:g} s for one attempt"
        )
    )
