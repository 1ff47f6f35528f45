"""What happens when something dies: nothing that was accepted is lost."""

import signal
from pathlib import Path

import pytest

from tests.acceptance.processes import Site, until
from tests.rabbit import RabbitNode

pytestmark = pytest.mark.rabbitmq

APP = str(Path(__file__).with_name("app.py"))
COUNT = 6


def lines(folder: Path) -> list[str]:
    ledger = folder / "ledger"
    return ledger.read_text().split() if ledger.exists() else []


def start(site: Site, count: int = COUNT) -> str:
    given = f'{{"folder": "{site.folder}", "count": {count}}}'
    run: str = site.json("run", "note_all", "--input", given, "--detach")["run"]
    return run


def let_on(site: Site) -> None:
    (site.folder / "go").touch()


def is_done(site: Site, run: str) -> bool:
    state = site.json("runs", "show", run)["state"]
    assert state in ("pending", "queued", "running", "succeeded")
    return bool(state == "succeeded")


@pytest.mark.parametrize("when", ["tasks run", "before the workers"])
def test_a_killed_coordinator_carries_on_when_it_is_back(site: Site, when: str) -> None:
    coordinator = site.coordinator()
    if when == "tasks run":
        site.worker(APP, "--processes", "3")
        run = start(site)
        until(lambda: len(lines(site.folder)) == 3, "three tasks run")
        coordinator.kill()
        let_on(site)
        site.coordinator()
    else:
        site.worker(APP, name="first").kill()
        run = start(site)
        coordinator.kill()
        let_on(site)
        site.coordinator()
        site.worker(APP)
    until(lambda: is_done(site, run), "the run has ended")
    assert sorted(lines(site.folder)) == [str(number) for number in range(COUNT)]


def test_a_killed_workers_runs_go_to_another(site: Site) -> None:
    site.coordinator()
    first = site.worker(APP, "--processes", "2")
    run = start(site)
    until(lambda: len(lines(site.folder)) == 2, "two tasks run")
    first.kill()
    site.worker(APP, "--processes", "2")
    let_on(site)
    until(lambda: is_done(site, run), "the run has ended")
    assert set(lines(site.folder)) == {str(number) for number in range(COUNT)}
    assert site.json("runs", "show", run)["children"][0]["state"] == "succeeded"


def test_a_worker_that_is_told_to_stop_finishes_its_tasks(site: Site) -> None:
    site.coordinator()
    first = site.worker(APP, "--processes", "2")
    run = start(site)
    until(lambda: len(lines(site.folder)) == 2, "two tasks run")
    second = site.worker(APP, "--processes", "2")
    let_on(site)
    assert first.terminate() == 0
    assert "worker stops" in first.text()
    until(lambda: is_done(site, run), "the run has ended")
    assert sorted(lines(site.folder)) == [str(number) for number in range(COUNT)]
    assert second.terminate() == 0
    assert site.json("workers") == []


def test_a_second_signal_stops_at_once(site: Site) -> None:
    site.coordinator()
    worker = site.worker(APP)
    start(site, 1)
    until(lambda: lines(site.folder), "the task runs")
    worker.signal(signal.SIGTERM)
    until(lambda: site.json("workers")[0]["busy"] == 1, "it still drains")
    assert worker.terminate() == 128 + signal.SIGTERM


def test_lost_connections_come_back(site: Site, rabbit_node: RabbitNode) -> None:
    site.coordinator()
    site.worker(APP, "--processes", "2")
    run = start(site)
    until(lambda: len(lines(site.folder)) >= 2, "two tasks run")
    rabbit_node.close_all_connections()
    let_on(site)
    until(lambda: is_done(site, run), "the run has ended")
    assert set(lines(site.folder)) == {str(number) for number in range(COUNT)}


@pytest.mark.parametrize("task", ["burn", "burn_on_the_loop", "burn_in_a_thread"])
def test_burning_the_processor_costs_no_heartbeat(
    site: Site, rabbit_node: RabbitNode, task: str
) -> None:
    """The broker drops a connection after two silent heartbeats, here after four seconds."""
    site.coordinator()
    site.url += "?heartbeat=2"
    worker = site.worker(APP)
    before = connections(rabbit_node)
    assert set(before.values()) == {"2"}
    done = site.run("run", task, "--input", '{"seconds": 9}')
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
    assert before.items() <= connections(rabbit_node).items()
    assert "lost" not in worker.text()


def connections(node: RabbitNode) -> dict[str, str]:
    """The seconds between heartbeats of the workers' connections, by the broker's name for each."""
    columns = ("pid", "timeout", "client_properties")
    listed = node.ctl("list_connections", "--no-table-headers", *columns)
    rows = [line.split("\t") for line in listed.splitlines() if "leveret-worker" in line]
    return {pid: timeout for pid, timeout, _ in rows}
