"""Threads for what blocks: storing and fetching payloads, which no event loop may wait for.

They are daemons: neither an executor's threads nor the interpreter's end waits for a transfer that
hangs, and a program that ends may still fetch what it needs for that.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar

R = TypeVar("R")

THREADS = 4
"""What blocks at a time, at most."""


async def in_thread(function: Callable[[], R]) -> R:
    """Call it on a thread. If who awaits it is cancelled, it goes on and its result is dropped."""
    return await asyncio.wrap_future(_pool(os.getpid()).submit(function))


class _Pool:
    """Threads that are started when they are needed, and then kept."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0
        self._lock = threading.Lock()

    def submit(self, function: Callable[[], R]) -> "Future[R]":
        future: Future[R] = Future()
        self._jobs.put((function, future))
        with self._lock:
            if not self._idle.acquire(blocking=False) and self._started < THREADS:
                self._started += 1
                threading.Thread(target=self._work, name="leveret-payload", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            function, future = self._jobs.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)
            del function, future  # they may hold a payload
            self._idle.release()


@cache
def _pool(process: int) -> _Pool:
    """The process's own: a forked one has no threads of its parent's."""
    return _Pool()
