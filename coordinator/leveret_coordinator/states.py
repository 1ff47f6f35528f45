"""The states of a run and every way from one to another, in one table.

`docs/states.md` is this table, drawn: `python -m leveret_coordinator.states > docs/states.md`.
"""

import sys
from typing import Literal, TypeGuard, get_args

from leveret_broker.messages import Ended, RunState
from leveret_coordinator.errors import NoTransition

Event = Literal["published", "started", "succeeded", "failed", "cancelled", "forgotten"]

STATES: tuple[RunState, ...] = get_args(RunState)
ENDED: tuple[Ended, ...] = get_args(Ended)
EVENTS: tuple[Event, ...] = get_args(Event)

MEANING: dict[RunState, str] = {
    "pending": "accepted and kept; its invocation is not yet confirmed as published",
    "queued": "its invocation waits in the queue of its definition",
    "running": "a worker has told that it executes it",
    "succeeded": "ended with a result",
    "failed": "ended with an error",
    "cancelled": "stopped by somebody before it ended by itself",
}

CAUSE: dict[Event, str] = {
    "published": "the broker confirmed the invocation",
    "started": "a worker tells that it executes the attempt",
    "succeeded": "a worker tells the attempt's result",
    "failed": "a worker tells the attempt's error, or the broker refuses the invocation",
    "cancelled": "somebody cancelled the run or a run above it",
    "forgotten": "the broker that held the invocation went away with all it held",
}

TRANSITIONS: dict[tuple[RunState, Event], RunState] = {
    ("pending", "published"): "queued",
    ("pending", "started"): "running",
    ("pending", "succeeded"): "succeeded",
    ("pending", "failed"): "failed",
    ("pending", "cancelled"): "cancelled",
    ("pending", "forgotten"): "pending",
    ("queued", "published"): "queued",
    ("queued", "started"): "running",
    ("queued", "succeeded"): "succeeded",
    ("queued", "failed"): "failed",
    ("queued", "cancelled"): "cancelled",
    ("queued", "forgotten"): "pending",
    ("running", "published"): "running",
    ("running", "started"): "running",
    ("running", "succeeded"): "succeeded",
    ("running", "failed"): "failed",
    ("running", "cancelled"): "cancelled",
    ("running", "forgotten"): "pending",
    # A confirmation is written after the publication, so the run may have ended meanwhile.
    ("succeeded", "published"): "succeeded",
    ("failed", "published"): "failed",
    ("cancelled", "published"): "cancelled",
}
"""What is not here can't happen: above all, nothing leads out of a state in which a run ended."""


def has_ended(state: RunState) -> TypeGuard[Ended]:
    """Whether nothing can change it any more."""
    return state in ENDED


def allows(state: RunState, event: Event) -> bool:
    """Whether the table has an entry."""
    return (state, event) in TRANSITIONS


def after(state: RunState, event: Event) -> RunState:
    """The state that follows. Raises `NoTransition` if the table has no entry."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise NoTransition(f"a run that is {state} can't be {event}") from None


def mermaid() -> str:
    """The table as a Mermaid state diagram; entries that change nothing are left out."""
    arrows = [
        f"    {before} --> {then}: {event}"
        for (before, event), then in TRANSITIONS.items()
        if before != then
    ]
    return "\n".join(
        [
            "stateDiagram-v2",
            "    [*] --> pending",
            *arrows,
            *(f"    {state} --> [*]" for state in ENDED),
        ]
    )


def page() -> str:
    """The whole of `docs/states.md`."""
    refused = [
        f"- {state}: {', '.join(event for event in EVENTS if not allows(state, event))}"
        for state in ENDED
    ]
    return "\n".join(
        [
            "# The states of a run",
            "",
            "Generated from the table in `coordinator/leveret_coordinator/states.py` by",
            "`python -m leveret_coordinator.states`.",
            "",
            "```mermaid",
            mermaid(),
            "```",
            "",
            "| state | means |",
            "|---|---|",
            *(f"| {state} | {MEANING[state]} |" for state in STATES),
            "",
            "| event | happens when |",
            "|---|---|",
            *(f"| {event} | {CAUSE[event]} |" for event in EVENTS),
            "",
            "A run ends once. Events that are refused, and counted, because it has ended:",
            "",
            *refused,
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page())
