"""What executions leave behind: a line when one begins, another when it ends, appended at once."""

import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leveret import context

FOLDER = "CHAOS_LEDGER"
"""The variable that names the ledger's folder."""

Event = Literal["start", "end", "raise", "stop"]


class Stumble(Exception):
    """Raised by what is to fail."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the ledger."""

    event: Event
    """`raise`: it failed, as it was to. `stop`: something else ended it."""
    name: str
    run: str
    attempt: int
    pid: int
    at: float
    """Seconds since the Unix epoch, taken before the line was written."""


@contextmanager
def noted(name: str, fails: int = 0) -> Generator[None]:
    """Note the start and the end of the current execution.

    The first `fails` executions of a run that get to their end raise `Stumble` there.
    """
    run = context.current_run()
    assert run is not None, "this is executed by a worker"
    _note("start", name, run)
    try:
        yield
        stumble(run.run, fails)
    except Stumble:
        _note("raise", name, run)
        raise
    except BaseException:
        _note("stop", name, run)
        raise
    _note("end", name, run)


def stumble(run: str, fails: int) -> None:
    """Raise, unless this run did as often already, wherever that was."""
    if not fails:
        return
    marks = Path(os.environ[FOLDER]) / f"{run}.marks"
    _append(marks, b".")
    if (before := marks.stat().st_size - 1) < fails:
        raise Stumble(f"failure {before + 1} of {fails}")


def read(folder: Path) -> list[Line]:
    """All lines, in the order in which they were written."""
    book = folder / "ledger.jsonl"
    if not book.exists():
        return []
    return [Line(**json.loads(line)) for line in book.read_text().splitlines()]


def _note(event: Event, name: str, run: context.RunContext) -> None:
    line: dict[str, Any] = {
        "event": event,
        "name": name,
        "run": run.run,
        "attempt": run.attempt,
        "pid": os.getpid(),
        "at": time.time(),
    }
    _append(Path(os.environ[FOLDER]) / "ledger.jsonl", json.dumps(line).encode() + b"\n")


def _append(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, data)  # at once: lines of processes that are killed are whole or not there
    finally:
        os.close(file)
