"""One coordinator a catalog, however many are started, and the next one as soon as it is gone."""

import os
import shutil
import signal
import tempfile

import pytest

from tests.acceptance.processes import Process, Site, until

pytestmark = pytest.mark.rabbitmq

APP = """
from leveret import define

@define.task(runs_in="thread")
def answer() -> int:
    return 42
"""


def standby(site: Site, run_dir: str) -> Process:
    return site.start("coordinator", LEVERET_STANDBY="1", LEVERET_RUN_DIR=run_dir)


def test_a_standby_takes_over_from_a_killed_coordinator_and_never_before(site: Site) -> None:
    (site.folder / "app.py").write_text(APP)
    run_dir = tempfile.mkdtemp(prefix="lvrt-")
    first = site.coordinator()
    second = standby(site, run_dir).ready("coordinator stands by")
    assert f"in use by another coordinator (process {first.pid} on host " in second.text()
    site.worker("app.py")
    run = site.json("run", "answer", "--detach")["run"]
    health = site.run("health", LEVERET_RUN_DIR=run_dir)
    assert health.returncode == 1
    assert "stands by: The catalog" in health.stderr
    first.signal(signal.SIGSTOP)  # it may go on at any moment
    until(lambda: site.run("health", LEVERET_RUN_DIR=run_dir).returncode == 1, "still ill")
    assert "coordinator ready" not in second.text()
    first.kill()
    second.ready("coordinator ready")
    assert site.json("runs", "show", run)["id"] == run
    assert site.run("run", "answer").stdout == "42\n"
    assert site.run("health", LEVERET_RUN_DIR=run_dir).returncode == 0
    third = site.run("coordinator")
    assert third.returncode == 2
    assert f"(process {second.pid} on host {os.uname().nodename}, since 20" in third.stderr
    shutil.rmtree(run_dir)


def test_a_standby_can_be_stopped_while_it_waits(site: Site) -> None:
    site.coordinator()
    service = site.start_module("leveret_coordinator", "--standby").ready("coordinator stands by")
    assert service.terminate() == 0
