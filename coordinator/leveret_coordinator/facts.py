"""What a batch of messages needs to know of the catalog, and what the catalog answers. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from leveret_broker.messages import (
    Attach,
    Cancel,
    Finished,
    Offer,
    Outcomes,
    Register,
    Request,
    Resolve,
    Retry,
    Ship,
    Submit,
)
from leveret_coordinator import resolution
from leveret_coordinator.records import (
    STEP,
    LostAttempt,
    Orphan,
    RefusedAttempt,
    Run,
    Timer,
    Vanished,
    Waiter,
    Worker,
)

Message = Request | Outcomes | RefusedAttempt | Orphan | Vanished | Timer
"""What a batch holds: what arrives, and what the coordinator has to tell itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """The rows that a batch names."""

    runs: frozenset[str]
    below: frozenset[str]
    """Runs that are stopped with all below them, which is needed too."""
    asked: frozenset[str]
    """Runs that somebody wants the outcome of."""
    keyed: frozenset[str]
    """Runs that are asked for by a key: if they exist, their arguments are needed."""
    moved: frozenset[str]
    """Runs that go on with other code: all versions of their definitions are needed."""
    workers: frozenset[str]
    """Workers that tell of losses, or claim; with them the holders of all the runs."""
    lost: frozenset[str]
    """Runs whose lost attempts may have to be told."""
    sleeping: frozenset[str]
    """Sleeps that are over."""
    inputs: frozenset[str]
    """Runs that submissions name as inputs."""
    succeeding: frozenset[str]
    """Runs that are told to have succeeded."""
    ending: frozenset[str]
    """Runs that may end in another way, beside those in `below`."""
    definitions: frozenset[str]
    """Database ids."""
    names: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The rows that were found."""

    known: resolution.Known
    served: frozenset[str] = frozenset()
    """Ids of those of the definitions that a live worker serves."""
    deployed: frozenset[str] = frozenset()
    """Those that one serves with code of its own."""
    accepting: frozenset[str] = frozenset()
    """Projects with a live worker that accepts code, if any of the definitions was shipped."""
    runs: Sequence[Run] = ()
    below: Sequence[tuple[str, Run]] = ()
    """For each run to stop, by its id: itself and all below it, ended or not."""
    waiters: Sequence[Waiter] = ()
    """Of the runs that the batch may bring to an end."""
    ended: Sequence[Finished] = ()
    """Outcomes of those asked for that have ended."""
    workers: Mapping[str, Worker] = field(default_factory=dict[str, Worker])
    lost: Mapping[str, Sequence[LostAttempt]] = field(
        default_factory=dict[str, Sequence[LostAttempt]]
    )
    foreseen: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """The results of sleeps that are over."""
    arguments: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """Of the runs that are asked for by a key."""
    dependents: Sequence[tuple[str, Run]] = ()
    """For each run that may end, by its id: what waits for it."""
    missing: Sequence[tuple[str, Run]] = ()
    """For each run that may be stopped or opened again, by its id: its inputs without a result."""


@dataclass(kw_only=True, slots=True)
class _Collected:
    runs: set[str] = field(default_factory=set[str])
    below: set[str] = field(default_factory=set[str])
    asked: set[str] = field(default_factory=set[str])
    keyed: set[str] = field(default_factory=set[str])
    moved: set[str] = field(default_factory=set[str])
    workers: set[str] = field(default_factory=set[str])
    lost: set[str] = field(default_factory=set[str])
    sleeping: set[str] = field(default_factory=set[str])
    inputs: set[str] = field(default_factory=set[str])
    succeeding: set[str] = field(default_factory=set[str])
    ending: set[str] = field(default_factory=set[str])
    definitions: set[str] = field(default_factory=set[str])
    names: set[str] = field(default_factory=set[str])


def needs_of(messages: Iterable[Message]) -> Needs:
    """Everything that deciding upon the messages looks up."""
    needs = _Collected()
    for message in messages:
        _collect(message, needs)
    return Needs(
        runs=frozenset(needs.runs),
        below=frozenset(needs.below),
        asked=frozenset(needs.asked),
        keyed=frozenset(needs.keyed),
        moved=frozenset(needs.moved),
        workers=frozenset(needs.workers),
        lost=frozenset(needs.lost),
        sleeping=frozenset(needs.sleeping),
        inputs=frozenset(needs.inputs),
        succeeding=frozenset(needs.succeeding),
        ending=frozenset(needs.ending),
        definitions=frozenset(needs.definitions),
        names=frozenset(needs.names),
    )


def _collect(message: Message, needs: _Collected) -> None:
    match message:
        case Submit():
            _collect_submissions(message, needs)
        case Outcomes():
            _collect_news(message, needs)
        case Attach() | Cancel() | Retry():
            _collect_asked(message, needs)
        case RefusedAttempt() | Vanished() | Orphan() | Timer():
            _collect_noticed(message, needs)
        case Register() | Offer() | Ship():
            needs.names.update(spec.name for spec in message.definitions)
        case Resolve():
            _collect_definitions(resolution.identifier_names(message.identifier), needs)
        case _:
            pass


def _collect_asked(message: Attach | Cancel | Retry, needs: _Collected) -> None:
    runs = (message.run,) if isinstance(message, Retry) else message.runs
    needs.runs.update(runs)
    if isinstance(message, Cancel):
        needs.below.update(runs, message.unneeded)
        needs.runs.update(message.unneeded)
        needs.runs.update(caller.parent for caller in message.callers)
    else:
        needs.asked.update(runs)
    if isinstance(message, Retry) and message.version is not None:
        needs.moved.add(message.run)


def _collect_noticed(
    message: RefusedAttempt | Vanished | Orphan | Timer, needs: _Collected
) -> None:
    needs.runs.add(message.run)
    needs.ending.add(message.run)
    if isinstance(message, Orphan):
        needs.lost.add(message.run)
        needs.workers.add(message.worker)
    if isinstance(message, Timer) and message.kind == "total":
        needs.below.add(message.run)
    if isinstance(message, Timer) and message.kind == "sleep":
        needs.sleeping.add(message.run)


def _collect_news(message: Outcomes, needs: _Collected) -> None:
    needs.runs.update(outcome.run for outcome in message.outcomes)
    needs.runs.update(started.run for started in message.started)
    for told in message.outcomes:
        (needs.succeeding if told.state == "succeeded" else needs.ending).add(told.run)
    needs.below.update(told.run for told in message.outcomes if told.state == "timed-out")
    lost = [told.run for told in message.outcomes if told.state in ("lost", "stopped")]
    claimed = [claim.run for claim in message.claims]
    if lost or claimed:
        needs.runs.update(claimed)
        needs.ending.update(claimed)
        needs.lost.update(lost, claimed)
        needs.workers.add(message.worker)


def _collect_submissions(message: Submit, needs: _Collected) -> None:
    for submission in message.submissions:
        needs.runs.add(submission.run)
        needs.asked.add(submission.run)
        needs.inputs.update(submission.inputs)
        if submission.parent is not None:
            needs.runs.add(submission.parent)
        if submission.key is not None:
            needs.keyed.add(submission.run)
        if submission.recorded is not None:
            needs.names.add(STEP)
        else:
            _collect_definitions(resolution.wanted_names(submission.target), needs)


def _collect_definitions(wanted: tuple[set[str], set[str]], needs: _Collected) -> None:
    names, ids = wanted
    needs.names.update(names)
    needs.definitions.update(ids)
