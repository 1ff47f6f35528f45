"""Definitions that take too long, or kill the process that executes them."""

import asyncio
import os
import signal
import time
from pathlib import Path

import leveret
from leveret import Retry, define

AT_ONCE = Retry(2, initial=0, jitter=0, on=leveret.RunTimeout)


def _counted(path: str) -> int:
    """How often this was called with this path."""
    with Path(path).open("a") as file:
        file.write("x")
    return len(Path(path).read_text())


@define.task(timeout=4)  # it has to be in its process by then
def overrun_in_a_process(pid: str) -> None:
    Path(pid).write_text(str(os.getpid()))
    while True:
        time.sleep(0.02)


@define.task(timeout=0.5)
async def overrun(unwound: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        Path(unwound).touch()


@define.task(timeout=1, retries=AT_ONCE)
async def slow_at_first(tries: str) -> int:
    """Ends in its third execution."""
    count = _counted(tries)
    if count < 3:
        await asyncio.Event().wait()
    return count


@define.task(timeout=0.5, retries=AT_ONCE)
async def always_slow(tries: str) -> None:
    _counted(tries)
    await asyncio.Event().wait()


@define.task
async def wait_for_ever() -> None:
    await asyncio.Event().wait()


@define.workflow
async def wait_below() -> None:
    await wait_for_ever()


@define.task(total_timeout=1, retries=Retry(10_000, initial=0.05, factor=1))
async def fail_for_ever() -> None:
    raise ValueError("again")


@define.task
def hold_a_process(started: str, go: str) -> None:
    Path(started).touch()
    while not Path(go).exists():
        time.sleep(0.02)


@define.task(queue_timeout=0.5)
def be_quick(executed: str) -> None:
    Path(executed).touch()


@define.task(lost_retries=1)
def leave() -> None:
    os._exit(7)


@define.task(lost_retries=2)
def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@define.task(lost_retries=0)
def leave_at_once() -> None:
    os._exit(7)


DEFINITIONS = (
    overrun_in_a_process,
    overrun,
    slow_at_first,
    always_slow,
    wait_for_ever,
    wait_below,
    fail_for_ever,
    hold_a_process,
    be_quick,
    leave,
    crash,
    leave_at_once,
)
