"""A workflow run that is executed again goes on from what was done: no finished child is repeated.

Every execution of a task takes a ticket, so that even calls with equal arguments have other
results: a child that was executed twice, or another one's result, shows in the workflow's.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from leveret import Call
from leveret.client import Client
from leveret_broker.messages import RunRow
from tests.acceptance.apps import flows
from tests.acceptance.durable import COORDINATOR, FLOWS, TASKS, DurableSite, becomes, below, reaches
from tests.acceptance.processes import Process

pytestmark = pytest.mark.rabbitmq

SLOTS = ("--slots", "200")


@pytest.fixture
def site(rabbit_vhost_url: str, tmp_path: Path) -> Iterator[DurableSite]:
    site = DurableSite(rabbit_vhost_url, tmp_path)
    yield site
    site.close()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A workflow that is killed in the middle."""

    call: Callable[[], Call[Any]]
    children: int
    """All runs below it."""
    tickets: int
    """Executions of tasks, if none is repeated."""
    before: int
    """Tickets that are let pass before the kill."""


CASES = {
    "50 equal calls": Case(call=lambda: flows.fan(50), children=50, tickets=50, before=20),
    "20 branches of two": Case(call=lambda: flows.branches(20), children=40, tickets=40, before=25),
    "20 results passed on": Case(call=lambda: flows.relay(20), children=41, tickets=40, before=25),
    "sets, arrays and models": Case(
        call=lambda: flows.objects(), children=16, tickets=16, before=7
    ),
    "workflows in workflows": Case(
        call=lambda: flows.top(3), children=3 + 9 + 18, tickets=18, before=8
    ),
}


@dataclass(frozen=True, kw_only=True)
class End:
    """How one of them came out."""

    run: str
    result: Any
    rows: Sequence[RunRow]
    """All runs below it."""
    done: Sequence[str]
    """Those of them that had been recorded as succeeded before the kill."""


async def test_killed_workflows_go_on_with_what_their_tasks_had_given(site: DurableSite) -> None:
    """The tasks live on a worker of their own: none of them is ever started twice."""
    site.together(COORDINATOR, ["worker", TASKS, *SLOTS])
    ends = await killed_in_the_middle(site, FLOWS)
    starts = site.counts("start")
    for name, end in ends.items():
        assert {starts[row.id] for row in tasks_of(end)} == {1}, name
        assert sorted(numbers(end.result)) == list(range(CASES[name].tickets))


async def test_a_killed_worker_repeats_only_what_had_not_ended(site: DurableSite) -> None:
    """It has executed both, the workflows and their tasks."""
    site.together(COORDINATOR)
    await killed_in_the_middle(site, FLOWS, TASKS)


async def killed_in_the_middle(site: DurableSite, *apps: str) -> dict[str, End]:
    """What becomes of all of them when their worker is killed and another one takes its place."""
    first = seeded(site, 1, *apps)
    async with site.client() as client:
        runs = {name: await client.start(case.call()) for name, case in CASES.items()}
        for name, case in CASES.items():
            site.let_pass(case.before, runs[name].id)
        done = {
            name: await becomes(
                partial(recorded, client, runs[name].id, case.before), f"a part of {name} is done"
            )
            for name, case in CASES.items()
        }
        first.kill()
        seeded(site, 2, *apps)
        for run in runs.values():
            await reaches(client, run.id, "running", attempt=2)
        site.let_pass()
        ends = {
            name: End(
                run=run.id,
                result=await run.result(),
                rows=await below(client, run.id),
                done=done[name],
            )
            for name, run in runs.items()
        }
    for name, end in ends.items():
        check(site, CASES[name], end)
    by_ordinal = sorted(ends["50 equal calls"].rows, key=lambda row: row.ordinal)
    values = site.values()
    assert ends["50 equal calls"].result == [values[row.id] for row in by_ordinal]
    return ends


def check(site: DurableSite, case: Case, end: End) -> None:
    """Its children are those that it had, each with its own result, and what was done is kept."""
    assert len(end.rows) == case.children
    assert {row.state for row in end.rows} == {"succeeded"}
    starts, ends, values = site.counts("start"), site.counts("end"), site.values()
    for child in end.done:  # of whatever kind, and even if that worker had executed it
        assert (starts[child], ends[child]) == (1, 1)
    drawn = {number for row in tasks_of(end) for number in numbers(values[row.id])}
    assert numbers(end.result) == drawn
    assert len(drawn) == case.tickets


def tasks_of(end: End) -> list[RunRow]:
    return [row for row in end.rows if row.kind == "task"]


def seeded(site: DurableSite, seed: int, *apps: str) -> Process:
    """A worker in which sets come in an order of its own."""
    site.settings["PYTHONHASHSEED"] = str(seed)
    return site.worker(*apps, *SLOTS, name=f"worker-{seed}")


async def recorded(client: Client, run: str, count: int) -> list[str] | None:
    """The runs below a run that the catalog has as succeeded, once they are so many tasks."""
    rows = await below(client, run)
    done = [row for row in rows if row.state == "succeeded"]
    return [row.id for row in done] if sum(row.kind == "task" for row in done) >= count else None


def numbers(result: Any) -> set[int]:
    """All tickets in a result."""
    if isinstance(result, int):
        return {result}
    return {number for part in result for number in numbers(part)}


# -- sleeps and steps -----------------------------------------------------------------------------


async def test_a_sleep_goes_on_while_nobody_executes_its_workflow(site: DurableSite) -> None:
    _, first = site.together(COORDINATOR, ["worker", FLOWS])
    async with site.client() as client:
        short, long = await client.start(flows.doze(3)), await client.start(flows.doze(3600))
        await becomes(lambda: len(site.lines("before")) == 2, "they sleep")
        sleep = await becomes(lambda: sleeping(client, short.id), "the sleep is recorded")
        under_way = await becomes(lambda: sleeping(client, long.id), "the other one, too")
        due = (await client.show(under_way))[0].due_at
        first.kill()
        await reaches(client, sleep, "succeeded")
        assert not site.lines("after")
        site.worker(FLOWS)
        before, after = await short.result()
        await becomes(lambda: len(site.lines("before", long.id)) == 2, "it is executed again")
        rows = await below(client, short.id)
        still = await below(client, long.id)
    for run in (short.id, long.id):
        told, again = site.lines("before", run)
        assert told.value == again.value
    assert site.lines("before", short.id)[0].value == before
    assert [line.value for line in site.lines("after")] == [after]
    assert [before[0], after[0]] == [0, 1]
    assert not set(before[1:]) & set(after[1:])
    assert len(rows) == 4 + 1 + 4
    assert [row.due_at for row in still if row.id == under_way] == [due]
    assert len(still) == 4 + 1


async def sleeping(client: Client, run: str) -> str | None:
    rows = await below(client, run)
    return next((row.id for row in rows if row.due_at is not None), None)


# -- two copies at once ---------------------------------------------------------------------------


async def test_a_stopped_worker_and_its_successor_create_each_child_once(
    site: DurableSite,
) -> None:
    """And the late outcome of the stopped one changes nothing."""
    shorten(site)
    coordinator, _, first = site.together(COORDINATOR, ["worker", TASKS, *SLOTS], ["worker", FLOWS])
    async with site.client() as client:
        run = await client.start(flows.branches(12))
        task = await client.start(flows.linger())
        site.let_pass(9, run.id)
        await becomes(lambda: recorded(client, run.id, 9), "a part is recorded")
        for one in (run.id, task.id):
            await becomes(partial(is_leased, client, one), "it is leased")
        first.signal(signal.SIGSTOP)
        second = site.worker(FLOWS)
        for one in (run.id, task.id):
            await reaches(client, one, "running", attempt=2)
        site.let_pass(1, task.id)  # the first copy, whose attempt counts no more
        first.signal(signal.SIGCONT)  # two copies of the workflow, and most of it is still to come
        await becomes(lambda: is_refused(coordinator, task.id), "its outcome is refused")
        assert (await client.show(task.id))[0].state == "running"
        site.let_pass()
        assert await task.result() == 1
        result = await run.result()
        await is_idle(client, 3)
        row, *rows = await client.show(run.id)
        ended = [row, *await client.show(task.id)]
    starts = site.counts("start")
    assert len(rows) == 24
    assert {starts[child.id] for child in rows} == {1}
    assert numbers(result) == set(range(24))
    for each in ended:
        assert [attempt.state for attempt in each.attempts] == ["lost", "succeeded"]
        assert [attempt.pid for attempt in each.attempts] == [first.pid, second.pid]


def shorten(site: DurableSite) -> None:
    """Twelve seconds of silence are the end, or a connection that the broker has closed."""
    site.url += "?heartbeat=3"
    site.settings |= {
        "LEVERET_WORKER_SILENT_AFTER": "12",
        "LEVERET_WORKER_GONE_AFTER": "1",
        "LEVERET_LEASE_AFTER": "1",
    }


async def is_leased(client: Client, run: str) -> bool:
    attempts = (await client.show(run))[0].attempts
    return bool(attempts) and attempts[-1].leased_at is not None


def is_refused(coordinator: Process, run: str) -> bool:
    """Whether the coordinator has refused an outcome of this run."""
    lines = coordinator.text().splitlines()
    return any("outcome refused" in line and run in line for line in lines)


async def is_idle(client: Client, workers: int) -> None:
    """Wait until so many workers are there, and none executes anything."""

    async def idle() -> bool:
        rows = await client.workers()
        return len(rows) == workers and not any(row.busy for row in rows)

    await becomes(idle, f"{workers} idle workers")
