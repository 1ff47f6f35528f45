"""What the catalog's rows mean, as values."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from leveret_broker.identifiers import Kind
from leveret_broker.messages import (
    AttemptState,
    CodeRef,
    DefinitionRecord,
    Ended,
    Failure,
    Finished,
    Input,
    Invocation,
    RunOptions,
    RunState,
)
from leveret_broker.topology import work_queue_name

USUAL = RunOptions()
"""The options of a run that asks for nothing."""

STEP, STEP_VERSION = "leveret.step", "1"
"""The definition of a project's steps."""

TimerKind = Literal["retry", "sleep", "total", "queue"]
TIMERS: tuple[TimerKind, ...] = get_args(TimerKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """A registered task version or workflow revision."""

    id: str
    project: str
    kind: Kind
    name: str
    version: str
    """A task's version, or a workflow's revision in decimal digits."""
    fingerprint: str
    module: str
    qualname: str
    description: str
    registered_at: float
    """Seconds since the Unix epoch."""
    options: RunOptions | None = None
    """Of runs that bring none."""
    code: CodeRef | None = None
    """What was shipped last."""
    shipped_at: float | None = None

    @property
    def queue(self) -> str:
        """The queue in which its invocations wait; also its full identifier."""
        return work_queue_name(self.project, self.name, self.version)

    @property
    def revision(self) -> int | None:
        """A workflow's revision; `None` for a task."""
        return int(self.version) if self.kind == "workflow" else None

    def as_message(self) -> DefinitionRecord:
        return DefinitionRecord(
            id=self.id,
            project=self.project,
            kind=self.kind,
            name=self.name,
            version=self.version,
            queue=self.queue,
            description=self.description,
            registered_at=self.registered_at,
            code=self.code,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who executes a run's latest attempt, as far as it was told."""

    worker: str
    started_at: float
    leased_at: float | None = None
    """Since when it holds no delivery of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as far as a decision needs it; payloads stay in the catalog."""

    id: str
    project: str
    definition: str
    """The definition's database id."""
    kind: Kind
    root: str
    parent: str | None
    state: RunState
    since: float
    """When it came into this state, in seconds since the Unix epoch, like the other times."""
    attempt: int = 1
    """The number of the latest attempt; the first is 1."""
    round: int = 1
    """Grows with retries, not with losses."""
    parent_round: int = 1
    """The round of its parent in which it was opened."""
    failures: int = 0
    """Attempts that failed since it was opened."""
    losses: int = 0
    """Attempts whose worker was lost since it was opened."""
    options: RunOptions = USUAL
    key: str | None = None
    digest: str | None = None
    """A hash of the arguments, where they have one."""
    retried_by: str | None = None
    """The request that opened it last, if a person's did."""
    stopped_by: int | None = None
    """The attempt at its parent whose code stopped it, if it was cancelled so."""
    inputs: int = 0
    """How many runs it needs the results of."""
    waits_for: int = 0
    """How many of them have not succeeded yet; of a run that has ended, none."""
    is_input: bool = False
    """Whether others may need its result."""
    blames: str | None = None
    """The input for which it failed."""
    started_at: float | None = None
    finished_at: float | None = None
    failure: Failure | None = None
    """Of the latest attempt that failed."""
    holder: Holder | None = None

    @property
    def has_timers(self) -> bool:
        """Whether there may be something due for it."""
        options = self.options
        return bool(self.state == "waiting" or options.total_timeout or options.queue_timeout)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at executing a run."""

    run: str
    number: int
    state: AttemptState
    worker: str | None
    """`None` if no worker told of it."""
    started_at: float | None = None
    leased_at: float | None = None
    finished_at: float | None = None
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LostAttempt:
    """An attempt whose worker or process was lost."""

    number: int
    host: str | None
    finished_at: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NewCode:
    """Code to keep."""

    project: str
    digest: str
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker as the catalog knows it."""

    id: str
    host: str
    pid: int
    heartbeat_at: float
    is_alive: bool
    has_left: bool = False
    """It said goodbye, having given everything back."""

    def __str__(self) -> str:
        return f"{self.id} (process {self.pid} on {self.host})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiter:
    """A session that wants to hear how a run ends."""

    run: str
    session: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRun:
    """A row to insert."""

    run: Run
    identity: str
    ordinal: int
    asked_for: str
    """The identifier or name by which the caller meant the definition."""
    arguments: bytes
    created_at: float
    inputs: tuple[str, ...] = ()
    code: CodeRef | None = None
    """What was shipped to execute it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedRun:
    """A row to change, if it still is at the attempt and has ended or not as it had."""

    run: Run
    was_attempt: int
    had_ended: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a run ended, with its payload. For a sleep it is known beforehand."""

    run: str
    state: Ended
    attempt: int = 1
    """The run's last."""
    parent_round: int = 1
    """That in which it was opened."""
    stopped_by: int | None = None
    has_parent_ended: bool = False
    blames: str | None = None
    result: bytes | None = None
    error: bytes | None = None
    failure: Failure | None = None

    @property
    def has_payload(self) -> bool:
        return self.result is not None or self.error is not None or self.failure is not None

    def as_message(self) -> Finished:
        return Finished(
            run=self.run,
            state=self.state,
            attempt=self.attempt,
            parent_round=self.parent_round,
            stopped_by=self.stopped_by,
            has_parent_ended=self.has_parent_ended,
            blames=self.blames,
            result=self.result,
            error=self.error,
            failure=self.failure,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Timer:
    """Something that is due."""

    run: str
    kind: TimerKind
    due_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingRun:
    """A run whose invocation is to be published, with all that the invocation carries."""

    run: Run
    queue: str
    arguments: bytes
    again: bool = False
    """It may have been published before."""
    inputs: tuple[Input, ...] = ()
    code: CodeRef | None = None

    def as_message(self) -> Invocation:
        run, options = self.run, self.run.options
        return Invocation(
            run=run.id,
            attempt=run.attempt,
            root=run.root,
            parent=run.parent,
            arguments=self.arguments,
            round=run.round,
            timeout=options.timeout,
            announce=options.queue_timeout is not None,
            again=self.again,
            claim=run.losses > 0,
            inputs=self.inputs,
            code=self.code,
        )

    def as_copy(self) -> "PendingRun":
        """The same, published once more."""
        return replace(self, again=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedAttempt:
    """An attempt whose invocation is in its queue."""

    run: str
    attempt: int


# -- what the coordinator tells itself ------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedAttempt:
    """An attempt whose invocation the broker refuses, now and at every other try."""

    run: str
    attempt: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphan:
    """An attempt whose worker is gone."""

    run: str
    attempt: int
    worker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Vanished:
    """An attempt whose invocation seems to have gone from its queue."""

    run: str
    attempt: int


Internal = RefusedAttempt | Orphan | Vanished | Timer


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """What the broker confirmed: no longer to be published again."""

    published: tuple[PublishedAttempt, ...] = ()
    settled: tuple[Waiter, ...] = ()
    """Those who were told the end of a run, or are gone."""

    def __bool__(self) -> bool:
        return bool(self.published or self.settled)

    def __add__(self, other: "Confirmed") -> "Confirmed":
        return Confirmed(
            published=self.published + other.published, settled=self.settled + other.settled
        )
