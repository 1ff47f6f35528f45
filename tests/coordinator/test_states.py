from itertools import product
from pathlib import Path

import pytest

from leveret_broker.messages import RunState
from leveret_coordinator import states
from leveret_coordinator.errors import NoTransition

UNENDED: list[RunState] = [state for state in states.STATES if not states.has_ended(state)]
ACTIVE: list[RunState] = ["pending", "queued", "running"]
DOCS = Path(__file__).parents[2] / "docs"


def _before(event: states.Event) -> set[RunState]:
    """The states in which an event can happen."""
    return {state for state in states.STATES if states.allows(state, event)}


def test_every_event_has_the_states_in_which_it_can_happen() -> None:
    assert {event: _before(event) for event in states.EVENTS} == {
        "published": set(states.STATES),
        "started": set(ACTIVE),
        "delayed": set(ACTIVE),
        "parked": set(ACTIVE),
        "provided": {"waiting"},
        "requeued": {*ACTIVE, "waiting"},
        "succeeded": {*ACTIVE, "waiting"},
        "failed": {*ACTIVE, "waiting", "parked"},
        "cancelled": {*ACTIVE, "waiting", "parked"},
        "reopened": {"parked", "failed", "cancelled"},
    }


def test_every_event_but_a_confirmation_has_one_meaning_wherever_it_happens() -> None:
    for event in states.EVENTS:
        if event != "published":
            assert len({states.after(state, event) for state in _before(event)}) == 1, event


@pytest.mark.parametrize(
    ("state", "event"),
    [
        pair
        for pair in product(states.ENDED, states.EVENTS)
        if pair[1] not in ("published", "reopened")
    ],
)
def test_what_has_ended_takes_no_event_but_being_reopened(
    state: RunState, event: states.Event
) -> None:
    assert not states.allows(state, event)
    with pytest.raises(NoTransition, match=f"a run that is {state} can't be {event}"):
        states.after(state, event)


def test_what_succeeded_is_never_left() -> None:
    assert not states.allows("succeeded", "reopened")
    left = [event for event in states.EVENTS if states.allows("succeeded", event)]
    assert left == ["published"]


def test_a_parked_run_is_left_by_a_person_or_a_timeout_only() -> None:
    left = {event for event in states.EVENTS if states.allows("parked", event)}
    assert left == {"published", "failed", "cancelled", "reopened"}


def test_a_late_confirmation_changes_nothing_unless_the_run_is_pending() -> None:
    changed = [state for state in states.STATES if states.after(state, "published") != state]
    assert changed == ["pending"]


def test_the_event_of_an_end_leads_to_that_end() -> None:
    for state, end in product(UNENDED, states.ENDED):
        if (state, end) != ("parked", "succeeded"):
            assert states.after(state, end) == end


def test_every_new_attempt_is_pending_until_it_is_published() -> None:
    for event in ("requeued", "reopened"):
        assert {states.after(state, event) for state in _before(event)} == {"pending"}


def test_every_state_can_be_reached_from_acceptance() -> None:
    reached: set[str] = {"pending"}
    for _ in states.STATES:
        reached |= {then for (before, _), then in states.TRANSITIONS.items() if before in reached}
    assert reached == set(states.STATES)


def test_the_documented_diagram_is_the_table() -> None:
    written = (DOCS / "states.md").read_text(encoding="utf-8")
    assert written == states.page(), "python -m leveret_coordinator.states > docs/states.md"
