"""Functions for child processes to run."""

import asyncio
import ctypes
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import leveret
from leveret.context import current_run
from leveret.errors import NestedCallError

Function = Callable[..., Any]


class Point:
    """A value that only a pickle carries."""

    def __init__(self, x: int) -> None:
        self.x = x

    @staticmethod
    def origin() -> "Point":
        return Point(0)


def nothing() -> None:
    return None


def add(a: int, b: int) -> int:
    return a + b


def double(data: bytes) -> bytes:
    return data + data


def move(point: Point, by: int) -> Point:
    assert isinstance(point, Point)
    return Point(point.x + by)


def new_point() -> Point:
    return Point(1)


def import_latecomer() -> bool:
    return bool(importlib.import_module("latecomer").here())


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def pid() -> int:
    return os.getpid()


def whereabouts() -> dict[str, str]:
    run = current_run()
    assert run is not None
    return {"run": run.run, "project": run.project, "kind": run.kind, "root": run.root}


@leveret.define.task
def decorated(a: int) -> int:
    return a + 1


def call_a_task() -> str:
    async def calls() -> None:
        await decorated(1)

    try:
        asyncio.run(calls())
    except NestedCallError as error:
        return type(error).__name__
    return "it was called"


def environment() -> list[str]:
    return list(os.environ.values())


def command() -> list[str]:
    """What others see of how this process was started."""
    return Path("/proc/self/cmdline").read_text().split("\0")


def meet(folder: str, name: str, others: int) -> int:
    """Return when so many others are inside, too."""
    (Path(folder) / name).touch()
    _wait_until(lambda: len(list(Path(folder).iterdir())) > others)
    return os.getpid()


def hold(started: str, finished: str, stubborn: bool = False) -> None:
    """Run until somebody ends it; leave a trace when it unwinds."""
    try:
        Path(started).write_text(str(os.getpid()))
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                if not stubborn:
                    raise
    finally:
        Path(finished).touch()


def unbidden(started: str) -> str:
    """Answer when somebody ends it."""
    try:
        Path(started).write_text("here")
        time.sleep(60)
    except KeyboardInterrupt:
        pass
    return "done even so"


def hold_the_lock(started: str) -> None:
    """Stay for hours in C code that holds the interpreter's lock."""
    Path(started).write_text(str(os.getpid()))
    re.match(r"(a|a)*b", "a" * 60)


def burn(started: str) -> None:
    """Compute for ever."""
    Path(started).write_text(str(os.getpid()))
    while True:
        pass


def standing() -> tuple[int, int, bool]:
    """Attempt, round, and whether it is fresh."""
    run = current_run()
    assert run is not None
    return run.attempt, run.round, run.fresh


def wait_for(started: str, release: str) -> int:
    Path(started).write_text(str(os.getpid()))
    _wait_until(Path(release).exists)
    return os.getpid()


def count_up(file: str) -> int:
    """How often it has run."""
    with Path(file).open("a") as runs:
        runs.write(".")
    return Path(file).stat().st_size


def crash() -> None:
    ctypes.string_at(0)


def exit_with(code: int) -> None:
    os._exit(code)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fork_and_exit(grandchild: str) -> None:
    """Die while a forked process holds everything that this one had open."""
    forked = os.fork()
    if forked == 0:
        time.sleep(60)
        os._exit(0)
    Path(grandchild).write_text(str(forked))
    os._exit(4)


def answer_and_die(file: str) -> str:
    """Return, and be gone a moment later."""
    threading.Timer(0.2, os._exit, (6,)).start()
    Path(file).write_text(str(os.getpid()))
    return "the answer"


def send_half_an_answer() -> None:
    """Write the beginning of a frame where the child writes its answers, and die."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, (1000).to_bytes(8, "big") + b"half")
        except OSError:
            continue
    os._exit(5)


def system_exit() -> None:
    sys.exit("leaving")


def interrupt() -> None:
    raise KeyboardInterrupt


def exhaust_memory() -> None:
    raise MemoryError


def fail() -> None:
    raise ValueError("it went wrong")


def unsendable() -> Any:
    return (number for number in range(3))


def interrupt_own_group() -> str:
    """What a terminal does at Ctrl-C, and a service manager at a stop, as far as it concerns us."""
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    return "still here"


def end_a_fork() -> int:
    """The exit code of a forked process that is told to end, as `multiprocessing` does it."""
    forked = os.fork()
    if forked == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(forked, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])


def open_descriptors() -> list[str]:
    """What a program that the task starts has open."""
    command = [sys.executable, "-c", "import os; print(*os.listdir('/proc/self/fd'))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, close_fds=False)
    return done.stdout.split()


def read_stdin() -> str:
    return sys.stdin.read()


def say(text: str) -> None:
    print(text)


def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _wait_until(is_so: Any) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)
