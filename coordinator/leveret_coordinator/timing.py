"""What is due: retries, ends of sleeps, timeouts. Pure."""

from leveret_coordinator import ending, inputs, opening, states
from leveret_coordinator.ending import RUN_TIMEOUT, failure_of
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import End, Run, Timer


def fire(timer: Timer, ledger: Ledger) -> None:
    """Do what a timer is for, if it is still wanted."""
    run = ledger.run(timer.run)
    ledger.clear_timers(timer.run, timer.kind)
    if run is None or states.has_ended(run.state):
        return
    match timer.kind:
        case "retry":
            if run.state == "waiting" and not run.waits_for:
                opening.requeue(run, ledger)
        case "sleep":
            _wake(run, ledger)
        case "queue":
            if run.state in ("pending", "queued"):
                _nobody_took(run, ledger)
        case "total":
            _took_too_long(run, ledger)


def _wake(run: Run, ledger: Ledger) -> None:
    """A sleep is over. Its result came with it, since nobody here could encode one."""
    ledger.change(run, "succeeded", finished_at=ledger.now)
    ledger.end(
        End(
            run=run.id,
            state="succeeded",
            parent_round=run.parent_round,
            result=ledger.foreseen(run.id),
        )
    )


def _nobody_took(run: Run, ledger: Ledger) -> None:
    text = (
        f"run {run.id} ended in attempt {run.attempt}: nobody took it within its queue_timeout of "
        f"{run.options.queue_timeout:g} s"
    )
    ending.stop(run, "failed", ledger, failure=failure_of(RUN_TIMEOUT, text))


def _took_too_long(run: Run, ledger: Ledger) -> None:
    text = (
        f"run {run.id} ended in attempt {run.attempt}: it had not ended within its total_timeout "
        f"of {run.options.total_timeout:g} s"
    )
    unneeded = [made.id for made in ledger.missing(run.id)] if run.waits_for else []
    for below in ledger.unended_below(run.id):
        if below.id == run.id:
            ending.stop(run, "failed", ledger, failure=failure_of(RUN_TIMEOUT, text))
        else:
            unneeded += inputs.stop(below, ledger)
    inputs.stop_unneeded(unneeded, ledger)
