"""Results that are passed on, with real processes: through kills, and past who makes the calls."""

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from leveret_broker.messages import RunRow
from tests.acceptance.apps import flows
from tests.acceptance.durable import COORDINATOR, FLOWS, TASKS, DurableSite, becomes, below
from tests.acceptance.processes import Site

pytestmark = pytest.mark.rabbitmq

COUNT = 12
SIZE = int(os.environ.get("LEVERET_TEST_RESULT_MB", "32"))
"""Megabytes of each of the ten results that are passed on."""
MOST = 100 << 20
"""Bytes that the process of the workflow may take."""

STEPS = """
from leveret import define


@define.task
def make(number, megabytes):
    import numpy as np
    return np.full(megabytes << 17, float(number))


@define.task
def first(array):
    return float(array[0])


@define.task
def both(one, other):
    return one[:3] + other[:3]
"""

MOVING = """
import leveret
from leveret import define
from steps import both, first, make


@define.workflow
async def move(count, megabytes):
    made = [make(number, megabytes) for number in range(count)]
    sums = [both(one, other) for one, other in zip(made, made[1:])]
    return await leveret.gather([first(each) for each in [*made, *sums]])
"""


def _has_ended(site: DurableSite, count: int) -> bool:
    return len(site.lines("end")) >= count


async def _succeeded(site: DurableSite, run: str, count: int) -> bool:
    async with site.client() as client:
        rows = await below(client, run)
    return sum(row.state == "succeeded" for row in rows) >= count


async def test_a_coordinator_that_is_killed_between_inputs_and_dependents_opens_them(
    tmp_path: Path, rabbit_vhost_url: str
) -> None:
    """Twice: while inputs end unheard, and while what they are needed for does."""
    site = DurableSite(rabbit_vhost_url, tmp_path)
    try:
        slots = ("--slots", "200")
        coordinator, *_ = site.together(COORDINATOR, ["worker", TASKS, *slots], ["worker", FLOWS])
        async with site.client() as client:
            run = await client.start(flows.relay(COUNT))
            site.let_pass(3, run.id)
            await becomes(partial(_succeeded, site, run.id, 3), "a few have ended")
            for passing in (COUNT, COUNT + 8):
                coordinator.kill()
                site.let_pass(passing, run.id)
                await becomes(partial(_has_ended, site, COUNT), "they end unheard")
                coordinator = site.coordinator()
                await becomes(partial(_succeeded, site, run.id, passing), "it is recorded")
            site.let_pass()
            result = await run.result()
            rows = await below(client, run.id)
    finally:
        site.close()
    _check(site, rows, result)


def _check(site: DurableSite, rows: Sequence[RunRow], result: list[list[int]]) -> None:
    """Each call was executed once, with the result that its input had."""
    assert len(rows) == 2 * COUNT + 1
    assert {row.state for row in rows} == {"succeeded"}
    starts, values = site.counts("start"), site.values()
    assert {starts[row.id] for row in rows} == {1}
    by_id = {row.id: row for row in rows}
    for row in rows:
        for made in row.inputs if "follow" in row.definition else ():
            assert values[row.id][0] == values[made]
            assert "draw" in by_id[made].definition
    assert sorted(number for pair in result for number in pair) == list(range(2 * COUNT))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_large_results_go_past_the_process_of_their_workflow(site: Site) -> None:
    (site.folder / "steps.py").write_text(STEPS)
    (site.folder / "moving.py").write_text(MOVING)
    store = ("--payload-store", str(site.folder / "store"))
    site.start("coordinator", *store).ready("coordinator ready")
    site.worker("steps", *store, "--processes", "2", name="steps")
    mover = site.worker("moving", *store, name="moving")
    sums = [float(2 * number + 1) for number in range(9)]
    done = site.run("run", "move", "--input", f'{{"count": 10, "megabytes": {SIZE}}}', timeout=170)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [*map(float, range(10)), *sums]
    taken = _peak(mover.pid)
    print(f"\npeak memory of the workflow's process: {taken >> 20} MB, results: 10 × {SIZE} MB")
    assert taken < MOST


def _peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
