"""What the end of an attempt means for its run: an end, a retry, or a person's turn. Pure."""

from datetime import UTC, datetime

from leveret_broker.messages import Ended, Failure, RetryPolicy
from leveret_coordinator import opening, retrying
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import Attempt, End, LostAttempt, Run

WORKER_LOST = "leveret.errors.WorkerLost"
RUN_TIMEOUT = "leveret.errors.RunTimeout"
PAYLOAD_ERROR = "leveret.errors.PayloadError"
INPUT_FAILED = "leveret.errors.InputFailed"
"""What callers know the coordinator's own failures as."""

STEADY_AFTER = 60.0
"""Seconds after which the loss of a workflow says nothing of the workflow any more."""


def failure_of(type_: str, message: str) -> Failure:
    """A failure that no exception of the user's stands behind."""
    bases = (type_, "leveret.errors.LeveretError", "Exception", "BaseException")
    kinds = (*bases, "TimeoutError", "OSError") if type_ == RUN_TIMEOUT else bases
    return Failure(type=type_, message=message, kinds=kinds)


def end(
    run: Run,
    state: Ended,
    ledger: Ledger,
    *,
    result: bytes | None = None,
    error: bytes | None = None,
    failure: Failure | None = None,
    started_at: float | None = None,
    finished_at: float | None = None,
    blames: str | None = None,
) -> None:
    """The run has ended. `started_at` is of its last attempt."""
    at = ledger.now if finished_at is None else finished_at
    if run.has_timers:
        ledger.clear_timers(run.id)
    ledger.close_attempt(run, state)
    ledger.change(
        run,
        state,
        started_at=run.started_at or started_at,
        finished_at=at,
        failure=failure,
        holder=None,
        waits_for=0,
        blames=blames,
    )
    ledger.end(
        End(
            run=run.id,
            state=state,
            attempt=run.attempt,
            parent_round=run.parent_round,
            stopped_by=run.stopped_by,
            blames=blames,
            result=result,
            error=error,
            failure=failure,
        )
    )


def stop(run: Run, state: Ended, ledger: Ledger, *, failure: Failure | None = None) -> None:
    """The run ends for a reason that no worker told: whoever executes it is to stop."""
    if run.holder is not None:
        ledger.put_attempt(
            Attempt(
                run=run.id,
                number=run.attempt,
                state="cancelled" if failure is None else "timed-out",
                worker=run.holder.worker,
                finished_at=ledger.now,
                failure=failure,
            )
        )
    if run.state in ("pending", "queued", "running"):
        ledger.stop(run.id, run.attempt)
    end(run, state, ledger, failure=failure)


def fail(run: Run, failure: Failure, ledger: Ledger, *, error: bytes | None = None) -> None:
    """An attempt failed: try again later, park the run, or end it."""
    policy = run.options.retry
    if policy is None or not retrying.covers(policy, failure):
        end(run, "failed", ledger, error=error, failure=failure)
    elif run.failures < policy.max:
        _retry(run, policy, failure, ledger)
    elif policy.then == "park":
        ledger.change(run, "parked", failures=run.failures + 1, failure=failure, holder=None)
    else:
        end(run, "failed", ledger, error=error, failure=failure)


def _retry(run: Run, policy: RetryPolicy, failure: Failure, ledger: Ledger) -> None:
    delay = retrying.delay(policy, run.failures, ledger.chance())
    news = {"failures": run.failures + 1, "round": run.round + 1, "failure": failure}
    if delay <= 0:
        opening.requeue(run, ledger, **news)
        return
    ledger.change(run, "delayed", holder=None, **news)
    ledger.set_timer(run.id, "retry", ledger.now + delay)


def lose_worker(run: Run, ledger: Ledger) -> bool:
    """The worker that executed it is gone. Whether it may be executed once more.

    A worker that said goodbye gave everything back: what it seems to have is a leftover, no loss.
    """
    assert run.holder is not None, "somebody executed it"
    worker = ledger.worker(run.holder.worker)
    if worker is not None and worker.has_left:
        return True
    reason = f"the worker {worker or run.holder.worker} was lost"
    return lose(run, reason, ledger, host=worker.host if worker else None)


def lose(run: Run, reason: str, ledger: Ledger, *, host: str | None) -> bool:
    """Its worker or process died. Whether it may be executed once more; if not it has ended.

    Losses of a workflow count only in a row: one that came further, or was executed for a while,
    is not what kills its workers.
    """
    lost = LostAttempt(number=run.attempt, host=host, finished_at=ledger.now, reason=reason)
    ledger.note_loss(run.id, lost)
    ledger.put_attempt(
        Attempt(
            run=run.id,
            number=run.attempt,
            state="lost",
            worker=run.holder.worker if run.holder else None,
            finished_at=ledger.now,
            failure=failure_of(WORKER_LOST, reason),
        )
    )
    losses = 1 if _was_steady(run, ledger.now) else run.losses + 1
    if losses <= run.options.lost_retries:
        ledger.change(run, losses=losses)
        return True
    failure = failure_of(WORKER_LOST, _lost_for_good(run, losses, ledger))
    ledger.stop(run.id, run.attempt)
    end(run, "failed", ledger, failure=failure)
    return False


def _was_steady(run: Run, now: float) -> bool:
    # By the time at which the coordinator heard of it: the worker's clock may be another one.
    return run.kind == "workflow" and run.state == "running" and now - run.since >= STEADY_AFTER


def _lost_for_good(run: Run, losses: int, ledger: Ledger) -> str:
    queue = ledger.definition(run.definition).queue
    times = "once" if losses == 1 else f"{losses} times"
    told = "; ".join(_told(attempt) for attempt in ledger.losses(run.id)[-losses:])
    return (
        f"run {run.id} of {queue} lost what executed it {times}, and lost_retries="
        f"{run.options.lost_retries} allows no more: {told}"
    )


def _told(lost: LostAttempt) -> str:
    at = datetime.fromtimestamp(lost.finished_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    where = f" on {lost.host}" if lost.host else ""
    return f"attempt {lost.number}{where} at {at}: {lost.reason}"
