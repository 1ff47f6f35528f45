"""Definitions whose behaviour must be the same wherever they run."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import leveret
from leveret import define


class Bent(Exception):
    """An exception whose `__init__` takes other arguments than it keeps."""

    def __init__(self, angle: int, *, why: str) -> None:
        super().__init__(f"bent by {angle} because {why}")
        self.angle = angle
        self.why = why


@define.task
async def add(a: int, b: int = 1) -> int:
    return a + b


@define.task(version="2.0", runs_in="thread")
def double(number: int) -> int:
    return number * 2


@define.task(version="1.5")
def where() -> tuple[int, bool]:
    """The process it runs in, and whether that is its main thread."""
    return os.getpid(), threading.current_thread() is threading.main_thread()


@define.task
def echo(value: Any) -> Any:
    return value


@define.task
async def fail(message: str) -> None:
    raise ValueError(message)


@define.task
def bend(angle: int) -> None:
    error = Bent(angle, why="tests")
    error.add_note("a note")
    raise error


@define.task
def raise_nothing() -> None:
    raise ValueError


@define.task
def lock() -> Any:
    return threading.Lock()


@define.task
def die(how: str) -> None:
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(7)


@define.task
async def wait_for_file(path: str, cancelled: str) -> None:
    """Wait until there is a file; when cancelled, make another."""
    try:
        while not Path(path).exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        Path(cancelled).touch()
        raise


@define.task
async def wait_between(started: str, go: str) -> None:
    """Tell that it has started, and wait until it may go on."""
    Path(started).touch()
    while not Path(go).exists():
        await asyncio.sleep(0.01)


@define.task
def hold_a_process(started: str, go: str) -> None:
    Path(started).touch()
    while not Path(go).exists():
        time.sleep(0.01)


@define.task
def leave_a_file(path: str) -> None:
    Path(path).touch()


@define.task
def spin(started: str, stopped: str) -> None:
    """Burn the processor until stopped."""
    Path(started).touch()
    try:
        while True:
            time.sleep(0.001)
    finally:
        Path(stopped).touch()


@define.task
async def call_inside() -> int:
    return await add(1)


@define.workflow
async def sum_of(numbers: list[int]) -> int:
    return sum(await asyncio.gather(*[add(number, 0) for number in numbers]))


@define.workflow
async def nest(depth: int) -> int:
    return 0 if depth == 0 else 1 + await nest(depth - 1)


@define.workflow
async def catch(message: str) -> str:
    try:
        await fail(message)
    except ValueError as error:
        return f"caught {error}"
    return "nothing to catch"


@define.workflow
async def pass_on(message: str) -> None:
    await fail(message)


@define.workflow
async def wait_below(path: str, cancelled: str) -> None:
    await wait_for_file(path, cancelled)


@define.workflow
async def hold_on(started: str, go: str) -> None:
    await wait_between(started, go)


@define.workflow
async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@define.workflow
async def exit_below() -> None:
    async def helper() -> None:
        raise SystemExit(3)

    await asyncio.gather(helper())


@define.workflow
async def equal_calls() -> list[int]:
    return await leveret.gather([add(1, 1) for _ in range(20)])


@define.task
def read(path: str) -> str:
    return Path(path).read_text()


@define.workflow
async def diamond(number: int) -> list[Any]:
    """A result that two calls get, whose results a third gets. The first is awaited as well."""
    one = add(number, 0)
    both = [add(leveret.result_of(one), 1), add(leveret.result_of(one), 2)]
    return await leveret.gather([echo(both), one])


@define.workflow
async def catch_input(message: str) -> list[str]:
    try:
        await echo([add(1), fail(message)])
    except leveret.InputFailed as error:
        return [str(error), repr(error.__cause__)]
    return []


@define.workflow
async def leave_early(started: str, go: str) -> str:
    """Give up a call while it waits for its input."""
    try:
        async with asyncio.timeout(1.0):
            await echo(wait_between(started, go))
    except TimeoutError:
        return "left"
    return "stayed"


DEFINITIONS = (
    read,
    diamond,
    catch_input,
    leave_early,
    add,
    double,
    where,
    echo,
    fail,
    bend,
    raise_nothing,
    lock,
    die,
    wait_for_file,
    wait_between,
    hold_a_process,
    leave_a_file,
    spin,
    call_inside,
    sum_of,
    nest,
    catch,
    pass_on,
    wait_below,
    hold_on,
    cancel_itself,
    exit_below,
    equal_calls,
)
