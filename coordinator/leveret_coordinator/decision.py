"""What follows from a batch of messages, as a value: what to write, then what to publish."""

from dataclasses import dataclass

from leveret_broker.messages import (
    Explain,
    FetchCode,
    Heartbeat,
    ListDefinitions,
    ListRuns,
    ListShipped,
    ListWorkers,
    Outcomes,
    Prune,
    Reply,
    ShowRun,
    Verdict,
)
from leveret_coordinator.records import (
    Attempt,
    ChangedRun,
    Definition,
    End,
    NewCode,
    NewRun,
    PendingRun,
    Timer,
    TimerKind,
    Waiter,
)

Question = (
    ListDefinitions | ListRuns | ShowRun | ListWorkers | Explain | ListShipped | FetchCode | Prune
)
"""Requests that are answered from the catalog, once the batch is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A reply and the session that it goes to."""

    session: str
    reply: Reply


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """Attempts at a run, up to this one, that the workers of its project are to stop."""

    project: str
    run: str
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A verdict and the worker that it goes to."""

    worker: str
    verdict: Verdict
    is_hasty: bool = False
    """Another worker may be about to start the same, and is to hear first that it must not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LateOutcome:
    """News of an attempt that was refused, and why."""

    run: str
    attempt: int
    worker: str
    reason: str
    started_at: float | None
    """When the worker began it, in seconds since the Unix epoch; `None` if it has not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppedByStranger:
    """An attempt that a worker was told to stop, and not by this coordinator."""

    run: str
    attempt: int
    worker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to write, then what to publish."""

    definitions: tuple[Definition, ...] = ()
    code: tuple[NewCode, ...] = ()
    runs: tuple[NewRun, ...] = ()
    changed: tuple[ChangedRun, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """As they are now, new or not."""
    ends: tuple[End, ...] = ()
    """Results and errors to keep."""
    reopened: tuple[str, ...] = ()
    """Runs whose results and errors are no longer theirs."""
    timers: tuple[Timer, ...] = ()
    cleared: tuple[tuple[str, TimerKind | None], ...] = ()
    """Timers that go, by run and kind; `None` for all of a run. Before `timers` are written."""
    waiters: tuple[Waiter, ...] = ()
    heartbeats: tuple[Heartbeat, ...] = ()
    """The latest of each worker."""
    goodbyes: tuple[str, ...] = ()

    queues: tuple[str, ...] = ()
    """Work queues to declare."""
    invocations: tuple[PendingRun, ...] = ()
    """Of new runs."""
    dispatched: tuple[str, ...] = ()
    """Runs with a new attempt, whose arguments the catalog has."""
    repeated: tuple[str, ...] = ()
    """Runs whose attempt is to be published once more."""
    answers: tuple[Answer, ...] = ()
    stops: tuple[Stopped, ...] = ()
    verdicts: tuple[Judged, ...] = ()
    joined: tuple[Heartbeat, ...] = ()
    """Those of workers that are told the generation of invocations that they needn't claim."""
    shipped: tuple[str, ...] = ()
    """Projects whose workers are told that something shipped has nobody to serve it yet."""
    paces: tuple[tuple[str, float], ...] = ()
    """How many seconds executions took, by definition: the mean of those told."""
    reached: tuple[tuple[str, float], ...] = ()
    """How far workers have come in queues, by definition: when the latest of what they took from
    there was published."""
    suspects: tuple[str, ...] = ()
    """Workers that seem to have lost what they executed."""
    questions: tuple[Question, ...] = ()
    refused: tuple[LateOutcome, ...] = ()
    strangers: tuple[StoppedByStranger, ...] = ()
    unknown: tuple[Outcomes, ...] = ()
    """Outcomes of runs that are not in this catalog, to be set aside."""

    @property
    def writes(self) -> bool:
        """Whether there is anything to commit."""
        return any(
            (
                self.definitions,
                self.code,
                self.runs,
                self.changed,
                self.attempts,
                self.timers,
                self.cleared,
                self.waiters,
                self.heartbeats,
                self.goodbyes,
            )
        )
