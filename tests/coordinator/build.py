"""Values for the coordinator's tests, with everything that a test doesn't care about filled in."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from leveret_broker import topology
from leveret_broker.identifiers import Kind
from leveret_broker.messages import (
    AttemptEnd,
    Claim,
    DefinitionSpec,
    Failure,
    Heartbeat,
    Outcome,
    Outcomes,
    Register,
    RunOptions,
    Started,
    Submission,
    Submit,
    Target,
)
from leveret_broker.transport import Queue
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.decide import decide
from leveret_coordinator.decision import Decision
from leveret_coordinator.facts import Message, needs_of
from leveret_coordinator.reading import Liveness
from leveret_coordinator.records import Confirmed, Definition, PublishedAttempt

NOW = 1_000_000.0
FAILURE = Failure(
    type="ValueError", message="no", traceback="tb", kinds=("ValueError", "Exception")
)
_numbers = itertools.count(1)


def definition_id(number: int, kind: Kind = "task") -> str:
    return f"{'task' if kind == 'task' else 'wf'}_{number:026d}"


def run_id(number: int) -> str:
    return f"run_{number:026d}"


def issue(kind: Kind) -> str:
    return definition_id(next(_numbers) + 1_000_000, kind)


def definition(
    number: int,
    queue: str,
    kind: Kind = "workflow",
    fingerprint: str = "code",
) -> Definition:
    project, name, version = queue.split(":")
    return Definition(
        id=definition_id(number, kind),
        project=project,
        kind=kind,
        name=name,
        version=version,
        fingerprint=fingerprint,
        module="app",
        qualname=name,
        description="",
        registered_at=NOW,
    )


def spec(
    name: str, *, kind: Kind = "workflow", version: str | None = None, fingerprint: str = "code"
) -> DefinitionSpec:
    return DefinitionSpec(
        kind=kind,
        name=name,
        version=version,
        fingerprint=fingerprint,
        module="app",
        qualname=name,
    )


def register(*specs: DefinitionSpec, project: str = "p", session: str = "worker-s") -> Register:
    return Register(session=session, request="register", project=project, definitions=specs)


def submission(
    run: str,
    identifier: str = "p:flow:1",
    *,
    parent: str | None = None,
    project: str | None = None,
    acknowledge: bool = False,
    arguments: bytes = b"arguments",
    options: RunOptions | None = None,
    round: int = 1,
    key: str | None = None,
    digest: str | None = None,
    inputs: Sequence[str] = (),
    is_input: bool = False,
) -> Submission:
    return Submission(
        run=run,
        target=Target(identifier=identifier),
        project=project,
        arguments=arguments,
        parent=parent,
        acknowledge=acknowledge,
        options=options,
        round=round,
        key=key,
        digest=digest,
        inputs=tuple(inputs),
        is_input=is_input,
    )


def submit(*submissions: Submission, session: str = "s") -> Submit:
    return Submit(session=session, submissions=submissions)


def outcome(
    run: str, state: AttemptEnd = "succeeded", *, attempt: int = 1, result: bytes = b"result"
) -> Outcome:
    has_result = state == "succeeded"
    return Outcome(
        run=run,
        attempt=attempt,
        state=state,
        result=result if has_result else None,
        error=None if has_result else b"error",
        failure=None if has_result else FAILURE,
        started_at=NOW,
        finished_at=NOW + 1,
    )


def control_queue(worker: str) -> Queue:
    """The control queue of a worker of the project `p`, by whatever name it goes."""
    return replace(
        topology.control_queue(worker), fanouts=(topology.CONTROL, topology.control_exchange("p"))
    )


def outcomes(*told: Outcome, worker: str = "w") -> Outcomes:
    return Outcomes(worker=worker, outcomes=told)


def started(run: str, *, attempt: int = 1, worker: str = "w", leased: bool = False) -> Outcomes:
    news = Started(run=run, attempt=attempt, started_at=NOW + 0.5, leased=leased)
    return Outcomes(worker=worker, started=(news,))


def claim(
    run: str,
    *,
    attempt: int = 1,
    worker: str = "w",
    handed_out: bool = True,
    executing: bool = False,
) -> Outcomes:
    claim = Claim(run=run, attempt=attempt, handed_out=handed_out, executing=executing)
    return Outcomes(worker=worker, claims=(claim,))


def heartbeat(*definitions: str, worker: str = "w", project: str = "p") -> Heartbeat:
    return Heartbeat(
        worker=worker,
        project=project,
        host="host",
        pid=7,
        slots=4,
        busy=1,
        started_at=NOW,
        definitions=definitions,
    )


def published(run: str, attempt: int = 1) -> PublishedAttempt:
    return PublishedAttempt(run=run, attempt=attempt)


def confirmed(*attempts: PublishedAttempt) -> Confirmed:
    return Confirmed(published=attempts)


async def apply(catalog: Catalog, *messages: Message, now: float = NOW) -> Decision:
    """Load, decide and write, as the service does for a batch."""
    facts = await catalog.load(needs_of(messages), alive=Liveness(since=now - 20))
    decision = decide(messages, facts, now=now, version="0", issue=issue, chance=lambda: 0.0)
    await catalog.write(decision, Confirmed(), now=now)
    return decision
