"""`leveret health` says whether the service here does its work, and what is wrong if not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from leveret_broker.lifecycle import IoThread
from tests.acceptance.processes import Process, Site, until
from tests.broker.proxy import Proxy

pytestmark = pytest.mark.rabbitmq

APP = """
import time
from pathlib import Path
from leveret import define

@define.task
async def block() -> None:
    Path("blocked").touch()
    time.sleep(60)

@define.task(runs_in="thread")
def think() -> None:
    Path("thinking").touch()
    while not Path("enough").exists():
        time.sleep(0.05)
"""


class Watched:
    """Services in a run directory of their own."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        (site.folder / "app.py").write_text(APP)

    def start(self, *command: str, **environment: str) -> Process:
        return self.site.start(*command, LEVERET_RUN_DIR=str(self.folder), **environment)

    def coordinator(self, **environment: str) -> Process:
        return self.start("coordinator", **environment).ready("coordinator ready")

    def health(self, *options: str) -> "subprocess.CompletedProcess[str]":
        return self.site.run("health", *options, LEVERET_RUN_DIR=str(self.folder))

    def until_said(self, part: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """What it says once it says this."""
        said: list[subprocess.CompletedProcess[str]] = []

        def is_said() -> bool:
            said.append(self.health(*options))
            return part in said[-1].stdout + said[-1].stderr

        until(is_said, part)
        return said[-1]


@pytest.fixture
def watched(site: Site) -> Generator[Watched]:
    folder = Path(tempfile.mkdtemp(prefix="lvrt-"))  # a socket's path has 107 bytes at most
    yield Watched(site, folder)
    shutil.rmtree(folder)


def test_it_is_well_while_it_consumes_and_ill_before_and_afterwards(watched: Watched) -> None:
    done = watched.health()
    assert done.returncode == 1
    assert "no coordinator or worker runs here" in done.stderr
    worker = watched.start("worker", "app.py")
    done = watched.until_said("waits for a coordinator at amqp://guest:***@")
    assert done.returncode == 1
    assert watched.health("--live").returncode == 0
    coordinator = watched.coordinator()
    worker.ready("worker ready")
    done = watched.health()
    assert done.returncode == 0, done.stderr
    told = sorted(done.stdout.splitlines())
    assert f"the coordinator (process {coordinator.pid}) is connected, and consumes" in told[0]
    assert f"the worker (process {worker.pid}) is connected, and consumes 2 queues" in told[1]
    documents = json.loads(watched.health("--json").stdout)
    assert {each["service"]: each["ready"] for each in documents} == {
        "coordinator": True,
        "worker": True,
    }
    assert coordinator.terminate() == worker.terminate() == 0
    assert watched.health().returncode == 1
    assert not list(watched.folder.iterdir())


def test_a_killed_service_is_ill_and_its_successor_well(watched: Watched) -> None:
    coordinator = watched.coordinator()
    coordinator.kill()
    for options in ([], ["--live"]):
        assert watched.health(*options).returncode == 1
    assert len(list(watched.folder.iterdir())) == 1
    watched.coordinator()
    assert watched.health().returncode == 0
    assert len(list(watched.folder.iterdir())) == 1


def test_a_service_that_hangs_is_ill_and_not_live(watched: Watched) -> None:
    coordinator = watched.coordinator()
    coordinator.signal(signal.SIGSTOP)
    began = time.monotonic()
    for options in ([], ["--live"]):
        done = watched.health("--within", "0.5", *options)
        assert done.returncode == 1
        assert "has not answered within 0.5 s" in done.stderr
    assert time.monotonic() - began < 10
    coordinator.signal(signal.SIGCONT)
    watched.until_said("is connected")


def test_a_worker_is_well_while_user_code_blocks_and_ill_while_it_drains(
    watched: Watched,
) -> None:
    """User code has an event loop of its own, and the connection is not kept on that one."""
    watched.coordinator()
    worker = watched.start("worker", "app.py", LEVERET_DRAIN="3").ready("worker ready")
    watched.site.start("run", "think")
    watched.site.start("run", "block")
    for name in ("blocked", "thinking"):
        until((watched.site.folder / name).exists, name)
    assert watched.health().returncode == 0
    worker.signal(signal.SIGTERM)
    done = watched.until_said("drains, and takes no more work")
    assert done.returncode == 1
    assert watched.health("--live").returncode == 0
    (watched.site.folder / "enough").touch()
    worker.kill()


@pytest.fixture
def proxy(watched: Watched) -> Generator[tuple[Proxy, IoThread]]:
    """Between the services and their broker, on a thread of its own."""
    thread, proxy = IoThread("proxy"), Proxy(watched.site.url)
    thread.start()
    watched.site.url = thread.submit(proxy.start()).result()
    yield proxy, thread
    thread.submit(proxy.stop()).result()
    thread.stop()


def test_services_that_are_cut_off_are_ill_before_a_heartbeat_is_missed(
    watched: Watched, proxy: tuple[Proxy, IoThread]
) -> None:
    """To them their connections look whole."""
    network, thread = proxy
    coordinator = watched.coordinator()
    watched.start("worker", "app.py").ready("worker ready")
    assert watched.health().returncode == 0
    thread.post(network.freeze)
    done = watched.until_said("RabbitMQ has not answered")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert watched.health("--live").returncode == 0
    assert "lost" not in coordinator.text()
    thread.post(network.thaw)
    until(lambda: watched.health().returncode == 0, "well again")


def test_services_that_lost_their_broker_are_ill_until_it_is_back(
    watched: Watched, proxy: tuple[Proxy, IoThread]
) -> None:
    network, thread = proxy
    watched.coordinator()
    watched.start("worker", "app.py").ready("worker ready")
    network.refuses = True
    thread.post(network.break_all)
    done = watched.until_said("is not connected: amqp://guest:***@")
    assert done.returncode == 1
    assert "(no connection for" in done.stderr
    assert watched.health("--live").returncode == 0
    network.refuses = False
    until(lambda: watched.health().returncode == 0, "well again")


def test_it_is_quick(watched: Watched) -> None:
    """What a health check imports has to be little: a container may have a tenth of a core."""
    code = (
        "import sys; from leveret.cli import health; from leveret_broker import probe\n"
        "print([name for name in ('aiormq', 'pydantic', 'cryptography', 'sqlite3', 'structlog')"
        " if name in sys.modules])"
    )
    done = watched.site.execute([sys.executable, "-c", code])
    assert done.stdout == "[]\n"


def test_nothing_writable_is_needed_but_the_shared_memory_of_every_container(
    watched: Watched,
) -> None:
    nowhere = {"TMPDIR": "/proc/nowhere", "XDG_RUNTIME_DIR": "/proc/nowhere"}
    coordinator = watched.site.start("coordinator", **nowhere).ready("coordinator ready")
    done = watched.site.run("health", timeout=60.0, **nowhere)
    assert f"(process {coordinator.pid}) is connected" in done.stdout
    assert list(Path(f"/dev/shm/leveret-{os.getuid()}").iterdir())
