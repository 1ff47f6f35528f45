"""The states of a run and every way from one to another, in one table.

`docs/states.md` is this table, drawn: `python -m leveret_coordinator.states > docs/states.md`.
"""

import sys
from typing import Literal, TypeGuard, get_args

from leveret_broker.messages import Ended, RunState
from leveret_coordinator.errors import NoTransition

Event = Literal[
    "published",
    "started",
    "delayed",
    "parked",
    "provided",
    "requeued",
    "succeeded",
    "failed",
    "cancelled",
    "reopened",
]

STATES: tuple[RunState, ...] = get_args(RunState)
ENDED: tuple[Ended, ...] = get_args(Ended)
EVENTS: tuple[Event, ...] = get_args(Event)

MEANING: dict[RunState, str] = {
    "pending": "accepted and kept; its invocation is not yet confirmed as published",
    "queued": "its invocation waits in the queue of its definition",
    "running": "a worker has told that it executes it, and answers for it",
    "waiting": "its inputs are not all there, or a time is to come: that of the next retry, or the "
    "end of a sleep",
    "parked": "its retries are used up; it is kept until somebody resumes or cancels it",
    "succeeded": "ended with a result",
    "failed": "ended with an error",
    "cancelled": "stopped by somebody before it ended by itself",
}

CAUSE: dict[Event, str] = {
    "published": "the broker confirmed the invocation",
    "started": "a worker tells that it executes the attempt, or is allowed to",
    "delayed": "it needs results that are not there yet, or the attempt failed and is to be tried "
    "again later",
    "parked": "the attempt failed, and no more are allowed until a person has looked",
    "provided": "the last of its inputs has succeeded",
    "requeued": "a new attempt is made: it is due, or a worker was lost or gave the run back; "
    "or the same invocation is published again, because it vanished",
    "succeeded": "a worker tells the attempt's result, or a sleep is over",
    "failed": "a worker tells an error that is not to be tried again, an input did not succeed, a "
    "timeout of the whole run passes, or the broker refuses the invocation",
    "cancelled": "somebody cancelled the run or a run above it",
    "reopened": "somebody retries or resumes it, or its parent calls it again in a later round",
}

ACTIVE: tuple[RunState, ...] = ("pending", "queued", "running")
"""An attempt may be executed."""

TRANSITIONS: dict[tuple[RunState, Event], RunState] = {
    ("pending", "published"): "queued",
    ("queued", "published"): "queued",
    ("running", "published"): "running",
    **{(state, "started"): "running" for state in ACTIVE},
    **{(state, "delayed"): "waiting" for state in ACTIVE},
    **{(state, "parked"): "parked" for state in ACTIVE},
    ("waiting", "provided"): "pending",
    **{(state, "requeued"): "pending" for state in (*ACTIVE, "waiting")},
    **{(state, "succeeded"): "succeeded" for state in (*ACTIVE, "waiting")},
    **{(state, "failed"): "failed" for state in (*ACTIVE, "waiting", "parked")},
    **{(state, "cancelled"): "cancelled" for state in (*ACTIVE, "waiting", "parked")},
    **{(state, "reopened"): "pending" for state in ("parked", "failed", "cancelled")},
    # A confirmation is written after the publication, so more may have happened meanwhile.
    **{
        (state, "published"): state
        for state in ("waiting", "parked", "succeeded", "failed", "cancelled")
    },
}
"""What is not here can't happen. A run that ended is left only by `reopened`, which makes a new
attempt: news of the old one are refused."""


def has_ended(state: RunState) -> TypeGuard[Ended]:
    """Whether it has a result or an error, which all who wait are told."""
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
            "A run ends once in each of its lives. Events that are refused because it has ended:",
            "",
            *refused,
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page())
