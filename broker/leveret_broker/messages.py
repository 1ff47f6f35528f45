"""Everything that travels: one frozen model a message, validated when it arrives.

Payloads (arguments, results, errors) are opaque bytes here; only the SDK and the workers can read
them. Fields that a newer version added are ignored, so that versions can meet during an upgrade.

    caller, worker → coordinator    `leveret.requests`        a `Request`
    coordinator → caller            `replies:<session>`       `Replies`
    coordinator → worker            `project:name:version`    `Invocations`
    worker → coordinator            `leveret.outcomes`        `Outcomes`
    coordinator → every worker      the fan-out `leveret.control`   `Control`
    coordinator → one worker        `control:<worker>`        `Control`
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from leveret_broker.identifiers import Kind

RunState = Literal[
    "pending", "queued", "running", "waiting", "parked", "succeeded", "failed", "cancelled"
]
Ended = Literal["succeeded", "failed", "cancelled"]
AttemptEnd = Literal["succeeded", "failed", "timed-out", "lost", "returned", "stopped"]
"""How an attempt ended, as a worker tells it.

`lost`: the process that executed it died. `returned`: the worker gave it back, for another one.
`stopped`: the worker was told to end it, as it believes by the coordinator.
"""
AttemptState = Literal[
    "running", "succeeded", "failed", "cancelled", "timed-out", "lost", "returned"
]


Place = Literal["loop", "thread", "process"]
"""Where a worker executes a function: on its event loop, in a thread, in a child process."""


class Wire(BaseModel):
    """Frozen, and tolerant of fields that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


# -- values in messages ---------------------------------------------------------------------------


class RetryPolicy(Wire):
    """How often a run that failed is tried again, and when."""

    max: int = Field(ge=0)
    """Retries, so attempts that may fail less one."""
    initial: float = Field(ge=0)
    """Seconds before the first retry."""
    factor: float = Field(ge=1)
    """What each delay is multiplied by to give the next."""
    cap: float = Field(ge=0)
    """Seconds that no delay exceeds."""
    jitter: float = Field(ge=0, le=1)
    """The share of a delay that is left to chance."""
    on: tuple[str, ...] | None = None
    """Qualified names of exceptions; `None` for every one. Subclasses count."""
    unless: tuple[str, ...] = ()
    then: Literal["fail", "park"] = "fail"


class RunOptions(Wire):
    """What a definition or a call asks for beyond its code. Times are seconds."""

    retry: RetryPolicy | None = None
    lost_retries: int = Field(default=3, ge=0)
    """How often a run is executed again whose worker or process died."""
    timeout: float | None = Field(default=None, gt=0)
    """Of one attempt."""
    total_timeout: float | None = Field(default=None, gt=0)
    """From acceptance to the end, over all attempts."""
    queue_timeout: float | None = Field(default=None, gt=0)
    """From the publication of an attempt until a worker starts it."""


class CodeRef(Wire):
    """A function that was shipped, among all that came with it."""

    digest: str
    """Of the code, which the catalog keeps by it."""
    index: int = Field(ge=0)
    """Of the definition, among those of this code."""
    place: Place
    """Known before the code is loaded, because it is loaded there."""
    prefetch: int | None = Field(default=None, ge=1)
    """Messages that a worker takes ahead, if the definition says so."""


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
    options: RunOptions | None = None
    """Of runs that say nothing else."""
    place: Place | None = None
    """Set if its code is shipped."""
    prefetch: int | None = Field(default=None, ge=1)


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
    code: CodeRef | None = None
    """What was shipped last."""


class Target(Wire):
    """What a submission wants run: an identifier as a person wrote it, or a definition in code."""

    identifier: str | None = None
    kind: Kind | None = None
    name: str | None = None
    version: str | None = None
    fingerprint: str | None = None
    """Of a workflow's code: the submission means exactly this code."""
    code: CodeRef | None = None
    """What the caller has shipped, and means."""


class Failure(Wire):
    """How a run failed, for people and for programs that can't load the error itself."""

    type: str
    """The exception's qualified name, with its module unless that is `builtins`."""
    message: str
    traceback: str = ""
    kinds: tuple[str, ...] = ()
    """Qualified names of the exception's class and of all its bases but `object`."""


class Recorded(Wire):
    """The end of a step, which ran in its workflow and is only remembered."""

    name: str
    """What the step called."""
    result: bytes | None = None
    error: bytes | None = None
    failure: Failure | None = None
    """Set if it raised."""
    delay: float | None = None
    """Seconds after which it ends; `None` for at once. Of a sleep."""


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
    options: RunOptions | None = None
    """`None` for those that the definition was registered with."""
    key: str | None = None
    """What the id was derived from in place of the arguments, if the caller named it."""
    digest: str | None = None
    """A hash of the arguments, equal for equal ones in any process; `None` if there is none."""
    round: int = 1
    """The round of the parent's run in which the call was made."""
    recorded: Recorded | None = None
    """Set for a step: nothing is executed, `target.kind` is `step`."""
    inputs: tuple[str, ...] = ()
    """Runs of the same project whose results belong into the arguments, which say where: it is
    executed once all of them have succeeded. They are submitted before it."""
    confined: bool = False
    """Nothing outside of `project` may be named."""
    is_input: bool = False
    """Asked for as an input: its caller wants to hear that it is accepted, and not how it ends."""


class Input(Wire):
    """A result that belongs into an invocation's arguments."""

    run: str
    """The one that it is the result of."""
    result: bytes | None = None
    """`None` if it is too large to come along: the worker attaches to the run."""


class Invocation(Wire):
    """One attempt at one run, handed to a worker."""

    run: str
    attempt: int
    root: str
    parent: str | None
    arguments: bytes
    round: int = 1
    """Grows with every retry, and not when a worker was lost: children that failed in an earlier
    round are executed again."""
    timeout: float | None = None
    """Seconds that the attempt may take."""
    announce: bool = False
    """Tell at once that it has started: somebody waits for that."""
    again: bool = False
    """It may have been published before: claim it before starting."""
    claim: bool = False
    """Claim it before starting, so that its worker is known if it dies at once: others did."""
    inputs: tuple[Input, ...] = ()
    code: CodeRef | None = None
    """What executes it where the definition is not of the worker's own."""


class Outcome(Wire):
    """How one attempt ended."""

    run: str
    attempt: int
    state: AttemptEnd
    result: bytes | None = None
    """Set if it succeeded."""
    error: bytes | None = None
    """Set if it did not: the exception, readable with the project's key."""
    failure: Failure | None = None
    started_at: float
    finished_at: float
    seconds: float | None = None
    """How long the code itself ran; it may have waited before and after."""


class Started(Wire):
    """An attempt that has been executing for a while: from now on its worker answers for it."""

    run: str
    attempt: int
    started_at: float
    leased: bool = False
    """Its delivery is acknowledged as soon as this is confirmed."""


class Claim(Wire):
    """May I execute this attempt? Asked where a cancellation, an end or another copy of the
    invocation may have escaped the worker. Answered by a `Verdict`."""

    run: str
    attempt: int
    handed_out: bool = False
    """The delivery was handed to somebody before, or the invocation published before."""
    executing: bool = False
    """It executes here already, and its delivery may be lost."""
    started_at: float | None = None
    """Set if it executes."""


class Verdict(Wire):
    """The answer to a claim."""

    run: str
    attempt: int
    """As claimed."""
    granted: int | None
    """The attempt to execute it as, `None` if nobody wants that."""


class Stop(Wire):
    """Execute no attempt at this run up to this one."""

    run: str
    attempt: int


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


class Offer(Wire):
    """How do these definitions stand, which the caller could ship? Answered by `Offered`."""

    type: Literal["offer"] = "offer"
    session: str
    request: str
    project: str
    definitions: tuple[DefinitionSpec, ...]


class Ship(Wire):
    """Keep this code, and make its definitions known. Answered by `Registered` or `Refused`."""

    type: Literal["ship"] = "ship"
    session: str
    request: str
    project: str
    digest: str
    body: bytes
    """Signed, for those who have the project's key."""
    definitions: tuple[DefinitionSpec, ...]
    """In the order in which the code has them."""


class ListShipped(Wire):
    """What was shipped to this project and is in use? Answered by `Shipped`."""

    type: Literal["list-shipped"] = "list-shipped"
    session: str
    request: str
    project: str
    after: str = ""
    """The last database id of the answer before."""


class FetchCode(Wire):
    """The code with this digest, please. Answered by `Code` or `Refused`."""

    type: Literal["fetch-code"] = "fetch-code"
    session: str
    request: str
    project: str
    digest: str


class Resolve(Wire):
    """What does this identifier mean here? Answered by `Resolved` or `Refused`."""

    type: Literal["resolve"] = "resolve"
    session: str
    request: str
    identifier: str
    project: str | None
    confined: bool = False
    """Nothing outside of `project` may be named."""


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
    project: str | None = None
    """The project that the runs have to belong to, if any."""


class Caller(Wire):
    """The attempt at a workflow that wants a run stopped. A later one goes on with that run."""

    run: str
    """The one to stop."""
    parent: str
    attempt: int
    """Of the parent."""


class Cancel(Wire):
    """Stop these runs and all below them.

    Answered, if `request` is set, by `Cancelled`, or by `Refused` for what can't be stopped.
    """

    type: Literal["cancel"] = "cancel"
    session: str
    request: str | None = None
    runs: tuple[str, ...]
    project: str | None = None
    """The project that the runs have to belong to, if one is known."""
    callers: tuple[Caller, ...] = ()
    """Of those of the runs that a workflow stops, which had called them."""
    unneeded: tuple[str, ...] = ()
    """Inputs of what is stopped: they are stopped as well, unless somebody else needs them."""


class Retry(Wire):
    """Execute a run again that has ended, or resume a parked one; what had succeeded below it is
    kept. Answered by `Retried` or `Refused`."""

    type: Literal["retry"] = "retry"
    session: str
    request: str
    run: str
    project: str | None = None
    """The project that the run has to belong to, if one is known."""
    version: str | None = None
    """The revision or version of the code to go on with; `None` for the one it had."""
    resume: bool = False
    """Only if it is parked."""


class Explain(Wire):
    """Why does this run not move? Answered by `Explanation` or `Refused`."""

    type: Literal["explain"] = "explain"
    session: str
    request: str
    run: str
    project: str | None = None


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
    after: str | None = None
    """Only those listed after this run."""
    roots_only: bool = False
    confined: bool = False
    """Nothing outside of `project` may be named."""


class ShowRun(Wire):
    """Answered by `Tree` or `Refused`."""

    type: Literal["show-run"] = "show-run"
    session: str
    request: str
    run: str
    project: str | None = None
    """The project that the run has to belong to, if any."""


class Position(Wire):
    """Where going through the runs, newest first, has come to."""

    created_at: float
    seq: int


class Prune(Wire):
    """Remove some of the trees of runs that ended long ago. Answered by `Pruned` or `Refused`."""

    type: Literal["prune"] = "prune"
    session: str
    request: str
    project: str | None = None
    """Of this project only."""
    older_than: float
    """Seconds since the last of a tree ended."""
    after: Position | None = None
    """Go on there."""
    dry_run: bool = False
    """Only count."""


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
    """An id that is new at every start of a worker: its project, a colon, and what is its own."""
    project: str
    host: str
    pid: int
    slots: int
    busy: int
    started_at: float
    definitions: tuple[str, ...]
    """The ids of the definitions it serves."""
    held: dict[str, int] = Field(default_factory=dict[str, int])
    """Invocations whose deliveries it has and has not settled, by the definition's id."""
    accepts_code: bool = False
    """Whether it serves what is shipped to its project."""
    shipped: tuple[str, ...] = ()
    """Those of the definitions that it serves with shipped code."""
    nonce: str | None = None
    """Of one that joins: a secret that comes back with the answer, and so proves that it is one."""


class Goodbye(Wire):
    """A worker leaves, having drained."""

    type: Literal["goodbye"] = "goodbye"
    worker: str


Request = Annotated[
    Hello
    | Register
    | Offer
    | Ship
    | ListShipped
    | FetchCode
    | Resolve
    | Submit
    | Attach
    | Cancel
    | Retry
    | Explain
    | ListDefinitions
    | ListRuns
    | ShowRun
    | Prune
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


Standing = Literal["unknown", "known", "deployed"]
"""`deployed`: a live worker serves it with code of its own. `known`: none does, now."""


class Offered(Wire):
    type: Literal["offered"] = "offered"
    request: str
    standings: tuple[Standing, ...]
    """In the order in which the definitions were sent."""


class Shipped(Wire):
    type: Literal["shipped"] = "shipped"
    request: str
    definitions: tuple[DefinitionRecord, ...]
    has_more: bool


class Code(Wire):
    type: Literal["code"] = "code"
    request: str
    body: bytes


class Resolved(Wire):
    type: Literal["resolved"] = "resolved"
    request: str
    definition: DefinitionRecord


RefusalCode = Literal[
    "unidentified",
    "not-deployed",
    "conflict",
    "unknown-run",
    "invalid",
    "key-conflict",
    "state",
    "unready",
]
"""`state`: the run is in a state in which this can't be done. `unready`: a submission came before
those of its inputs, and is to be sent again."""


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


class Retried(Wire):
    type: Literal["retried"] = "retried"
    request: str
    run: str
    attempt: int
    """The number of the attempt that was begun."""
    definition: str
    """The `project:name:version` that it is executed by."""


class Explanation(Wire):
    type: Literal["explanation"] = "explanation"
    request: str
    run: str
    state: RunState
    text: str
    """One paragraph for people."""
    chain: tuple[str, ...]
    """The runs from the one asked about down to the one that holds it up."""


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
    arguments: bytes | None = None
    """Those of the run that has the key already, if that is why."""


class Unserved(Wire):
    """The run was accepted, and no live worker serves its definition: it waits."""

    type: Literal["unserved"] = "unserved"
    run: str
    queue: str
    shipped: bool = False
    """Its code was shipped, and no live worker of the project accepts code."""


class Finished(Wire):
    """The run has ended."""

    type: Literal["finished"] = "finished"
    run: str
    state: Ended
    attempt: int = 1
    """The attempt that was its last; a retry makes later ones."""
    parent_round: int = 1
    """The round of its parent in which it was opened: an end without success is none to a later
    one."""
    stopped_by: int | None = None
    """The attempt at its parent whose code stopped it."""
    has_parent_ended: bool = False
    """Whether its parent had ended as well when this was told."""
    blames: str | None = None
    """The input that did not succeed, if it was not executed for that."""
    result: bytes | None = None
    error: bytes | None = None
    failure: Failure | None = None


class DefinitionRow(Wire):
    """A definition in a listing."""

    definition: DefinitionRecord
    workers: int
    """Live workers that serve it."""


class AttemptRow(Wire):
    """One try at executing a run. Times are seconds since the Unix epoch."""

    number: int
    state: AttemptState
    worker: str | None
    host: str | None
    pid: int | None
    started_at: float | None
    leased_at: float | None
    finished_at: float | None
    failure: Failure | None


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
    key: str | None = None
    due_at: float | None = None
    """When it goes on, if it waits for a time."""
    waits_for: int = 0
    """How many of its inputs it waits for."""
    inputs: tuple[str, ...] = ()
    """The runs whose results are its arguments. In a tree only, like the attempts."""
    attempts: tuple[AttemptRow, ...] = ()


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
    accepts_code: bool = False


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


class Pruned(Wire):
    """What was removed, or would be."""

    type: Literal["pruned"] = "pruned"
    request: str
    trees: int = 0
    runs: int = 0
    """All of the trees."""
    code: int = 0
    """Revisions of shipped code."""
    place: Position | None = None
    """Where to go on; `None` at the end."""


Reply = Annotated[
    Welcome
    | Registered
    | Offered
    | Shipped
    | Code
    | Resolved
    | Refused
    | Cancelled
    | Retried
    | Explanation
    | Accepted
    | Rejected
    | Unserved
    | Finished
    | Rows
    | Tree
    | Pruned,
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
    generation: int = 0
    """Grows whenever a worker joins: one that joined later has missed what was stopped before."""


class Outcomes(Wire):
    """What a worker has to tell, as much as is waiting. In this queue because their order counts:
    that a worker gave something back is known before another one claims it."""

    type: Literal["outcomes"] = "outcomes"
    worker: str
    outcomes: tuple[Outcome, ...] = ()
    started: tuple[Started, ...] = ()
    claims: tuple[Claim, ...] = ()
    project: str | None = None
    """The project that the runs have to belong to, if any."""
    join: Heartbeat | None = None
    """Set at the start and after a lost connection. Answered by a `Control` with a generation."""


class Control(Wire):
    """To every worker: stop executing these. To one worker: the answers to what it asked."""

    type: Literal["control"] = "control"
    stop: tuple[Stop, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    rejoin: bool = False
    """To every worker: the coordinator was away, and what it had to say may be lost. Join again."""
    generation: int | None = None
    """Answers `join`: invocations of an earlier generation are to be claimed."""
    nonce: str | None = None
    """That of the `join`. A generation without it is nobody's answer."""
    shipped: tuple[str, ...] = ()
    """To every worker: projects in which something that was shipped has nobody to serve it yet."""
