"""Real processes, killed and disturbed at random: nothing is lost, nothing is done twice.

A seed decides what is asked for and what is done to those who do it; `scripts/chaos --seed S` does
it again. The second half is about the verdict itself: it sees what it should.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import rabbit
from tests.acceptance.chaos import verdict, workload
from tests.acceptance.chaos.driver import Entry
from tests.acceptance.chaos.evidence import Evidence, Refused, Row
from tests.acceptance.chaos.ledger import Event, Line
from tests.acceptance.chaos.run import run
from tests.conftest import Tell

SEEDS = (3, 9)
"""Every kind of fault comes up with each of them."""
FAULTS = 101
"""Of each seed: more than 200 in all."""


@pytest.mark.rabbitmq
@pytest.mark.timeout(480)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_killed_every_run_ends_once_and_right(
    seed: int,
    own_rabbit_node: rabbit.PrivateNode,
    tmp_path: Path,
    tell: Tell,
) -> None:
    url = rabbit.VirtualHosts(own_rabbit_node).take()
    story = run(own_rabbit_node, url, tmp_path, tell, seed=seed, count=FAULTS)
    assert len(story.done) == FAULTS


# -- the verdict ----------------------------------------------------------------------------------

ROOT = "run_root"


def row(run: str, name: str = "wait", **changes: Any) -> Row:
    kind = "workflow" if name == "campaign" else "task"
    state, attempt = changes.get("state", "succeeded"), changes.get("attempt", 1)
    fields: dict[str, Any] = {
        "id": run,
        "name": name,
        "kind": kind,
        "root": ROOT,
        "parent": None if run == ROOT else ROOT,
        "state": state,
        "attempt": attempt,
        "created_at": 1.0,
        "finished_at": 3.0,
        "everything": {},
        "attempts": [{"number": attempt, "state": state}],
    }
    return Row(**{**fields, **changes})


def line(event: Event, run: str, at: float, attempt: int = 1) -> Line:
    return Line(event=event, name="wait", run=run, attempt=attempt, pid=1, at=at)


def evidence() -> Evidence:
    """Of a round in which all went well: one root and the runs below it."""
    calls = workload.root(7, 0)
    failing = workload.hopeless(calls)
    tree = [row(ROOT, "campaign")]
    for number in range(workload.size(calls)):
        name, state = ("hopeless", "failed") if number < failing else ("wait", "succeeded")
        tree.append(row(f"run_{number}", name, state=state))
    events: tuple[tuple[Event, float], ...] = (("start", 2.0), ("end", 3.0))
    return Evidence(
        seed=7,
        rows={one.id: one for one in tree},
        refused=[],
        lines=[line(event, one.id, at) for one in tree for event, at in events],
        journal=[
            Entry(index=0, run=None),
            Entry(index=0, run=ROOT),
            Entry(index=0, run=ROOT, value={"index": 0, "value": workload.expected(calls)}),
        ],
        timers=[],
        waiters=[],
        changed_ends=[],
        left={"default:wait:0": 0},
        examples=[],
        memory={"worker-1": [60.0] * 90},
        troubles=[],
    )


def changed(**rows: Row) -> Evidence:
    return replace(evidence(), rows={**evidence().rows, **rows})


def executed(*more: Line) -> Evidence:
    return replace(evidence(), lines=[*evidence().lines, *more])


def test_nothing_is_said_of_a_round_in_which_all_went_well() -> None:
    assert verdict.violations(evidence()) == []


def test_what_was_begun_in_time_and_then_stopped_for_a_while_is_no_second_execution() -> None:
    second = executed(line("start", "run_9", 5.0, attempt=1))
    second = replace(second, rows={**second.rows, "run_9": row("run_9", attempt=2)})
    second = replace(second, lines=[*second.lines, line("end", "run_9", 3.0, attempt=2)])
    second.lines.remove(line("start", "run_9", 2.0))
    refused = [Refused(run="run_9", attempt=1, started_at=2.9)]
    late = [Refused(run="run_9", attempt=1, started_at=4.9)]
    assert verdict.violations(replace(second, refused=refused)) == []
    [found] = verdict.violations(replace(second, refused=late))
    assert "1.900 s after its end" in found.what


@pytest.mark.parametrize(
    ("contradicted", "told"),
    [
        (executed(line("start", "run_9", 3.001, attempt=2)), "0.001 s after its end"),
        (executed(line("start", "run_9", 2.5, attempt=2)), "attempt 2 was begun, 1 is the one"),
        (executed(line("start", "run_9", 2.5)), "attempt 1 was begun 2 times"),
        (executed(line("start", "run_x", 2.5)), "not in the catalog"),
        (replace(evidence(), lines=[]), "did not get to its end"),
        (changed(run_9=row("run_9", state="running", finished_at=None)), "wait is running"),
        (changed(run_9=row("run_9", state="failed")), "wait is failed"),
        (changed(run_x=row("run_x")), "runs in the tree, not"),
        (changed(run_x=row("run_x", root="run_x")), "a tree that nobody knows"),
        (changed(run_9=row("run_9", attempts=[])), "attempts [] succeeded"),
        (replace(evidence(), journal=[]), "nothing was ever accepted"),
        (replace(evidence(), journal=[Entry(index=0, run="run_gone")]), "is not there"),
        (replace(evidence(), journal=[Entry(index=0, run=ROOT)]), "was never heard"),
        (replace(evidence(), journal=[Entry(index=0, run=ROOT, value=1)]), "not 1"),
        (replace(evidence(), timers=[{"seq": 1}]), "a timer is left"),
        (replace(evidence(), waiters=[{"run_id": ROOT, "session": "s"}]), "still owed"),
        (replace(evidence(), changed_ends=["run_9 had ended"]), "had ended"),
        (replace(evidence(), left={"leveret.dead": 1}), "1 messages are left in leveret.dead"),
        (replace(evidence(), memory={"w": [60.0] * 30 + [200.0] * 30}), "grew from 60 to 200"),
        (replace(evidence(), memory={"w": [500.0]}), "took 500 MiB"),
        (replace(evidence(), troubles=["worker-1 ended by itself"]), "ended by itself"),
    ],
)
def test_what_does_not_hold_is_seen(contradicted: Evidence, told: str) -> None:
    assert any(told in found.what for found in verdict.violations(contradicted))
