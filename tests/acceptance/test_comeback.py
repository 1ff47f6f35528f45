"""Cancelling, asking again and moving on, whatever is restarted in between."""

import asyncio
import re
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import leveret
from leveret import Retry
from leveret.client import Client
from leveret_broker.messages import RunRow
from leveret_broker.topology import reply_queue_name
from tests.acceptance.apps import held, report_1, tasks
from tests.acceptance.durable import (
    COORDINATOR,
    KEY,
    PROJECT,
    TASKS,
    DurableSite,
    becomes,
    below,
    reaches,
)
from tests.acceptance.processes import Process
from tests.broker.proxy import Proxy
from tests.rabbit import RabbitNode

pytestmark = pytest.mark.rabbitmq

APPS = "tests.acceptance.apps"
HELD = f"{APPS}.held"
SHORT = {
    "LEVERET_LEASE_AFTER": "1",
    "LEVERET_STOP_GRACE": "1",
    "LEVERET_WORKER_GONE_AFTER": "1",
}


@pytest.fixture
def site(rabbit_vhost_url: str, tmp_path: Path) -> Iterator[DurableSite]:
    site = DurableSite(rabbit_vhost_url, tmp_path)
    site.settings |= SHORT
    yield site
    site.close()


def restart(site: DurableSite, coordinator: Process, node: RabbitNode) -> None:
    """The coordinator is killed, and the broker stopped and started."""
    coordinator.kill()
    node.stop_app()
    node.start_app()
    site.coordinator()


# -- cancelling -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::leveret.NoWorkerWarning")
async def test_what_is_cancelled_before_there_is_a_worker_is_never_executed(
    site: DurableSite, rabbit_node: RabbitNode
) -> None:
    coordinator, worker = site.together(COORDINATOR, ("worker", HELD))
    assert worker.terminate() == 0
    async with site.client() as client:
        by_command, by_client, kept = [
            await client.start(held.hold(name)) for name in ("one", "two", "three")
        ]
        tree = await client.start(held.parent())
        assert site.run("runs", "cancel", by_command.id).returncode == 0
        assert list(await client.cancel(by_client.id)) == [by_client.id]
        assert list(await tree.cancel()) == [tree.id]
        by_awaiting = await abandoned(client)
        late = await client.start(held.hold.options(queue_timeout=1)("late"))
        with pytest.raises(leveret.RunTimeout, match="queue_timeout of 1 s"):
            await late.result()
        restart(site, coordinator, rabbit_node)
        site.let_pass()
        site.worker(HELD, "--slots", "1")
        assert await kept.result() == "three"
        last = await client.start(held.hold("last"))
        assert await last.result() == "last"
        assert {line.run for line in site.lines()} == {kept.id, last.id}
        for run in (by_command.id, by_client.id, tree.id, by_awaiting):
            assert (await client.show(run))[0].state == "cancelled"
            with pytest.raises(leveret.RunCancelled):
                await client.run(run).result()


@pytest.mark.parametrize("arguments", [[], ["connected"]], ids=["default", "connected"])
async def test_an_interrupted_program_has_what_it_awaits_cancelled(
    site: DurableSite, arguments: list[str]
) -> None:
    site.together(COORDINATOR, ("worker", HELD))
    program = site.start_module(f"{APPS}.awaiting", *arguments)
    await becomes(lambda: len(site.lines("start")) >= 5, "the tree executes")
    program.signal(signal.SIGINT)
    assert program.wait() in (1, -signal.SIGINT)
    async with site.client() as client:
        [root] = await client.runs(roots_only=True)
        await reaches(client, root.id, "cancelled")
        assert {run.state for run in await below(client, root.id)} == {"cancelled"}


async def abandoned(client: Client) -> str:
    """A run that is cancelled because who awaited it was."""
    seen = {row.id for row in await client.runs()}

    async def wait() -> None:
        await held.hold("abandoned")

    waiting = asyncio.create_task(wait())
    row: RunRow = await becomes(lambda: newest(client, seen), "it is accepted")
    waiting.cancel()
    with suppress(asyncio.CancelledError, leveret.RunCancelled):
        await waiting
    await reaches(client, row.id, "cancelled")
    assert waiting.cancelled()
    return row.id


async def newest(client: Client, seen: set[str]) -> RunRow | None:
    return next((row for row in await client.runs() if row.id not in seen), None)


@pytest.mark.parametrize(
    ("worker_is", "lease_after"),
    [("stopped meanwhile", 1), ("killed meanwhile", 1), ("killed meanwhile", 3600)],
    ids=["stopped", "killed", "killed, without leases"],
)
async def test_a_cancelled_tree_is_stopped_whatever_was_restarted_since(
    site: DurableSite, rabbit_node: RabbitNode, worker_is: str, lease_after: int
) -> None:
    """Nobody hears of the cancellation when it is made: the worker doesn't run just then."""
    site.settings["LEVERET_LEASE_AFTER"] = str(lease_after)
    coordinator, worker = site.together(COORDINATOR, ("worker", HELD, "--processes", "2"))
    async with site.client() as client:
        run = await client.start(held.parent())
        rows = {
            row.definition.split(":")[1]: row.id
            for row in await whole(client, run.id, leased=lease_after == 1)
        }
        worker.signal(signal.SIGSTOP)
        done = site.run("runs", "cancel", run.id)
        assert f"{run.id} cancelled, with 5 below it" in done.stdout
        with pytest.raises(leveret.RunCancelled):
            await run.result()
        if worker_is == "killed meanwhile":
            worker.kill()
            restart(site, coordinator, rabbit_node)
            site.worker(HELD, "--slots", "1")
        else:
            restart(site, coordinator, rabbit_node)
            worker.signal(signal.SIGCONT)
            for name in ("parent", "inner", "hold", "hold_in_a_process"):
                await becomes(lambda: site.lines("stop", rows[name]), f"{name} unwinds")  # noqa: B023
        for name in ("hold_in_a_process", "hold_against_signals"):
            (line,) = site.lines("start", rows[name])
            await becomes(lambda: not is_there(line.pid), f"the process of {name} is gone")  # noqa: B023
        site.let_pass()
        for _ in range(2):
            assert await (await client.start(held.hold("last"))).result() == "last"
        assert {row.state for row in await client.show(run.id)} == {"cancelled"}
    starts = site.counts("start")
    assert {starts[row] for row in rows.values()} == {1}
    assert not any(site.lines("end", row) for row in rows.values())
    stops = {line.run: line.value for line in site.lines("stop")}
    if worker_is == "stopped meanwhile":
        assert stops[rows["hold"]] == "CancelledError"
        # What it awaits was cancelled as well, and it may hear of that first.
        told = {stops[rows[name]] for name in ("parent", "inner")}
        assert told <= {"CancelledError", "RunCancelled"}
        assert stops[rows["hold_in_a_process"]] == "Terminated"
        assert rows["hold_against_signals"] not in stops


async def whole(client: Client, run: str, *, leased: bool) -> list[RunRow]:
    """The tree, once one waits for its retry, and the rest runs and, if that is due, is leased."""

    async def settled() -> list[RunRow]:
        rows = list(await client.show(run))
        waiting = [row for row in rows if row.state == "waiting"]
        running = [row for row in rows if row.state == "running"]
        missing = [row for row in running if leased and row.attempts[-1].leased_at is None]
        return rows if (len(waiting), len(running), len(missing)) == (1, 5, 0) else []

    rows: list[RunRow] = await becomes(settled, "all run, or wait")
    return rows


def is_there(pid: int) -> bool:
    """Whether a process runs, or ended and is not yet waited for."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


# -- callers come back ----------------------------------------------------------------------------


def ask(site: DurableSite, *arguments: str) -> Process:
    return site.start_module(f"{APPS}.caller", *arguments)


async def run_of(caller: Process) -> str:
    """The id of the run that a caller waits for."""
    found = await becomes(lambda: re.search(r"run (\S+)\n", caller.text()), "the run is accepted")
    return str(found[1])


async def test_another_process_gets_the_result_of_a_killed_callers_run(site: DurableSite) -> None:
    site.together(COORDINATOR, ("worker", TASKS))
    caller = ask(site, "anything")
    run = await run_of(caller)
    await becomes(lambda: site.lines("start", run), "it executes")
    caller.kill()
    site.let_pass()
    async with site.client() as client:
        assert await client.run(run).result() == 0
    assert len(site.lines("start")) == 1


async def test_two_processes_with_one_key_share_a_run_and_other_arguments_are_refused(
    site: DurableSite,
) -> None:
    site.together(COORDINATOR, ("worker", TASKS))
    callers = [ask(site, "these", "nightly") for _ in range(2)]
    one, other = [await run_of(caller) for caller in callers]
    wrong = ask(site, "those", "nightly")
    assert wrong.wait() == 1
    site.let_pass()
    assert [caller.wait() for caller in callers] == [0, 0]
    assert one == other
    assert all(caller.text().endswith("result 0\n") for caller in callers)
    assert len(site.lines("start")) == 1
    told = wrong.text().rstrip().splitlines()[-1]
    assert "KeyConflictError" in told
    for part in ("'nightly'", one, "these", "those"):
        assert part in told


class Cut(Proxy):
    """A network that can be down for a while."""

    is_down = False

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.is_down:
            client.transport.abort()
        else:
            await super()._accept(reader, client)


@pytest.fixture
async def network(rabbit_vhost_url: str) -> AsyncGenerator[tuple[Cut, str]]:
    proxy = Cut(rabbit_vhost_url)
    yield proxy, await proxy.start()
    await proxy.stop()


async def test_a_session_hears_of_every_end_that_came_while_it_was_cut_off(
    site: DurableSite, rabbit_node: RabbitNode, network: tuple[Cut, str]
) -> None:
    """Its queue of replies is gone as well when it is back, and the replies with it."""
    proxy, url = network
    site.together(COORDINATOR, ("worker", TASKS, "--slots", "100"))
    cut_off = leveret.connect(url, project=PROJECT, key=KEY)
    async with cut_off, site.client() as client:
        runs = await asyncio.gather(*[cut_off.start(tasks.draw(number)) for number in range(60)])
        waiting = [asyncio.create_task(run.result()) for run in runs]
        proxy.is_down = True
        proxy.break_all()
        site.let_pass()
        await asyncio.gather(*[client.run(run.id).result() for run in runs[:40]])
        assert not any(task.done() for task in waiting)
        replies = reply_queue_name(cut_off.connection.session.id)
        rabbit_node.ctl("delete_queue", "-p", unquote(urlsplit(url).path[1:]), replies)
        proxy.is_down = False
        assert await asyncio.gather(*waiting) == [0] * 60
    assert set(site.counts("start").values()) == {1}


# -- moving on ------------------------------------------------------------------------------------


async def test_a_workflow_is_moved_to_its_mended_code_and_keeps_what_was_done(
    site: DurableSite,
) -> None:
    _, _, worker = site.together(COORDINATOR, ("worker", TASKS), ("worker", f"{APPS}.report_1"))
    site.let_pass()
    parking = report_1.report.options(retries=Retry(0, then="park"))
    async with site.client() as client:
        failed, parked = await client.start(report_1.report()), await client.start(parking())
        await reaches(client, failed.id, "failed")
        await reaches(client, parked.id, "parked")
        done = {row.id for run in (failed, parked) for row in await below(client, run.id)}
        assert worker.terminate() == 0
        site.worker(f"{APPS}.report_2")
        for run in (failed, parked):
            command = ("runs", "retry", run.id, "--revision", "2")
            assert site.json(*command)["definition"] == f"{PROJECT}:report:2"
            result = await client.run(run.id).result()
            assert sorted(result[:2]) == [0, 1]
            assert result[2] == 2
            rows = await client.show(run.id)
            assert (rows[0].definition, len(rows)) == (f"{PROJECT}:report:2", 4)
    starts = site.counts("start")
    assert len(done) == 4
    assert {starts[child] for child in done} == {1}
    assert set(starts.values()) == {1}


async def test_a_retried_workflow_executes_only_its_failed_children_again(
    site: DurableSite,
) -> None:
    _, worker = site.together(COORDINATOR, ("worker", HELD))
    site.let_pass()
    async with site.client() as client:
        run = await client.start(held.trying(2))
        with pytest.raises(ValueError, match="too early"):
            await run.result()
        worker.kill()
        site.worker(HELD)
        document = site.json("runs", "retry", run.id)
        assert (document["run"], document["attempt"]) == (run.id, 2)
        assert await client.run(run.id).result() == 2
        row, hold, need = await client.show(run.id)
    assert [attempt.state for attempt in row.attempts] == ["failed", "succeeded"]
    assert (hold.attempt, need.attempt) == (1, 2)
    assert [len(site.lines("start", one.id)) for one in (hold, need)] == [1, 2]


async def test_a_parked_child_is_resumed_after_everything_was_restarted(
    site: DurableSite, rabbit_node: RabbitNode
) -> None:
    coordinator, worker = site.together(COORDINATOR, ("worker", HELD))
    site.let_pass()
    async with site.client() as client:
        run = await client.start(held.needing(3))
        waiting = asyncio.create_task(run.result())
        row = await becomes(lambda: parked(client, run.id), "the child parks")
        worker.kill()
        restart(site, coordinator, rabbit_node)
        site.worker(HELD)
        await reaches(client, run.id, "running", attempt=2)
        assert site.run("runs", "resume", run.id).returncode == 2
        assert site.run("runs", "resume", row.id).returncode == 0
        await reaches(client, row.id, "parked", attempt=2)
        assert site.run("runs", "resume", row.id).returncode == 0
        assert await waiting == 3
        hold, need = await below(client, run.id)
    assert (hold.attempt, need.attempt) == (1, 3)
    assert [len(site.lines("start", one.id)) for one in (hold, need)] == [1, 3]


async def parked(client: Client, run: str) -> RunRow | None:
    return next((row for row in await below(client, run) if row.state == "parked"), None)
