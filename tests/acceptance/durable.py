"""What the tests of durability share: a site with a key and short times, and what its catalog and
its ledger tell."""

import asyncio
import inspect
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import leveret
from leveret.client import Client
from leveret_broker.messages import RunRow
from tests.acceptance.apps import book
from tests.acceptance.processes import DEADLINE, ROOT, Process, Site

KEY = "a1e7e" * 12 + "a1e7"
PROJECT = "default"
COORDINATOR = ("coordinator", "--catalog", "catalog.sqlite")
FLOWS, TASKS = "tests.acceptance.apps.flows", "tests.acceptance.apps.tasks"


class DurableSite(Site):
    """A site whose processes have a key and keep a ledger. `settings` goes to those to come."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, folder)
        self.settings: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        ours = {"PYTHONPATH": path, book.FOLDER: str(self.folder), "LEVERET_KEY": KEY}
        return {**super().environment, **ours, **self.settings}

    def client(self) -> Client:
        return leveret.connect(self.url, project=PROJECT, key=KEY, timeout=DEADLINE)

    def together(self, *commands: Sequence[str]) -> list[Process]:
        """Several processes, started at once, that are ready."""
        started = [self.start(*command) for command in commands]
        for (command, *_), process in zip(commands, started, strict=True):
            process.ready(f"{command} ready")
        return started

    def let_pass(self, number: int = book.ALL, root: str = book.EVERY) -> None:
        book.let_pass(self.folder, number, root)

    def lines(self, event: str | None = None, run: str | None = None) -> list[book.Line]:
        """Of the ledger: those of an event, of a run."""
        return [
            line
            for line in book.read(self.folder)
            if event in (None, line.event) and run in (None, line.run)
        ]

    def counts(self, event: str) -> Counter[str]:
        """How often an event happened, by run."""
        return Counter(line.run for line in self.lines(event))

    def values(self) -> dict[str, Any]:
        """What each run's last execution ended with."""
        return {line.run: line.value for line in self.lines("end")}


async def becomes(condition: Callable[[], Any], what: str) -> Any:
    """Wait until something holds, sync or async, and return it; fail if it doesn't in good time."""
    deadline = time.monotonic() + DEADLINE
    while True:
        found: Any = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"never came true: {what}"
        await asyncio.sleep(0.05)


async def below(client: Client, run: str) -> Sequence[RunRow]:
    """The runs below a run."""
    return (await client.show(run))[1:]


async def reaches(client: Client, run: str, *states: str, attempt: int = 1) -> RunRow:
    """Wait until a run is in one of these states, at this attempt or a later one."""

    async def row() -> RunRow | None:
        found = (await client.show(run))[0]
        return found if found.state in states and found.attempt >= attempt else None

    reached: RunRow = await becomes(row, f"{run} is {' or '.join(states)}")
    return reached
