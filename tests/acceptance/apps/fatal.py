"""What kills its process, what keeps it busy, and what only waits for its turn."""

import ctypes
import os
import signal
import time

from leveret import define
from tests.acceptance.apps.book import noted


@define.task(lost_retries=1)
async def poison() -> None:
    """Kills the worker."""
    with noted():
        os.kill(os.getpid(), signal.SIGKILL)


@define.task(prefetch=20)
async def innocent(number: int) -> int:
    with noted():
        return number


@define.task
def burn(seconds: float) -> int:
    """Keep a processor busy in Python."""
    with noted():
        end, rounds = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            rounds += 1
        return rounds


@define.task
def hold_the_interpreter(seconds: int) -> int:
    """Block in C, and let no other thread of the process run."""
    with noted():
        return int(ctypes.PyDLL(None).sleep(seconds))
