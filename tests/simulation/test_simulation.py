"""Thousands of small schedules of faults: every accepted run ends once, as it should.

A failure names a line for `python -m tests.simulation`, which runs just that schedule again.
"""

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from tests.simulation import schedule, simulation
from tests.simulation.schedule import Schedule
from tests.simulation.strategies import schedules

pytestmark = pytest.mark.filterwarnings("ignore::leveret.errors.NoWorkerWarning")


A_WORKER_WAKES_TO_AN_OLD_DELIVERY = schedule.parse("650:[tt]:storm:freeze-worker1@550+24")
"""What waited in it while it was stopped was executed elsewhere, and only its clock tells."""


@settings(
    max_examples=2000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
@given(schedules)
@example(A_WORKER_WAKES_TO_AN_OLD_DELIVERY)
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
