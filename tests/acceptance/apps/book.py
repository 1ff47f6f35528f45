"""What executions leave behind, and what they wait for: a ledger, tickets and a gate in a folder.

An execution notes its start and its end. It takes a ticket, a number that no other one in its tree
of runs gets, and may wait until its number is let pass.
"""

import asyncio
import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leveret import context

FOLDER = "LEVERET_TESTS_BOOK"
"""The variable that names the folder."""
ALL = 1_000_000
"""Lets every ticket pass."""
EVERY = "every"
"""Stands for every tree."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the ledger."""

    event: str
    """`start`, `end`, `stop` (an exception ended it), or what a workflow has to tell."""
    run: str
    attempt: int
    pid: int
    value: Any = None


class Note:
    """The value that an execution ends with."""

    value: Any = None


@contextmanager
def noted() -> Generator[Note]:
    """Note the start and the end of the current execution."""
    tell("start")
    note = Note()
    try:
        yield note
    except BaseException as error:
        tell("stop", type(error).__name__)
        raise
    tell("end", note.value)


def tell(event: str, value: Any = None) -> None:
    """Append a line, at once: a process that is killed leaves a whole one or none."""
    run = _run()
    line = {
        "event": event,
        "run": run.run,
        "attempt": run.attempt,
        "pid": os.getpid(),
        "value": value,
    }
    file = os.open(_folder() / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


def ticket(tree: str | None = None) -> int:
    """The next number of a tree of runs, by default the current one, in whatever process."""
    folder = _folder() / f"tickets-{tree or _run().root}"
    folder.mkdir(exist_ok=True)
    number = sum(1 for _ in folder.iterdir())
    while True:
        try:
            (folder / str(number)).touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return number


async def passed(number: int, tree: str | None = None) -> None:
    """Wait on the loop until this ticket is let pass."""
    while not _may_pass(number, tree):
        await asyncio.sleep(0.05)


def passed_in_a_process(number: int, tree: str | None = None) -> None:
    while not _may_pass(number, tree):
        time.sleep(0.05)


def _may_pass(number: int, tree: str | None) -> bool:
    return any(number < _gate(name) for name in (EVERY, tree or _run().root))


def _gate(name: str) -> int:
    try:
        return int((_folder() / f"gate-{name}").read_text())
    except FileNotFoundError:
        return 0


def _run() -> context.RunContext:
    run = context.current_run()
    assert run is not None, "this is executed by a worker"
    return run


def _folder() -> Path:
    return Path(os.environ[FOLDER])


# -- for the test ---------------------------------------------------------------------------------


def let_pass(folder: Path, number: int = ALL, root: str = EVERY) -> None:
    """Let the first so many tickets of a tree pass."""
    new = folder / "gate.new"
    new.write_text(str(number))
    new.replace(folder / f"gate-{root}")


def taken(folder: Path, tree: str) -> int:
    """How many tickets of a tree were taken."""
    tickets = folder / f"tickets-{tree}"
    return sum(1 for _ in tickets.iterdir()) if tickets.exists() else 0


def read(folder: Path) -> list[Line]:
    """All lines, in the order in which they were written."""
    ledger = folder / "ledger"
    if not ledger.exists():
        return []
    return [Line(**json.loads(line)) for line in ledger.read_text().splitlines()]
