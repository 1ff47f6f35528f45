"""Calls at given times, by the injected clock: one sleeper for all of them.

They follow the clock's time of day: where that jumps ahead, what is due then is called then.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable
from itertools import count

from leveret_broker import logs
from leveret_broker.clock import Clock

log = logs.get_logger("leveret.worker")


class Alarm:
    """A call that is to come, unless it is cancelled."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Twice, or after the call, is fine."""
        self._call = None

    def ring(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class Alarms:
    """Belongs to the loop on which it was started; what is due before the start is called then."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._sleep: asyncio.Future[None] | None = None
        self._sleeps_until = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="alarms")

    async def stop(self) -> None:
        """No more calls. Twice, or before the start, is fine."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def after(self, seconds: float, call: Callable[[], None]) -> Alarm:
        """Call once when so many seconds have passed."""
        alarm = Alarm(call)
        at = self._clock.now() + seconds
        heapq.heappush(self._due, (at, next(self._numbers), alarm))
        if self._sleep is not None and at < self._sleeps_until:
            self._sleep.cancel()
        return alarm

    async def _run(self) -> None:
        while True:
            self._ring()
            self._sleep = self._until_next()
            try:
                await asyncio.wait({self._sleep})
            finally:
                self._sleep.cancel()

    def _until_next(self) -> "asyncio.Future[None]":
        if not self._due:
            self._sleeps_until = float("inf")
            return asyncio.get_running_loop().create_future()
        self._sleeps_until = self._due[0][0]
        return asyncio.ensure_future(self._clock.sleep(self._sleeps_until - self._clock.now()))

    def _ring(self) -> None:
        while self._due and self._due[0][0] <= self._clock.now():
            _, _, alarm = heapq.heappop(self._due)
            try:
                alarm.ring()
            except Exception:
                log.exception("an alarm failed")


class Timeline:
    """Calls at times counted from one start, in order, until it is cancelled.

    Only the next one is an alarm, so that what ends early leaves nothing behind for long.
    """

    def __init__(self, alarms: Alarms, steps: Iterable[tuple[float, Callable[[], None]]]) -> None:
        self._alarms = alarms
        self._steps = sorted(steps, key=lambda step: step[0], reverse=True)
        self._passed = 0.0
        self._alarm: Alarm | None = None
        self._wait()

    def cancel(self) -> None:
        self._steps.clear()
        if self._alarm is not None:
            self._alarm.cancel()

    def _wait(self) -> None:
        if self._steps:
            seconds, call = self._steps.pop()
            self._alarm = self._alarms.after(seconds - self._passed, lambda: self._reach(call))
            self._passed = seconds

    def _reach(self, call: Callable[[], None]) -> None:
        self._wait()
        call()
