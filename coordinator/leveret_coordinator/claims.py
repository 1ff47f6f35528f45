"""May a worker execute this attempt? Pure.

A worker asks where it can't know: the delivery was handed to somebody before, the invocation was
published before, or a cancellation may have escaped the worker. Rules:

- What has ended, waits or is parked is executed by nobody.
- An attempt that was handed out before may have been executed, unheard. So its number is not used
  again: the claim is granted as the next attempt, and whatever the first one tells is refused.
- Who has the first copy may not have started it yet, nor have heard that its connection is lost:
  the verdict is held back until it has, or has heard that it is to stop.
- An attempt whose holder lives stays with it. Its delivery is gone, so from now on it is leased.
- An attempt whose holder is gone is lost, which counts, and the claim is granted as the next one.
"""

from leveret_broker.messages import Claim, Verdict
from leveret_coordinator import ending, news, opening
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import Run


def judge(claim: Claim, worker: str, ledger: Ledger) -> None:
    """Answer a claim, and note who executes the run if it is granted."""
    run = ledger.run(claim.run)
    granted = None if run is None else _granted(run, claim, worker, ledger)
    verdict = Verdict(run=claim.run, attempt=claim.attempt, granted=granted)
    is_next = run is not None and granted is not None and granted == run.attempt + 1
    ledger.judge(worker, verdict, is_hasty=is_next)


def _granted(run: Run, claim: Claim, worker: str, ledger: Ledger) -> int | None:
    if run.state not in ("pending", "queued", "running"):
        return None
    if run.attempt != claim.attempt:
        return _granted_before(run, claim, worker)
    holder = run.holder
    if holder is not None and holder.worker != worker:
        return _taken_over(run, claim, worker, ledger)
    if claim.handed_out and not claim.executing:
        return _granted_as_next(run, worker, ledger)
    started_at = ledger.now if claim.started_at is None else claim.started_at
    leased_at = ledger.now if claim.executing else None  # its delivery may be gone
    news.hold(run, worker, ledger, started_at=started_at, leased_at=leased_at)
    return run.attempt


def _granted_before(run: Run, claim: Claim, worker: str) -> int | None:
    """The same claim once more: its first answer may not have arrived."""
    is_the_next = run.attempt == claim.attempt + 1 and not claim.executing
    is_its_own = run.holder is not None and run.holder.worker == worker
    return run.attempt if is_the_next and is_its_own else None


def _granted_as_next(run: Run, worker: str, ledger: Ledger) -> int:
    """Whatever the attempt so far may tell counts no more."""
    ledger.stop(run.id, run.attempt)
    next_one = opening.requeue(run, ledger)
    news.hold(next_one, worker, ledger, started_at=ledger.now)
    return next_one.attempt


def _taken_over(run: Run, claim: Claim, worker: str, ledger: Ledger) -> int | None:
    """The claim of a run that another worker executes, as it told."""
    assert run.holder is not None
    holder = ledger.worker(run.holder.worker)
    if holder is not None and holder.is_alive:
        if run.holder.leased_at is None:
            other = run.holder
            news.hold(run, other.worker, ledger, started_at=other.started_at, leased_at=ledger.now)
        ledger.suspect(run.holder.worker)
        return None
    if claim.executing or not ending.lose_worker(run, ledger):
        return None
    return _granted_as_next(ledger.run(run.id) or run, worker, ledger)
