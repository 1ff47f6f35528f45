"""What a peer is: one way to run tasks, driven from one process. `peers/` has one file for each."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

ROOT = Path(__file__).parents[1]
READY_WITHIN = 60.0
"""Seconds that a service may take to start, and to stop."""

Job = Literal["noop", "noop_sync", "nap", "block", "burn", "shift"]
"""A function of `jobs.py`: `noop` and `nap` in the form that the peer is best at, the others as
ordinary functions, wherever it runs these in parallel."""
Server = Literal["rabbitmq", "redis", "postgres"]
R = TypeVar("R")


class Unsupported(Exception):
    """The peer has no such thing. The message says what it lacks, for the report."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a peer is set up."""

    workers: int = 2
    """Processes that execute tasks."""
    slots: int | None = None
    """Tasks that they execute at a time, all together; the peer's recommendation if `None`."""
    arrays: bool = False
    """Whether arguments and results are NumPy's arrays."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a peer runs."""

    folder: Path
    """Its own, empty at the start."""
    urls: Mapping[str, str]
    """Of the servers that it needs."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What the report says of a peer."""

    title: str
    packages: Sequence[str] = ()
    """Whose versions count."""
    durable: str
    """What is safe when a task counts as submitted, and as done: a few words."""
    settings: str
    """What differs from its defaults, and why."""
    not_asked: str
    """What it could do and wasn't asked to, or was spared."""

    def versions(self) -> dict[str, str]:
        """Raises `Unsupported` if one is not installed."""
        try:
            return {package: version(package) for package in self.packages}
        except PackageNotFoundError as error:
            raise Unsupported(f"{error.name} is not installed: pip install --group bench") from None


class Peer(ABC):
    """One that is set up, in a process of its own, which is the client."""

    about: ClassVar[About]
    loop: ClassVar[Literal["asyncio", "uvloop"]] = "asyncio"
    """What the client's event loop is, if it has one."""
    imported: ClassVar[str]
    """The statement by which a program imports it."""
    first: ClassVar[str | None] = None
    """A whole program that gets one result from the workers that are up, and prints it: 1."""

    def __init__(self, site: Site, shape: Shape) -> None:
        self.site = site
        self.shape = shape
        self._services: dict[str, list[Spawned]] = {}

    @abstractmethod
    async def start(self) -> None:
        """Return when tasks can be submitted."""

    async def stop(self) -> None:
        """End all that was started."""
        self.end_services()

    @abstractmethod
    async def submit(self, job: Job, arguments: Sequence[Any]) -> Sequence[Any]:
        """Submit a call for each argument, and return what `collect` takes."""

    @abstractmethod
    async def collect(self, submitted: Sequence[Any]) -> Sequence[Any]:
        """The results, in order."""

    @abstractmethod
    async def call(self, job: Job, argument: Any) -> Any:
        """Submit one call and return its result."""

    @abstractmethod
    async def workflows(self, number: int, steps: int, at_once: int) -> Sequence[int]:
        """Run so many workflows of `steps` steps one after the other, so many at a time.

        Each adds 1 a step to its number, from 0 up; returns what they end with, in order.
        """

    # -- what only some have ----------------------------------------------------------------------

    async def start_anew(self, runs: int, definitions: int) -> None:
        """Stop, and start again with so much on record."""
        raise Unsupported("was not asked to keep a record of what has ended")

    async def look(self) -> Mapping[str, float]:
        """What the record costs: `list` and `show` in ms, `disk` in MB."""
        raise Unsupported("was not asked to keep a record of what has ended")

    # -- what it consists of ----------------------------------------------------------------------

    def spawn(
        self,
        role: str,
        command: Sequence[str],
        ready: str,
        environment: Mapping[str, str],
        times: int = 1,
    ) -> None:
        """Start a service; `wait_ready` waits for what it says so often when it is."""
        number = len(self._services.setdefault(role, []))
        log = self.site.folder / f"{role}-{number}.log"
        self._services[role].append(Spawned(command, ready, times, log, environment))

    def wait_ready(self) -> None:
        """Return when all services have said so. Raises `RuntimeError` with what one said."""
        for spawned in self._all():
            spawned.wait_ready()

    def services(self) -> Mapping[str, Sequence[int]]:
        """The process ids of what was started, by role."""
        return {role: [one.pid for one in each] for role, each in self._services.items()}

    def end_services(self) -> None:
        """SIGTERM for all, then SIGKILL."""
        for service in self._all():
            service.tell_to_end()
        for service in self._all():
            service.wait_ended()
        self._services.clear()

    def environment(self) -> Mapping[str, str]:
        """What `first` needs to find the workers."""
        return {}

    def _all(self) -> "Sequence[Spawned]":
        return [one for each in self._services.values() for one in each]


class Spawned:
    """A service's process, with a log."""

    def __init__(
        self,
        command: Sequence[str],
        ready: str,
        times: int,
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._command = command
        self._ready = ready
        self._times = times
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while (text := self._log.read_text(errors="replace")).count(self._ready) < self._times:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(self._command)} does not get ready:\n{text[-2000:]}")
            time.sleep(0.02)

    def tell_to_end(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait_ended(self) -> None:
        try:
            self._process.wait(READY_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def at_a_time(
    function: Callable[[int], Awaitable[R]], number: int, limit: int
) -> Sequence[R]:
    """The results for 0, 1, …, in order; so many are under way at a time."""
    free = asyncio.Semaphore(limit)

    async def one(argument: int) -> R:
        async with free:
            return await function(argument)

    return await asyncio.gather(*map(one, range(number)))


def module(*arguments: str) -> Sequence[str]:
    """The command that runs a Python module."""
    return [sys.executable, "-m", *arguments]
