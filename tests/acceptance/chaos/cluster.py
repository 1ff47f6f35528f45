"""The cluster under test: its processes, started again whenever they are down, and its broker."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.acceptance.chaos import ledger, queues
from tests.acceptance.chaos.console import Console
from tests.acceptance.processes import ROOT, Process, Site
from tests.rabbit import PrivateNode

WORKERS = 3
UNREACHABLE = 4
"""The exit code of a process that found no broker or no coordinator at its start."""
BY_SIGTERM = 128 + signal.SIGTERM

SILENT_AFTER = 11.0
"""Two heartbeats, and a little."""
SETTINGS = {
    "LEVERET_LEASE_AFTER": "1",
    "LEVERET_WORKER_SILENT_AFTER": str(SILENT_AFTER),
    "LEVERET_WORKER_GONE_AFTER": "1",
    "LEVERET_STOP_GRACE": "1",
    "LEVERET_DRAIN": "4",
    "LEVERET_KEY": "c4a05" * 12 + "c4a0",  # errors are to arrive as their own types
}
"""What takes minutes elsewhere takes seconds here."""


class ChaosSite(Site):
    """A site whose processes have short times and a ledger."""

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        ours = {"PYTHONPATH": path, ledger.FOLDER: str(self.folder)}
        return {**super().environment, **SETTINGS, **ours}


class Member:
    """One of the cluster's processes, over all its lives."""

    def __init__(self, name: str, start: Callable[[], Process], *, may_finish: bool) -> None:
        self.name = name
        self._start = start
        self._may_finish = may_finish
        self.process: Process | None = None
        self.is_paused = False
        self.is_draining = False
        self.lives = 0
        self.finished = False
        """It has ended as it should, and stays so."""
        self.logs: list[Path] = []
        self._stopped_group: list[int] = []
        self._expected: set[int] = set()
        self._not_before = 0.0

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.exit_code is None

    @property
    def is_working(self) -> bool:
        return self.is_up and not self.is_paused and not self.is_draining

    def start(self) -> None:
        self.process = self._start()
        self.logs.append(self.process.log)
        self.lives += 1
        self._expected = {UNREACHABLE}
        self.is_paused = self.is_draining = False

    def kill(self, down: float, *, whole: bool = False) -> None:
        """SIGKILL, and for `down` seconds nothing takes its place."""
        assert self.process is not None
        family = children(self.process.pid) if whole else []
        self._expect(-signal.SIGKILL, down)
        self.process.kill()
        for pid in family:
            send(pid, signal.SIGKILL)
        self._continue()

    def drain(self, down: float) -> None:
        """SIGTERM; it ends in its own time."""
        assert self.process is not None
        self._expect(0, down)
        self._expected |= {BY_SIGTERM, -signal.SIGTERM}  # the latter while it starts
        self.is_draining = True
        self.process.signal(signal.SIGTERM)

    def pause(self, *, whole: bool) -> None:
        """SIGSTOP, its children too if `whole`."""
        assert self.process is not None
        self.is_paused = True
        self._stopped_group = [self.process.pid, *(children(self.process.pid) if whole else [])]
        for pid in self._stopped_group:
            send(pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self.is_paused:
            self._continue()

    def supervise(self) -> str | None:
        """Start it again if it is down; tell if it ended and should not have."""
        if self.is_up or self.finished or self.process is None:
            return None
        code = self.process.exit_code
        assert code is not None
        if code == 0 and self._may_finish:
            self.finished = True
            return None
        if time.monotonic() < self._not_before:
            return None
        told = None if code in self._expected else f"{self.name} ended by itself with {code}"
        self.start()
        return told

    def _expect(self, code: int, down: float) -> None:
        self._expected.add(code)
        self._not_before = time.monotonic() + down

    def _continue(self) -> None:
        for pid in self._stopped_group:
            send(pid, signal.SIGCONT)
        self._stopped_group = []
        self.is_paused = False


class Cluster:
    """Coordinator, workers and driver on one node of RabbitMQ."""

    def __init__(self, node: PrivateNode, url: str, folder: Path, seed: int) -> None:
        self.node = node
        self.console = Console(node)
        self.folder = folder
        self.vhost = unquote(urlsplit(url).path[1:])
        self._site = site = ChaosSite(f"{url}?heartbeat=3", folder)
        self.coordinator = Member("coordinator", self._coordinator, may_finish=False)
        self.workers = [
            Member(f"worker-{number}", partial(self._worker, number), may_finish=False)
            for number in range(1, WORKERS + 1)
        ]
        module = "tests.acceptance.chaos.driver"
        self.driver = Member(
            "driver", lambda: site.start_module(module, str(seed), str(folder)), may_finish=True
        )
        self.members = [self.coordinator, *self.workers, self.driver]
        self._broker_work: threading.Thread | None = None
        self.broker_logs: list[Path] = []
        self.troubles: list[str] = []
        """What went wrong and was no fault of ours."""

    @property
    def catalog(self) -> Path:
        return self.folder / "catalog.sqlite"

    def start(self) -> None:
        for member in [self.coordinator, *self.workers]:
            member.start()
        for worker in self.workers:  # what no worker has ever served can't be asked for
            assert worker.process is not None
            worker.process.ready("worker ready")
        self.driver.start()

    def supervise(self) -> None:
        """Start again what is down."""
        self.troubles += filter(None, [member.supervise() for member in self.members])

    def stop(self, *members: Member) -> None:
        """SIGTERM, for good."""
        for member in members:
            assert member.process is not None
            member.finished = True
            if member.is_up and (code := member.process.terminate()):
                self.troubles.append(f"{member.name} ended with {code} when it was stopped")

    def close(self) -> None:
        """Whatever happened: nothing is left behind."""
        self.await_broker()
        for member in self.members:
            if member.process is not None and member.is_up:
                member.kill(0, whole=True)
        self._site.close()
        self.console.close()

    # -- the broker -------------------------------------------------------------------------------

    def keep_broker_logs(self) -> None:
        """They go with the node, and may be what explains a failure."""
        self.broker_logs += [Path(shutil.copy(log, self.folder)) for log in self.node.logs]

    @property
    def broker_is_busy(self) -> bool:
        """It is down, or about to be up again."""
        return self._broker_work is not None and self._broker_work.is_alive()

    def in_background(self, work: Callable[[], None]) -> None:
        """Something that takes the broker down for a while, others going on meanwhile."""

        def guarded() -> None:
            try:
                work()
            except Exception as error:
                self.troubles.append(f"the broker does not come back: {error!r}")

        self._broker_work = threading.Thread(target=guarded, name="chaos-broker")
        self._broker_work.start()

    def await_broker(self) -> None:
        if self._broker_work is not None:
            self._broker_work.join()

    @property
    def url(self) -> str:
        return self._site.url

    def queue_names(self) -> list[str]:
        """All queues but those of single processes, which go with them or after a while."""
        listed = self.node.ctl("list_queues", "-p", self.vhost, "--no-table-headers", "name")
        names = listed.split()
        return [name for name in names if name.startswith(("default:", "leveret."))]

    def ready(self) -> dict[str, int]:
        """How many messages are ready in each of these queues."""
        return queues.ready(self.url, self.queue_names())

    def contents(self, queue: str) -> list[str]:
        return queues.contents(self.url, queue)

    def _coordinator(self) -> Process:
        return self._site.start("coordinator", "--catalog", "catalog.sqlite")

    def _worker(self, number: int) -> Process:
        arguments = ("tests.acceptance.chaos.app", "--slots", "4", "--processes", "2")
        return self._site.start("worker", *arguments, name=f"worker-{number}")


# -- processes ------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def resident(pid: int) -> float:
    """A process's memory in MiB, 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return int(found[0]) / 1024 if found else 0.0
