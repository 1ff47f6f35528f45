"""What a batch of messages needs to know of the catalog, and what the catalog answers. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from leveret_broker.messages import (
    Attach,
    Cancel,
    Finished,
    Outcomes,
    Register,
    Request,
    Resolve,
    Submit,
)
from leveret_coordinator import resolution
from leveret_coordinator.records import RefusedAttempt, Run, Waiter

Message = Request | Outcomes | RefusedAttempt
"""What a batch holds: what arrives, and what the coordinator has to tell itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """The rows that a batch names."""

    runs: frozenset[str]
    cancelled: frozenset[str]
    """Runs to cancel: all below them is needed too."""
    asked: frozenset[str]
    """Runs that somebody wants the outcome of."""
    definitions: frozenset[str]
    """Database ids."""
    names: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The rows that were found."""

    known: resolution.Known
    served: frozenset[str] = frozenset()
    """Ids of those of the definitions that a live worker serves."""
    runs: Sequence[Run] = ()
    below: Sequence[tuple[str, Run]] = ()
    """For each run to cancel, by its id: itself and all below it, ended or not."""
    waiters: Sequence[Waiter] = ()
    """Of the runs that the batch may bring to an end."""
    ended: Sequence[Finished] = ()
    """Outcomes of those asked for that have ended."""


@dataclass(kw_only=True, slots=True)
class _Collected:
    runs: set[str] = field(default_factory=set[str])
    cancelled: set[str] = field(default_factory=set[str])
    asked: set[str] = field(default_factory=set[str])
    definitions: set[str] = field(default_factory=set[str])
    names: set[str] = field(default_factory=set[str])


def needs_of(messages: Iterable[Message]) -> Needs:
    """Everything that deciding upon the messages looks up."""
    needs = _Collected()
    for message in messages:
        _collect(message, needs)
    return Needs(
        runs=frozenset(needs.runs),
        cancelled=frozenset(needs.cancelled),
        asked=frozenset(needs.asked),
        definitions=frozenset(needs.definitions),
        names=frozenset(needs.names),
    )


def _collect(message: Message, needs: _Collected) -> None:
    match message:
        case Submit():
            _collect_submissions(message, needs)
        case Outcomes():
            needs.runs.update(outcome.run for outcome in message.outcomes)
            needs.runs.update(started.run for started in message.started)
        case RefusedAttempt():
            needs.runs.add(message.run)
        case Attach():
            needs.runs.update(message.runs)
            needs.asked.update(message.runs)
        case Cancel():
            needs.runs.update(message.runs)
            needs.cancelled.update(message.runs)
        case Register():
            needs.names.update(spec.name for spec in message.definitions)
        case Resolve():
            _collect_definitions(resolution.identifier_names(message.identifier), needs)
        case _:
            pass


def _collect_submissions(message: Submit, needs: _Collected) -> None:
    for submission in message.submissions:
        needs.runs.add(submission.run)
        needs.asked.add(submission.run)
        if submission.parent is not None:
            needs.runs.add(submission.parent)
        _collect_definitions(resolution.wanted_names(submission.target), needs)


def _collect_definitions(wanted: tuple[set[str], set[str]], needs: _Collected) -> None:
    names, ids = wanted
    needs.names.update(names)
    needs.definitions.update(ids)
