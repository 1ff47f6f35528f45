"""A program that asks for root runs: `python -m tests.acceptance.chaos.driver SEED FOLDER`.

It may be killed at any time. Its journal says which runs it had started; the next one waits for
those by their ids and goes on from there, until there is a file `enough`.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import leveret
from tests.acceptance.chaos import workload
from tests.acceptance.chaos.app import campaign

AT_ONCE = 16
"""Root runs that are under way at a time, at most."""
PACE = 0.8
"""Seconds from one start to the next: there is always something fresh, and never too much."""
PAUSE = 0.5
"""Seconds before something out of reach is tried again."""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one root run; the later entry of two counts."""

    index: int
    run: str | None
    """`None` before it was started, which may have happened all the same."""
    value: Any = None
    """Its result, once it has ended."""
    error: str | None = None
    """What it ended with instead."""

    @property
    def has_ended(self) -> bool:
        return self.value is not None or self.error is not None


def read(folder: Path) -> list[Entry]:
    """The journal, each entry as it was written."""
    journal = folder / "journal.jsonl"
    if not journal.exists():
        return []
    return [Entry(**json.loads(line)) for line in journal.read_text().splitlines()]


def write(folder: Path, entry: Entry) -> None:
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(vars(entry)) + "\n")


def is_enough(folder: Path) -> bool:
    return (folder / "enough").exists()


class Driver:
    """Keeps a number of root runs under way."""

    def __init__(self, client: leveret.Client, seed: int, folder: Path) -> None:
        self._client = client
        self._seed = seed
        self._folder = folder
        self._pacing = asyncio.Lock()
        self._known = {entry.index: entry for entry in read(folder)}

    async def drive(self) -> None:
        ended = {entry.index for entry in self._known.values() if entry.has_ended}
        numbers = (index for index in count() if index not in ended)
        last = max(self._known, default=-1)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._lane(numbers, last))

    async def _lane(self, numbers: Iterator[int], last: int) -> None:
        """One root run after the other."""
        for index in numbers:
            if index > last:
                async with self._pacing:
                    await asyncio.sleep(PACE)
                if is_enough(self._folder):
                    return
            await self._see_through(index)

    async def _see_through(self, index: int) -> None:
        known = self._known.get(index)
        if known is None or known.run is None:
            write(self._folder, Entry(index=index, run=None))
            run = await patiently(lambda: self._start(index))
            write(self._folder, Entry(index=index, run=run))
        else:
            run = known.run
        entry = await patiently(lambda: self._end(index, run))
        print(entry, flush=True)
        write(self._folder, entry)

    async def _start(self, index: int) -> str:
        keyed = campaign.options(key=f"root-{index}")  # it may have been started already
        run = await self._client.start(keyed(index, workload.root(self._seed, index)))
        return run.id

    async def _end(self, index: int, run: str) -> Entry:
        try:
            return Entry(index=index, run=run, value=await self._client.run(run).result())
        except leveret.CoordinatorUnreachable:
            raise
        except Exception as error:
            return Entry(index=index, run=run, error=f"{type(error).__name__}: {error}")


async def patiently(attempt: Callable[[], Awaitable[R]]) -> R:
    """Try until the coordinator is in reach."""
    while True:
        try:
            return await attempt()
        except leveret.CoordinatorUnreachable as error:
            print(error, flush=True)
            await asyncio.sleep(PAUSE)


async def main(seed: int, folder: Path) -> None:
    async def drive() -> None:
        async with leveret.connect() as client:
            await Driver(client, seed, folder).drive()

    print("driver ready", os.getpid(), flush=True)
    await patiently(drive)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
