"""The alarm for whatever is due in the catalog, whose rows are the truth; this wakes the loop."""

from collections.abc import Callable, Iterable

from leveret_broker.clock import Clock
from leveret_coordinator.alarm import Alarm
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.records import Timer, TimerKind

MOST = 500
"""Timers that one batch deals with."""

WAKING: tuple[TimerKind, ...] = ("retry", "sleep")
"""What somebody waits for."""
TIMEOUTS: tuple[TimerKind, ...] = ("total", "queue")
"""What ends a run, unless there is news of it."""

LONGEST = 60.0
"""Seconds after which the catalog is looked at again at the latest: clocks may be set."""


class Timers:
    """Knows when to look for timers that are due."""

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._alarm = Alarm(clock, wake)
        self._due_at: float | None = None

    @property
    def is_due(self) -> bool:
        return self._alarm.is_due

    def note(self, timers: Iterable[Timer]) -> None:
        """Some were written: wake for the first of them, if nothing is due before."""
        for timer in timers:
            self._expect(timer.due_at)

    async def due(self, catalog: Catalog, *, patient_until: float) -> list[Timer]:
        """Those that are due; timeouts that were due by then. Stays due until the next is
        expected."""
        now = self._clock.now()
        waking = await catalog.timers_due(now=now, kinds=WAKING, most=MOST)
        passed = min(now, patient_until)
        return waking + await catalog.timers_due(now=passed, kinds=TIMEOUTS, most=MOST)

    async def expect_next(self, catalog: Catalog, *, pause: float = 0.0) -> None:
        """Wake for the next one that the catalog has, which may be due already; but not before so
        many seconds have passed."""
        due_at = await catalog.next_due()
        self.clear()
        if due_at is not None:
            self._expect(max(due_at, self._clock.now() + pause) if pause else due_at)

    def clear(self) -> None:
        self._alarm.clear()
        self._due_at = None

    def _expect(self, due_at: float) -> None:
        if self._due_at is not None and self._due_at <= due_at:
            return
        self._alarm.clear()
        self._due_at = due_at
        self._alarm.set(min(max(due_at - self._clock.now(), 0.0), LONGEST))
