"""What the acceptance tests' workers serve: tasks that leave a trace and wait to be let on."""

import asyncio
import time
from pathlib import Path

from leveret import define


@define.task
def burn(seconds: float) -> float:
    """Keep a processor busy, without a pause, in Python."""
    end = time.monotonic() + seconds
    rounds = 0.0
    while time.monotonic() < end:
        rounds += 1
    return rounds


@define.task
async def burn_on_the_loop(seconds: float) -> float:
    return float(burn.fn(seconds))


@define.task(runs_in="thread")
def burn_in_a_thread(seconds: float) -> float:
    return float(burn.fn(seconds))


@define.task
def note(folder: str, number: int) -> int:
    """Leave a line in a ledger, then wait until there is a file `go`."""
    with (Path(folder) / "ledger").open("a") as ledger:
        ledger.write(f"{number}\n")
    while not (Path(folder) / "go").exists():
        time.sleep(0.02)
    return number


@define.workflow
async def note_all(folder: str, count: int) -> int:
    return sum(await asyncio.gather(*[note(folder, number) for number in range(count)]))
