"""leveret's own commands as processes, each with a log that a failing test can show."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "train_and_pick.py"
DEADLINE = 60.0
"""Seconds after which a condition that was waited for counts as never coming."""


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until something holds; fail if it doesn't in good time."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.05)


class Site:
    """A broker, a folder, and the processes that a test starts; all are ended with the test."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self._processes: list[Process] = []

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "LEVERET" not in name}
        return {**kept, "LEVERET_URL": self.url, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}

    def start(self, *command: str, name: str = "", **environment: str) -> "Process":
        """Start `leveret …` and leave it running."""
        full = [sys.executable, "-m", "leveret", *command]
        return self._started(full, name or command[0], environment)

    def start_program(self, path: str, **environment: str) -> "Process":
        """Start a Python file and leave it running."""
        return self._started([sys.executable, path], Path(path).stem, environment)

    def start_module(self, module: str, *arguments: str) -> "Process":
        """Start a Python module and leave it running."""
        name = module.rpartition(".")[2]
        return self._started([sys.executable, "-m", module, *arguments], name)

    def _started(
        self, command: list[str], name: str, environment: dict[str, str] | None = None
    ) -> "Process":
        log = self.folder / f"{name}-{len(self._processes)}.log"
        process = Process(command, log, {**self.environment, **(environment or {})}, self.folder)
        self._processes.append(process)
        return process

    def coordinator(self, catalog: str = "catalog.sqlite") -> "Process":
        """A coordinator that is ready."""
        return self.start("coordinator", "--catalog", catalog).ready("coordinator ready")

    def worker(self, *arguments: str, name: str = "worker", **environment: str) -> "Process":
        """A worker that is ready."""
        return self.start("worker", *arguments, name=name, **environment).ready("worker ready")

    def run(
        self, *command: str, timeout: float = DEADLINE, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run `leveret …` to its end."""
        return self.execute([sys.executable, "-m", "leveret", *command], timeout, **environment)

    def execute(
        self, command: list[str], timeout: float = DEADLINE, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run any command to its end, with this broker in its environment."""
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )

    def json(self, *command: str) -> Any:
        """What `leveret … --json` prints."""
        done = self.run(*command, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        """End all that still runs."""
        for process in self._processes:
            process.kill()


class Process:
    """A running process."""

    def __init__(
        self, command: list[str], log: Path, environment: dict[str, str], folder: Path
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=folder,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """`None` while it runs."""
        return self._process.poll()

    def ready(self, event: str) -> "Process":
        """Return once it has logged an event; fail if it ends before."""
        until(lambda: event in self.text() or self._process.poll() is not None, event)
        assert self._process.poll() is None, self.text()
        return self

    def text(self) -> str:
        """All that it has printed."""
        return self.log.read_text()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait(DEADLINE)

    def terminate(self) -> int:
        """SIGTERM; its exit code."""
        self._process.terminate()
        return self._process.wait(DEADLINE)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(DEADLINE)
