"""Thousands of small schedules of faults: every accepted run ends once, as it should.

Here the network is in good order, or a little late; in `test_storms.py` it isn't. A failure names a
line for `python -m tests.simulation`, which runs just that schedule again.
"""

import pytest
from hypothesis import given

from tests.simulation import schedule, simulation
from tests.simulation.schedule import Schedule
from tests.simulation.strategies import a_thousand, schedules

pytestmark = pytest.mark.filterwarnings("ignore::leveret.errors.NoWorkerWarning")


@a_thousand
@given(schedules("fair", "rain"))
def test_whatever_goes_wrong_every_run_ends_once_and_right(wanted: Schedule) -> None:
    simulation.simulate(wanted)


def test_a_schedule_runs_the_same_way_every_time() -> None:
    for seed in range(5):
        wanted = schedule.draw(seed)
        assert simulation.explain(wanted) == simulation.explain(wanted)


def test_a_schedule_is_what_it_prints() -> None:
    for seed in range(100):
        wanted = schedule.draw(seed)
        assert schedule.parse(str(wanted)) == wanted
