"""What workers tell of attempts: that one executes, and how one ended. Pure.

News of an attempt that is not the run's latest are refused: somebody else was given the run, or it
has ended. The worker is told to stop.
"""

import math

from leveret_broker.messages import Claim, Outcome, Outcomes, Started, Verdict
from leveret_coordinator import confinement, ending, opening, states
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import Attempt, Holder, Run


def of_project(message: Outcomes, ledger: Ledger) -> Outcomes:
    """What is about runs of the project that it has to be about; the rest is refused."""
    if message.project is None:
        return message

    def is_own(told: Outcome | Started | Claim) -> bool:
        is_foreign = confinement.is_foreign(ledger.run(told.run), message.project)
        if is_foreign:
            ledger.refuse(told, message.worker, "it is of another project")
        return not is_foreign

    update = {
        "outcomes": tuple(filter(is_own, message.outcomes)),
        "started": tuple(filter(is_own, message.started)),
        "claims": tuple(filter(is_own, message.claims)),
    }
    return message.model_copy(update=update)


def take(message: Outcomes, ledger: Ledger) -> Outcomes | None:
    """Take it all in. Returns what is about runs that are not in this catalog."""
    for started in message.started:
        _started(started, message.worker, ledger)
    for outcome in message.outcomes:
        _ended(outcome, message.worker, ledger)
    unknown = tuple(told for told in message.outcomes if ledger.run(told.run) is None)
    return Outcomes(worker=message.worker, outcomes=unknown) if unknown else None


def _started(started: Started, worker: str, ledger: Ledger) -> None:
    run = _current(started, "started", worker, ledger)
    if run is None:
        return
    if other := _other_holder(run, worker):
        _refuse(started, worker, f"{other} executes it", ledger)
        return
    hold(
        run,
        worker,
        ledger,
        started_at=started.started_at,
        leased_at=ledger.now if started.leased else None,
    )


def hold(
    run: Run, worker: str, ledger: Ledger, *, started_at: float, leased_at: float | None = None
) -> None:
    """A worker executes the run's latest attempt, and answers for it."""
    if run.options.queue_timeout is not None:
        ledger.clear_timers(run.id, "queue")
    if run.holder is not None:
        started_at = run.holder.started_at
        leased_at = leased_at or run.holder.leased_at
    ledger.change(
        run,
        "started",
        since=run.since if run.state == "running" else ledger.now,
        started_at=run.started_at or started_at,
        holder=Holder(worker=worker, started_at=started_at, leased_at=leased_at),
    )
    ledger.put_attempt(
        Attempt(
            run=run.id,
            number=run.attempt,
            state="running",
            worker=worker,
            started_at=started_at,
            leased_at=leased_at,
        )
    )


def _stopped(outcome: Outcome, worker: str, ledger: Ledger) -> None:
    """A worker was told to end an attempt.

    If the run has come further since, that was the coordinator's order. Otherwise somebody else
    gave it, who can write to the worker's control queue. What executed there is lost: it counts as
    that does, so that no number of such orders has a run executed for ever.
    """
    run = ledger.run(outcome.run)
    if run is None or run.attempt != outcome.attempt or run.state not in states.ACTIVE:
        return
    if _other_holder(run, worker):
        return
    ledger.note_stranger(outcome, worker)
    reason = f"the worker {ledger.worker(worker) or worker} was told to stop it by a stranger"
    lost = {"state": "lost", "failure": ending.failure_of(ending.WORKER_LOST, reason)}
    _ended(outcome.model_copy(update=lost), worker, ledger)


def _ended(outcome: Outcome, worker: str, ledger: Ledger) -> None:
    if outcome.state == "stopped":
        _stopped(outcome, worker, ledger)
        return
    event = _EVENTS[outcome.state]
    run = _current(outcome, event, worker, ledger)
    if run is None:
        return
    if outcome.state == "returned" and (other := _other_holder(run, worker)):
        _refuse(outcome, worker, f"{other} executes it", ledger)
        return
    ledger.put_attempt(
        Attempt(
            run=run.id,
            number=run.attempt,
            state=outcome.state,
            worker=worker,
            started_at=outcome.started_at,
            finished_at=outcome.finished_at,
            failure=outcome.failure,
        )
    )
    if run.state == "queued":
        ledger.note_reached(run.definition, run.since)
    if outcome.state == "succeeded":
        _note_pace(run, outcome, ledger)
        ending.end(
            run,
            "succeeded",
            ledger,
            result=outcome.result,
            started_at=outcome.started_at,
            finished_at=outcome.finished_at,
        )
        return
    run = ledger.change(run, started_at=run.started_at or outcome.started_at)
    match outcome.state:
        case "failed" | "timed-out":
            if outcome.state == "timed-out":
                _stop_below(run, ledger)
            failure = outcome.failure or ending.failure_of("unknown", "the worker told no failure")
            ending.fail(run, failure, ledger, error=outcome.error)
        case "lost":
            _lost(run, outcome, worker, ledger)
        case "returned":
            opening.requeue(run, ledger)


def _note_pace(run: Run, outcome: Outcome, ledger: Ledger) -> None:
    """How long the work takes, by who did all of it."""
    seconds = outcome.seconds
    if run.kind == "task" and seconds is not None and 0 <= seconds < math.inf:
        ledger.note_pace(run.definition, seconds)


def _lost(run: Run, outcome: Outcome, worker: str, ledger: Ledger) -> None:
    told = ledger.worker(worker)
    reason = outcome.failure.message if outcome.failure else "the process that executed it died"
    if ending.lose(run, reason, ledger, host=told.host if told else None):
        opening.requeue(ledger.run(run.id) or run, ledger)


def _stop_below(run: Run, ledger: Ledger) -> None:
    """What a workflow called goes with it when it takes too long.

    Here, and not by its worker: a request of the worker's might come when the next attempt has
    begun, and stop what that one called.
    """
    for below in ledger.unended_below(run.id):
        if below.id != run.id:
            ending.stop(below, "cancelled", ledger)


_EVENTS: dict[str, states.Event] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "timed-out": "failed",
    "lost": "requeued",
    "returned": "requeued",
}


def _current(
    news: Outcome | Started, event: states.Event, worker: str, ledger: Ledger
) -> Run | None:
    """The run, if this is news of its latest attempt, and it is still to end."""
    run = ledger.run(news.run)
    if run is None:
        _refuse(news, worker, "no such run", ledger)
    elif run.attempt != news.attempt:
        _refuse(news, worker, f"the attempt is {run.attempt}", ledger)
    elif run.state not in states.ACTIVE:
        _refuse(news, worker, f"the run is {run.state}", ledger)
    else:
        assert states.allows(run.state, event)
        return run
    return None


def _other_holder(run: Run, worker: str) -> str | None:
    """The worker that executes the run's attempt, if it is another one."""
    return run.holder.worker if run.holder is not None and run.holder.worker != worker else None


def _refuse(news: Outcome | Started, worker: str, reason: str, ledger: Ledger) -> None:
    ledger.refuse(news, worker, reason)
    if isinstance(news, Started):
        verdict = Verdict(run=news.run, attempt=news.attempt, granted=None)
        ledger.judge(worker, verdict)
