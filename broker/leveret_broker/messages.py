"""Everything that travels: one frozen model a message, validated when it arrives.

Payloads (arguments, results, errors) are opaque bytes here; only the SDK and the workers can read
them. Fields that a newer version added are ignored, so that versions can meet during an upgrade.

    caller, worker → coordinator    `leveret.requests`        a `Request`
    coordinator → caller            `replies:<session>`       `Replies`
    coordinator → worker            `project:name:version`    `Invocations`
    worker → coordinator            `leveret.outcomes`        `Outcomes`
    coordinator → every worker      the fan-out `leveret.control`   `Control`
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from leveret_broker.identifiers import Kind

RunState = Literal["pending", "queued", "running", "succeeded", "failed", "cancelled"]
Ended = Literal["succeeded", "failed", "cancelled"]


class Wire(BaseModel):
    """Frozen, and tolerant of fields that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


# -- values in messages ---------------------------------------------------------------------------


class DefinitionSpec(Wire):
    """A definition as its code declares it."""

    kind: Kind
    name: str
    version: str | None
    """A task's version, or the revision that a workflow asks for; `None`: the catalog issues it."""
    fingerprint: str
    """A hash of the code's syntax tree."""
    module: str
    qualname: str
    description: str = ""


class DefinitionRecord(Wire):
    """A definition as the catalog knows it."""

    id: str
    project: str
    kind: Kind
    name: str
    version: str
    """A task's version, or a workflow's revision in decimal digits."""
    queue: str
    description: str = ""
    registered_at: float = 0.0
    """Seconds since the Unix epoch."""


class Target(Wire):
    """What a submission wants run: an identifier as a person wrote it, or a definition in code."""

    identifier: str | None = None
    kind: Kind | None = None
    name: str | None = None
    version: str | None = None
    fingerprint: str | None = None
    """Of a workflow's code: the submission means exactly this code."""


class Submission(Wire):
    """One run asked for. Its id is the caller's, so asking twice is asking once."""

    run: str
    target: Target
    project: str | None
    """The project known to the caller: settings, or the project of the workflow run it is."""
    arguments: bytes
    parent: str | None = None
    root: str | None = None
    """The root of the parent's tree; `None` for a root run."""
    identity: str = ""
    """What `child_run_id` derived the id from."""
    ordinal: int = 0
    acknowledge: bool = False
    """Answer with `Accepted` as soon as it is committed, not only when the run ended."""


class Failure(Wire):
    """How a run failed, for people and for programs that can't load the error itself."""

    type: str
    """The exception's qualified name, with its module unless that is `builtins`."""
    message: str
    traceback: str = ""


class Invocation(Wire):
    """One attempt at one run, handed to a worker."""

    run: str
    attempt: int
    root: str
    parent: str | None
    arguments: bytes


class Outcome(Wire):
    """How one attempt ended."""

    run: str
    attempt: int
    state: Ended
    result: bytes | None = None
    """Set if it succeeded."""
    error: bytes | None = None
    """Set if it did not: the exception, readable with the project's key."""
    failure: Failure | None = None
    started_at: float
    finished_at: float


class Started(Wire):
    """An attempt that has been executing for a while: news for people who look."""

    run: str
    attempt: int
    started_at: float


# -- requests: callers and workers to the coordinator ---------------------------------------------


class Hello(Wire):
    """Is anybody there? Answered by `Welcome`."""

    type: Literal["hello"] = "hello"
    session: str
    request: str


class Register(Wire):
    """Make these definitions known. Answered by `Registered` or `Refused`."""

    type: Literal["register"] = "register"
    session: str
    request: str
    project: str
    definitions: tuple[DefinitionSpec, ...]


class Resolve(Wire):
    """What does this identifier mean here? Answered by `Resolved` or `Refused`."""

    type: Literal["resolve"] = "resolve"
    session: str
    request: str
    identifier: str
    project: str | None


class Submit(Wire):
    """Run these. Each is answered by run id: `Accepted` if asked for, `Finished`, or `Rejected`."""

    type: Literal["submit"] = "submit"
    session: str
    submissions: tuple[Submission, ...]


class Attach(Wire):
    """Tell me how these runs end. Each is answered by run id: `Finished`, or `Rejected`."""

    type: Literal["attach"] = "attach"
    session: str
    runs: tuple[str, ...]


class Cancel(Wire):
    """Stop these runs and all below them. Answered, if `request` is set, by `Cancelled`."""

    type: Literal["cancel"] = "cancel"
    session: str
    request: str | None = None
    runs: tuple[str, ...]


class ListDefinitions(Wire):
    """Answered by `Rows` of `DefinitionRow`."""

    type: Literal["list-definitions"] = "list-definitions"
    session: str
    request: str
    project: str | None


class ListRuns(Wire):
    """Answered by `Rows` of `RunRow`, newest first."""

    type: Literal["list-runs"] = "list-runs"
    session: str
    request: str
    project: str | None
    state: RunState | None = None
    definition: str | None = None
    """An identifier, or a bare name for all its versions."""
    since: float | None = None
    """Seconds since the Unix epoch."""
    limit: int = Field(default=50, ge=1, le=1000)
    roots_only: bool = False


class ShowRun(Wire):
    """Answered by `Tree` or `Refused`."""

    type: Literal["show-run"] = "show-run"
    session: str
    request: str
    run: str


class ListWorkers(Wire):
    """Answered by `Rows` of `WorkerRow`."""

    type: Literal["list-workers"] = "list-workers"
    session: str
    request: str
    project: str | None


class Heartbeat(Wire):
    """A worker is alive. The first one makes it known."""

    type: Literal["heartbeat"] = "heartbeat"
    worker: str
    """An id that is new at every start of a worker."""
    project: str
    host: str
    pid: int
    slots: int
    busy: int
    started_at: float
    definitions: tuple[str, ...]
    """The ids of the definitions it serves."""


class Goodbye(Wire):
    """A worker leaves, having drained."""

    type: Literal["goodbye"] = "goodbye"
    worker: str


Request = Annotated[
    Hello
    | Register
    | Resolve
    | Submit
    | Attach
    | Cancel
    | ListDefinitions
    | ListRuns
    | ShowRun
    | ListWorkers
    | Heartbeat
    | Goodbye,
    Field(discriminator="type"),
]


# -- replies: the coordinator to one session ------------------------------------------------------


class Welcome(Wire):
    type: Literal["welcome"] = "welcome"
    request: str
    version: str
    """Of leveret, on the coordinator's side."""


class Registered(Wire):
    type: Literal["registered"] = "registered"
    request: str
    definitions: tuple[DefinitionRecord, ...]
    """In the order in which they were sent."""


class Resolved(Wire):
    type: Literal["resolved"] = "resolved"
    request: str
    definition: DefinitionRecord


RefusalCode = Literal["unidentified", "not-deployed", "conflict", "unknown-run", "invalid"]


class Refused(Wire):
    """The answer to a request that can't be met."""

    type: Literal["refused"] = "refused"
    request: str
    code: RefusalCode
    message: str


class Cancelled(Wire):
    type: Literal["cancelled"] = "cancelled"
    request: str
    runs: tuple[str, ...]
    """All that were stopped, those below them included; what had ended before is not among them."""


class Accepted(Wire):
    """The run is kept: from here on it reaches an end."""

    type: Literal["accepted"] = "accepted"
    run: str
    definition: DefinitionRecord


class Rejected(Wire):
    """The run was not accepted, or there is no such run."""

    type: Literal["rejected"] = "rejected"
    run: str
    code: RefusalCode
    message: str


class Unserved(Wire):
    """The run was accepted, and no live worker serves its definition: it waits."""

    type: Literal["unserved"] = "unserved"
    run: str
    queue: str


class Finished(Wire):
    """The run has ended."""

    type: Literal["finished"] = "finished"
    run: str
    state: Ended
    result: bytes | None = None
    error: bytes | None = None
    failure: Failure | None = None


class DefinitionRow(Wire):
    """A definition in a listing."""

    definition: DefinitionRecord
    workers: int
    """Live workers that serve it."""


class RunRow(Wire):
    """A run in a listing or a tree. Times are seconds since the Unix epoch."""

    id: str
    project: str
    definition: str
    """Its `project:name:version`."""
    kind: Kind
    state: RunState
    attempt: int
    root: str
    parent: str | None
    ordinal: int
    asked_for: str
    """The identifier or the name by which the caller meant the definition."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    worker: str | None
    """The worker that executed the latest attempt, or executes it."""
    host: str | None
    failure: Failure | None


class WorkerRow(Wire):
    """A worker in a listing."""

    id: str
    project: str
    host: str
    pid: int
    slots: int
    busy: int
    started_at: float
    heartbeat_at: float
    definitions: tuple[str, ...]
    """`project:name:version` of each it serves."""


class Rows(Wire):
    type: Literal["rows"] = "rows"
    request: str
    definitions: tuple[DefinitionRow, ...] = ()
    runs: tuple[RunRow, ...] = ()
    workers: tuple[WorkerRow, ...] = ()


class Tree(Wire):
    """A run with all below it, parents before children, siblings in the order of their creation."""

    type: Literal["tree"] = "tree"
    request: str
    runs: tuple[RunRow, ...]


Reply = Annotated[
    Welcome
    | Registered
    | Resolved
    | Refused
    | Cancelled
    | Accepted
    | Rejected
    | Unserved
    | Finished
    | Rows
    | Tree,
    Field(discriminator="type"),
]


class Replies(Wire):
    """What the coordinator has for one session, as much as is waiting."""

    type: Literal["replies"] = "replies"
    replies: tuple[Reply, ...]


# -- work -----------------------------------------------------------------------------------------


class Invocations(Wire):
    """Runs of one definition for whichever worker takes the message: settled together."""

    type: Literal["invocations"] = "invocations"
    project: str
    definition: str
    """The definition's database id."""
    runs: tuple[Invocation, ...] = Field(min_length=1)


class Outcomes(Wire):
    """What a worker has to tell, as much as is waiting."""

    type: Literal["outcomes"] = "outcomes"
    worker: str
    outcomes: tuple[Outcome, ...] = ()
    started: tuple[Started, ...] = ()


class Control(Wire):
    """To every worker: stop executing these runs."""

    type: Literal["control"] = "control"
    cancel: tuple[str, ...] = ()
