"""What follows from a batch of messages, as a value: what to write, then what to publish."""

from dataclasses import dataclass

from leveret_broker.messages import (
    Heartbeat,
    ListDefinitions,
    ListRuns,
    ListWorkers,
    Outcomes,
    Reply,
    ShowRun,
)
from leveret_coordinator.records import (
    Definition,
    FinishedAttempt,
    NewRun,
    PendingRun,
    StartedAttempt,
    Waiter,
)

Question = ListDefinitions | ListRuns | ShowRun | ListWorkers
"""Requests that are answered from the catalog, once the batch is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A reply and the session that it goes to."""

    session: str
    reply: Reply


@dataclass(frozen=True, kw_only=True, slots=True)
class LateOutcome:
    """News of an attempt that was refused, and why."""

    run: str
    attempt: int
    worker: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to write, then what to publish."""

    definitions: tuple[Definition, ...] = ()
    runs: tuple[NewRun, ...] = ()
    waiters: tuple[Waiter, ...] = ()
    started: tuple[StartedAttempt, ...] = ()
    finished: tuple[FinishedAttempt, ...] = ()
    heartbeats: tuple[Heartbeat, ...] = ()
    """The latest of each worker."""
    goodbyes: tuple[str, ...] = ()

    queues: tuple[str, ...] = ()
    """Work queues to declare."""
    invocations: tuple[PendingRun, ...] = ()
    answers: tuple[Answer, ...] = ()
    cancelled: tuple[str, ...] = ()
    """Runs that every worker is told to stop."""
    questions: tuple[Question, ...] = ()
    refused: tuple[LateOutcome, ...] = ()
    unknown: tuple[Outcomes, ...] = ()
    """Outcomes of runs that are not in this catalog, to be set aside."""

    @property
    def writes(self) -> bool:
        """Whether there is anything to commit."""
        return any(
            (
                self.definitions,
                self.runs,
                self.waiters,
                self.started,
                self.finished,
                self.heartbeats,
                self.goodbyes,
            )
        )
