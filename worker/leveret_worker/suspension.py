"""Noticing that this process was stopped for a while: SIGSTOP, a debugger, a laptop that slept.

While a worker is stopped the coordinator may give it up and hand its runs to others. Nothing tells
the worker so before it goes on. What does is the clock: the loop looks at it every second, and once
more whenever an execution is about to start. If more time has passed since the last look than the
second and a margin, then the process, or its loop, did not run in between. The first look after the
pause notices, be it the regular one or that of a start, so that no start comes before.
"""

from collections.abc import Callable

from leveret_broker.clock import Clock
from leveret_worker.alarms import Alarms

LOOK_EVERY = 1.0
"""Seconds between two looks at the clock."""
LONGEST_PAUSE = 3.0
"""Seconds beyond that for which a loop may be busy."""


class Suspension:
    """Calls back when time has passed in which this process did not run."""

    def __init__(self, clock: Clock, on_resumed: Callable[[float], None]) -> None:
        """`on_resumed` is told how many seconds have passed since the last look."""
        self._clock = clock
        self._on_resumed = on_resumed
        self._last: float | None = None

    def watch(self, alarms: Alarms) -> None:
        """Look from now on, regularly."""
        self.look()
        alarms.after(LOOK_EVERY, lambda: self.watch(alarms))

    def look(self) -> None:
        """Compare the clock with the last look."""
        last, self._last = self._last, self._clock.now()
        if last is not None and self._last - last > LOOK_EVERY + LONGEST_PAUSE:
            self._on_resumed(self._last - last)
