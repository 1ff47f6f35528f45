"""A delay that wakes a loop once, by the injected clock."""

import asyncio
from collections.abc import Callable

from leveret_broker.clock import Clock


class Alarm:
    """Set, due, cleared. Setting one that is set changes nothing."""

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._task: asyncio.Task[None] | None = None
        self._is_due = False

    @property
    def is_set(self) -> bool:
        """Whether it is due or will be."""
        return self._task is not None

    @property
    def is_due(self) -> bool:
        return self._is_due

    def set(self, seconds: float) -> None:
        """Become due after so many seconds."""
        if self._task is None:
            self._task = asyncio.create_task(self._ring(seconds))

    def clear(self) -> None:
        """Neither set nor due any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._is_due = False

    async def _ring(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._is_due = True
        self._wake()


class Backoff:
    """Delays that double from the shortest to the longest."""

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._next = shortest

    def next(self) -> float:
        """Seconds to wait before the next try."""
        delay, self._next = self._next, min(self._next * 2, self._longest)
        return delay

    def reset(self) -> None:
        """It worked: begin with the shortest again."""
        self._next = self._shortest
