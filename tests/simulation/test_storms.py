"""As in `test_faults.py`, on a network where half of all messages are late and many come twice."""

import pytest
from hypothesis import example, given

from tests.simulation import schedule, simulation
from tests.simulation.schedule import Schedule
from tests.simulation.strategies import a_thousand, schedules

pytestmark = pytest.mark.filterwarnings("ignore::leveret.errors.NoWorkerWarning")

A_WORKER_WAKES_TO_AN_OLD_DELIVERY = schedule.parse("650:[tt]:storm:freeze-worker1@550+24")
"""What waited in it while it was stopped was executed elsewhere, and only its clock tells."""


@a_thousand
@given(schedules("storm", "echo"))
@example(A_WORKER_WAKES_TO_AN_OLD_DELIVERY)
def test_whatever_goes_wrong_in_a_storm_every_run_ends_once_and_right(wanted: Schedule) -> None:
    simulation.simulate(wanted)
