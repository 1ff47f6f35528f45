from itertools import product
from pathlib import Path

import pytest

from leveret_broker.messages import RunState
from leveret_coordinator import states
from leveret_coordinator.errors import NoTransition

UNENDED: list[RunState] = [state for state in states.STATES if not states.has_ended(state)]
DOCS = Path(__file__).parents[2] / "docs"


def test_every_event_is_answered_by_the_table_in_every_state_that_is_no_end() -> None:
    for state, event in product(UNENDED, states.EVENTS):
        assert states.after(state, event) in states.STATES


@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in product(states.ENDED, states.EVENTS) if pair[1] != "published"],
)
def test_what_has_ended_takes_no_event(state: RunState, event: states.Event) -> None:
    assert not states.allows(state, event)
    with pytest.raises(NoTransition, match=f"a run that is {state} can't be {event}"):
        states.after(state, event)


def test_a_late_confirmation_changes_nothing_unless_the_run_is_pending() -> None:
    changed = [state for state in states.STATES if states.after(state, "published") != state]
    assert changed == ["pending"]


def test_the_event_of_an_end_leads_to_that_end() -> None:
    for state, end in product(UNENDED, states.ENDED):
        assert states.after(state, end) == end


def test_every_state_can_be_reached_from_acceptance() -> None:
    reached: set[str] = {"pending"}
    for _ in states.STATES:
        reached |= {then for (before, _), then in states.TRANSITIONS.items() if before in reached}
    assert reached == set(states.STATES)


def test_the_documented_diagram_is_the_table() -> None:
    written = (DOCS / "states.md").read_text(encoding="utf-8")
    assert written == states.page(), "python -m leveret_coordinator.states > docs/states.md"
