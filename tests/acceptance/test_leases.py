"""Long runs: their deliveries are acknowledged, and who executes them is watched in another way."""

import asyncio
import re
import signal
import socket
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import leveret
from leveret.client import Client
from tests.acceptance.apps import fatal, load, tasks
from tests.acceptance.durable import COORDINATOR, TASKS, DurableSite, becomes, reaches
from tests.acceptance.processes import Process
from tests.rabbit import PrivateNode, RabbitNode, installed_scripts, missing

pytestmark = pytest.mark.rabbitmq

LOAD, FATAL = "tests.acceptance.apps.load", "tests.acceptance.apps.fatal"
SHORT = {"LEVERET_LEASE_AFTER": "1", "LEVERET_WORKER_GONE_AFTER": "1"}


@pytest.fixture
def site(rabbit_vhost_url: str, tmp_path: Path) -> Iterator[DurableSite]:
    site = DurableSite(rabbit_vhost_url, tmp_path)
    site.settings |= SHORT
    yield site
    site.close()


class ImpatientNode(PrivateNode):
    """It takes back what is not acknowledged within five seconds; usually that is half an hour."""

    SETTINGS = "[{rabbit, [{consumer_timeout, 5000}, {channel_tick_interval, 1000}]}]."

    def __init__(self, scripts: Path, folder: Path) -> None:
        super().__init__(scripts, folder)
        self._logs = folder / "log"
        (folder / "advanced.config").write_text(self.SETTINGS)

    @property
    def taken_back(self) -> int:
        """How often a delivery was not acknowledged in time."""
        told = [log.read_text(errors="replace") for log in self._logs.glob("*.log")]
        return sum(len(re.findall("delivery acknowledgement.* timed out", text)) for text in told)


@pytest.fixture
def impatient_node() -> Iterator[ImpatientNode]:
    scripts = installed_scripts() or missing("this needs a rabbitmq-server on this machine")
    with tempfile.TemporaryDirectory(prefix="leveret-rabbitmq-") as folder:
        node = ImpatientNode(scripts, Path(folder))
        try:
            node.start()
            yield node
        finally:
            node.stop()


async def test_a_leased_run_outlives_the_brokers_acknowledgement_timeout(
    impatient_node: ImpatientNode, tmp_path: Path
) -> None:
    """One that is not leased shows that the timeout is in force. It is executed once even so."""
    site = DurableSite(impatient_node.url, tmp_path)
    try:
        _, leasing, other = site.together(
            COORDINATOR,
            ("worker", TASKS, "--lease-after", "1"),
            ("worker", LOAD, "--lease-after", "3600"),
        )
        async with site.client() as client:
            leased = await client.start(tasks.draw("leased"))
            await reaches(client, leased.id, "running")
            held = await client.start(load.carry(1))
            await becomes(lambda: impatient_node.taken_back >= 2, "a delivery is taken back twice")
            site.let_pass()
            assert (await leased.result(), await held.result()) == (0, 1)
            (row,) = await client.show(leased.id)
        (attempt,) = row.attempts
        assert attempt.leased_at is not None
        assert site.counts("start") == {leased.id: 1, held.id: 1}
        joined = [worker.text().count('"joined"') for worker in (leasing, other)]
        assert joined[0] == 1
        assert joined[1] >= 3  # each time that its channel was closed
    finally:
        site.close()


async def test_a_leased_run_of_a_killed_worker_is_executed_by_another(site: DurableSite) -> None:
    _, first = site.together(COORDINATOR, ("worker", TASKS))
    async with site.client() as client:
        run = await client.start(tasks.draw("leased"))
        await becomes(lambda: is_leased(client, run.id), "it is leased")
        first.kill()
        second = site.worker(TASKS)
        await reaches(client, run.id, "running", attempt=2)
        site.let_pass()
        assert await run.result() == 1
        (row,) = await client.show(run.id)
    lost, succeeded = row.attempts
    assert (lost.state, succeeded.state) == ("lost", "succeeded")
    assert (lost.pid, succeeded.pid) == (first.pid, second.pid)
    assert lost.leased_at is not None
    assert lost.failure is not None
    assert lost.failure.type == "leveret.errors.WorkerLost"


async def is_leased(client: Client, run: str) -> bool:
    attempts = (await client.show(run))[0].attempts
    return bool(attempts) and attempts[-1].leased_at is not None


async def test_busy_and_blocked_interpreters_cost_no_heartbeat(
    site: DurableSite, rabbit_node: RabbitNode
) -> None:
    """The broker drops a connection after two silent heartbeats, here after four seconds."""
    site.settings["LEVERET_WORKER_SILENT_AFTER"] = "12"
    site.url += "?heartbeat=2"
    _, worker = site.together(COORDINATOR, ("worker", FATAL, "--processes", "2"))
    before = connections(rabbit_node)
    async with site.client() as client:
        runs = [await client.start(call) for call in (fatal.burn(8), fatal.hold_the_interpreter(8))]
        results = [await run.result() for run in runs]
        rows = [(await client.show(run.id))[0] for run in runs]
    assert results[0] > 0
    assert results[1] == 0
    for row in rows:
        (attempt,) = row.attempts
        assert attempt.state == "succeeded"
        assert attempt.leased_at is not None
    assert before <= connections(rabbit_node)
    assert "lost" not in worker.text()


def connections(node: RabbitNode) -> set[str]:
    """The workers' connections, by the broker's name for each."""
    listed = node.ctl("list_connections", "--no-table-headers", "pid", "client_properties")
    return {line.split("\t")[0] for line in listed.splitlines() if "leveret-worker" in line}


# -- poison ---------------------------------------------------------------------------------------


async def test_a_task_that_kills_its_worker_ends_as_lost_and_others_are_executed(
    site: DurableSite,
) -> None:
    one_slot = ("worker", FATAL, "--slots", "1")
    _, worker = site.together(COORDINATOR, one_slot)
    async with site.client() as client, kept_up(site, worker, *one_slot) as lives:
        before = [await client.start(fatal.innocent(number)) for number in range(20)]
        run = await client.start(fatal.poison())
        after = [await client.start(fatal.innocent(number)) for number in range(20, 40)]
        with pytest.raises(leveret.WorkerLost) as caught:
            await run.result()
        started = len(site.lines("start", run.id))
        assert [await one.result() for one in (*before, *after)] == list(range(40))
        (row,) = await client.show(run.id)
        await becomes(lambda: lives[-1].exit_code is None, "a worker lives")
        assert await fatal.innocent(40) == 40
    told = str(caught.value)
    lost = [attempt for attempt in row.attempts if attempt.state == "lost"]
    assert len(lost) == 2
    assert "lost_retries=1" in told
    for attempt in lost:
        at = rf"attempt {attempt.number} on {re.escape(socket.gethostname())} at \d{{4}}-\d\d-\d\d "
        assert re.search(at, told)
    assert len(site.lines("start", run.id)) == started
    assert started <= 4  # one that dies before it was heard of is executed once more
    assert [life.exit_code for life in lives[:-1]] == [-signal.SIGKILL] * started


@asynccontextmanager
async def kept_up(
    site: DurableSite, worker: Process, *command: str
) -> AsyncGenerator[list[Process]]:
    """Start a worker again whenever it has died; all its lives."""
    lives = [worker]

    async def watch() -> None:
        while True:
            if lives[-1].exit_code is not None:
                lives.append(site.start(*command))
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield lives
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
