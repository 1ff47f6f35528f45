"""What the catalog's rows mean, as values."""

from dataclasses import dataclass

from leveret_broker.identifiers import Kind
from leveret_broker.messages import DefinitionRecord, Ended, Failure, Finished, Invocation, RunState
from leveret_broker.topology import work_queue_name


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
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as far as a decision needs it; payloads stay in the catalog."""

    id: str
    project: str
    definition: str
    """The definition's database id."""
    root: str
    parent: str | None
    state: RunState
    attempt: int
    """The number of the latest attempt; the first is 1."""


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
    finished_at: float | None
    """Set if it is born cancelled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartedAttempt:
    """News of an attempt that is executing."""

    run: str
    attempt: int
    worker: str
    started_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedAttempt:
    """The end of a run, by one attempt at it or without."""

    run: str
    attempt: int
    state: Ended
    finished_at: float
    started_at: float | None = None
    worker: str | None = None
    """`None` if no worker told it: for a cancellation, and for what was never handed to one."""
    result: bytes | None = None
    error: bytes | None = None
    failure: Failure | None = None

    def as_message(self) -> Finished:
        return Finished(
            run=self.run,
            state=self.state,
            result=self.result,
            error=self.error,
            failure=self.failure,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingRun:
    """A run whose invocation is to be published, with all that the invocation carries."""

    run: Run
    queue: str
    arguments: bytes

    def as_message(self) -> Invocation:
        return Invocation(
            run=self.run.id,
            attempt=self.run.attempt,
            root=self.run.root,
            parent=self.run.parent,
            arguments=self.arguments,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedAttempt:
    """An attempt whose invocation is in its queue."""

    run: str
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedAttempt:
    """An attempt whose invocation the broker refuses, now and at every other try."""

    run: str
    attempt: int
    reason: str


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
