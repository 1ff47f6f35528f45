"""Deciding without a catalog, a broker or a clock: rows given by hand, and what follows."""

from collections.abc import Mapping, Sequence

from leveret_broker.messages import Finished, Reply, RunOptions, RunState
from leveret_coordinator import facts as needed
from leveret_coordinator.decide import decide as decide_upon
from leveret_coordinator.decision import Decision
from leveret_coordinator.facts import Facts, Message
from leveret_coordinator.records import (
    USUAL,
    ChangedRun,
    Definition,
    Holder,
    LostAttempt,
    Run,
    Waiter,
    Worker,
)
from leveret_coordinator.resolution import Known
from tests.coordinator import build

FLOW = build.definition(1, "p:flow:1")
FIT = build.definition(2, "p:fit:0.1", "task")
KNOWN = Known(definitions=(FLOW, FIT))
ROOT, CHILD, GRANDCHILD, OTHER = (build.run_id(number) for number in range(1, 5))

HELD = Holder(worker="w", started_at=build.NOW - 10)
LEASED = Holder(worker="w", started_at=build.NOW - 10, leased_at=build.NOW - 5)


def run(
    id: str = ROOT,
    state: RunState = "queued",
    *,
    definition: Definition = FLOW,
    parent: str | None = None,
    attempt: int = 1,
    round: int = 1,
    parent_round: int = 1,
    failures: int = 0,
    losses: int = 0,
    options: RunOptions = USUAL,
    holder: Holder | None = None,
    digest: str | None = None,
) -> Run:
    return Run(
        id=id,
        project="p",
        definition=definition.id,
        kind=definition.kind,
        root=ROOT if parent else id,
        parent=parent,
        state=state,
        since=build.NOW - 20,
        attempt=attempt,
        round=round,
        parent_round=parent_round,
        failures=failures,
        losses=losses,
        options=options,
        holder=holder,
        digest=digest,
        finished_at=build.NOW - 1 if state in ("succeeded", "failed", "cancelled") else None,
    )


def worker(id: str = "w", *, is_alive: bool = True) -> Worker:
    return Worker(id=id, host="host", pid=7, heartbeat_at=build.NOW - 1, is_alive=is_alive)


def facts(
    *runs: Run,
    known: Known = KNOWN,
    waiters: Sequence[Waiter] = (),
    ended: Sequence[Finished] = (),
    below: Sequence[tuple[str, Run]] = (),
    served: frozenset[str] = frozenset({FLOW.id, FIT.id}),
    workers: Sequence[Worker] = (),
    lost: Mapping[str, Sequence[LostAttempt]] | None = None,
    foreseen: Mapping[str, bytes] | None = None,
    arguments: Mapping[str, bytes] | None = None,
) -> Facts:
    return Facts(
        known=known,
        runs=runs,
        waiters=waiters,
        ended=ended,
        below=below,
        served=served,
        workers={each.id: each for each in workers},
        lost=lost or {},
        foreseen=foreseen or {},
        arguments=arguments or {},
    )


def decide(
    facts: Facts, *messages: Message, now: float = build.NOW, chance: float = 0.0
) -> Decision:
    return decide_upon(
        messages, facts, now=now, version="1.2", issue=build.issue, chance=lambda: chance
    )


def needs(*messages: Message) -> needed.Needs:
    return needed.needs_of(messages)


def replies(decision: Decision, session: str = "s") -> list[Reply]:
    return [answer.reply for answer in decision.answers if answer.session == session]


def changed(decision: Decision) -> dict[str, Run]:
    """The runs as the decision leaves them, by id."""
    return {change.run.id: change.run for change in decision.changed}


def only(decision: Decision) -> Run:
    """The one run that the decision changes."""
    [change] = decision.changed
    assert isinstance(change, ChangedRun)
    return change.run


def granted(decision: Decision) -> list[tuple[str, int | None]]:
    """The verdicts: the worker, and the attempt that it may execute."""
    return [(each.worker, each.verdict.granted) for each in decision.verdicts]


def stopped(decision: Decision) -> list[tuple[str, int]]:
    return [(stop.run, stop.attempt) for stop in decision.stops]


def ended(decision: Decision) -> list[tuple[str, RunState]]:
    """The runs that the decision ends, and how."""
    told = (*(change.run for change in decision.changed), *(new.run for new in decision.runs))
    return [(run.id, run.state) for run in told if run.finished_at is not None]
