"""New attempts at runs: after a failure, a loss, a give-back, or when somebody asks. Pure."""

from typing import Any

from leveret_coordinator import states
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import Run


def requeue(run: Run, ledger: Ledger, **fields: Any) -> Run:
    """Make the next attempt at a run that has not ended, and publish it."""
    return _open(run, "requeued", ledger, **fields)


def reopen(run: Run, ledger: Ledger, **fields: Any) -> Run:
    """Execute a run again that has ended or is parked, with fresh retries.

    What succeeded below it is kept; what failed is executed again, for its round is a later one.
    """
    ledger.reopen(run.id)
    reopened = _open(
        run,
        "reopened",
        ledger,
        round=run.round + 1,
        failures=0,
        losses=0,
        started_at=None,
        finished_at=None,
        failure=None,
        stopped_by=None,
        blames=None,
        **fields,
    )
    start_clocks(reopened, ledger)
    return reopened


def provide(run: Run, ledger: Ledger) -> None:
    """Publish the attempt of a run that has waited for its inputs."""
    _start_queue_clock(ledger.change(run, "provided", waits_for=0), ledger)
    ledger.dispatch(run.id)


def start_clocks(run: Run, ledger: Ledger) -> None:
    """Begin the times that a run as a whole, and its attempt in the queue, may take."""
    if run.options.total_timeout is not None:
        ledger.set_timer(run.id, "total", ledger.now + run.options.total_timeout)
    _start_queue_clock(run, ledger)


def _start_queue_clock(run: Run, ledger: Ledger) -> None:
    if run.options.queue_timeout is not None:
        ledger.set_timer(run.id, "queue", ledger.now + run.options.queue_timeout)


def _open(run: Run, event: states.Event, ledger: Ledger, **fields: Any) -> Run:
    ledger.close_attempt(run, "returned")
    opened = ledger.change(run, event, attempt=run.attempt + 1, holder=None, **fields)
    if run.state == "waiting":
        ledger.clear_timers(run.id, "retry")
    _start_queue_clock(opened, ledger)
    ledger.dispatch(run.id)
    return opened
