"""Time that passes when a test says so."""

import asyncio
import heapq
from itertools import count

START = 1_000_000.0
"""Seconds since the Unix epoch."""
TURNS = 20
"""Of the loop, in which whatever is due gets done."""


class HandClock:
    """A clock by hand: who sleeps wakes when enough time has been let pass."""

    def __init__(self) -> None:
        self._now = START
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._numbers), sleeper))
        await sleeper

    async def let_pass(self, seconds: float) -> None:
        """Time passes, and everybody who has something to do meanwhile does it on time."""
        until = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            self._now = max(self._now, self._sleepers[0][0])
            self._wake()
            await settle()
        self._now = until

    def jump(self, seconds: float) -> None:
        """Time passes while nobody does anything, as if the process were stopped."""
        self._now += seconds
        self._wake()

    def _wake(self) -> None:
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                sleeper.set_result(None)


async def settle() -> None:
    """Let the loop do what there is to do now."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
