"""Runs all peers, round by round: each in a process of its own, started anew each time."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peer import READY_WITHIN, ROOT, Shape
from benchmarks.registry import PEERS
from benchmarks.results import Sample
from benchmarks.servers import Servers, Unavailable
from benchmarks.workloads import WORKLOADS, Scale
from tests import rabbit


@dataclass(kw_only=True)
class Run:
    """Everything that is to be measured, and has been so far."""

    peers: Sequence[str]
    workloads: Sequence[str]
    rounds: int
    scale: Scale
    within: float
    """Seconds that one workload of one peer may take."""
    report: Callable[[str], None]
    samples: list[Sample] = field(default_factory=list[Sample])
    about: dict[str, Any] = field(default_factory=dict[str, Any])

    def measure(self) -> None:
        """All rounds; the peers change places each time."""
        with tempfile.TemporaryDirectory(prefix="leveret-bench-") as folder:
            Path(folder).chmod(0o755)  # PostgreSQL has another user
            with Servers(Path(folder), self.report) as servers:
                for number in range(self.rounds):
                    turn = number % len(self.peers)
                    for peer in [*self.peers[turn:], *self.peers[:turn]]:
                        for shape, workloads in _by_shape(self.workloads):
                            self._visit(servers, peer, number, shape, workloads)

    def _visit(
        self, servers: Servers, peer: str, number: int, shape: Shape, workloads: Sequence[str]
    ) -> None:
        """One peer in one shape: its samples, whatever becomes of it."""
        left = list(workloads)
        load = os.getloadavg()[0]
        for news in self._news(servers, peer, shape, workloads):
            if news["event"] == "ready":
                self.about[peer] = news["about"]
                continue
            concerned = [news["workload"]] if "workload" in news else left[:]
            for key in concerned:
                left.remove(key)
                self._add(peer, key, number, load, news)
        for key in left:
            self._add(peer, key, number, load, {"event": "failed", "error": "the driver ended"})

    def _add(
        self, peer: str, workload: str, number: int, load: float, news: dict[str, Any]
    ) -> None:
        sample = Sample(
            peer=peer,
            workload=workload,
            round=number,
            verdict=news["event"],
            figures=news.get("figures", {}),
            error=news.get("error", ""),
            seconds=news.get("seconds", 0.0),
            cpu=news.get("cpu", {}),
            load=load,
        )
        self.samples.append(sample)
        self.report(f"round {number + 1}/{self.rounds}  {peer:<18} {workload:<4} {_told(sample)}")

    def _news(
        self, servers: Servers, peer: str, shape: Shape, workloads: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        try:
            urls = {server: servers.fresh(server) for server in PEERS[peer].servers}
        except Unavailable as error:
            yield {"event": "unavailable", "error": str(error)}
            return
        except Exception as error:  # the others have theirs
            yield {"event": "failed", "error": str(error)}
            return
        with tempfile.TemporaryDirectory(prefix="leveret-bench-") as folder:
            order = {
                "peer": peer,
                "folder": folder,
                "urls": urls,
                "shape": asdict(shape),
                "workloads": workloads,
                "scale": asdict(self.scale),
            }
            yield from _driven(order, Path(folder) / "driver.log", self.within)


def _by_shape(workloads: Sequence[str]) -> Iterable[tuple[Shape, Sequence[str]]]:
    """Workloads that can be measured after each other without starting the peer anew."""
    found: dict[Shape, list[str]] = {}
    for key in workloads:
        found.setdefault(WORKLOADS[key].shape, []).append(key)
    return found.items()


def _driven(order: dict[str, Any], log: Path, within: float) -> Iterator[dict[str, Any]]:
    """What a driver reports. One that is silent for too long is ended with all below it."""
    with _driver(order, log) as (process, pipe):
        try:
            yield from _lines(pipe, READY_WITHIN + within)
        except TimeoutError as error:
            yield {"event": "failed", "error": str(error)}
            return
        if process.wait(READY_WITHIN):
            yield {"event": "failed", "error": log.read_text(errors="replace")[-500:].strip()}


@contextmanager
def _driver(order: dict[str, Any], log: Path) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """A driver's process, and the pipe that it reports on."""
    reads, writes = os.pipe()
    command = [
        sys.executable,
        "-m",
        "benchmarks.driver",
        json.dumps({**order, "reports_to": writes}),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[writes],
            start_new_session=True,
        )
    os.close(writes)
    watcher = rabbit.end_with_this_process(process)
    try:
        yield process, reads
    finally:
        rabbit.dismiss(watcher)
        os.close(reads)
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """What a driver that was ended left behind, too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _lines(pipe: int, within: float) -> Iterator[dict[str, Any]]:
    """What comes from a pipe, until its other end is closed. Raises `TimeoutError`."""
    rest = b""
    while select.select([pipe], [], [], within)[0]:
        chunk = os.read(pipe, 65536)
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield json.loads(line)
    raise TimeoutError(f"silent for {within:g} s")


def _told(sample: Sample) -> str:
    if sample.verdict != "measured":
        return f"{sample.verdict}: {sample.error}"
    metrics = WORKLOADS[sample.workload].metrics
    figures = (
        f"{metric.name} {sample.figures[metric.name]:,.4g} {metric.unit}"
        for metric in metrics
        if metric.name in sample.figures
    )
    cpu = ", ".join(f"{role} {seconds:.1f}" for role, seconds in sample.cpu.items())
    return f"{'  '.join(figures)}  ({sample.seconds:.1f} s; CPU s: {cpu}; load {sample.load:.1f})"
