"""Verdicts that are held back for a moment.

A claim that is granted as the next attempt takes an invocation from whoever has its first copy: a
worker whose connection was lost, or that was handed the same invocation twice. It is told to stop,
or finds that its connection is lost, but it may be about to start before it has come to that. So
the one that claimed gets its verdict a little later than the other one its message. Only if that
one's loop is busy for longer do both execute the run, and one of them for nothing.
"""

from collections import deque
from collections.abc import Callable, Sequence

from leveret_broker.clock import Clock
from leveret_coordinator.alarm import Alarm
from leveret_coordinator.decision import Judged


class Hesitation:
    """What was decided and is not told yet. Lost with the process: workers claim again."""

    def __init__(self, clock: Clock, wake: Callable[[], None], *, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._alarm = Alarm(clock, wake)
        self._held: deque[tuple[float, Judged]] = deque()

    @property
    def is_due(self) -> bool:
        return self._alarm.is_due

    def hold(self, verdicts: Sequence[Judged]) -> list[Judged]:
        """Keep the hasty ones; returns the others."""
        due_at = self._clock.now() + self._seconds
        self._held.extend((due_at, each) for each in verdicts if each.is_hasty)
        self._set()
        return [each for each in verdicts if not each.is_hasty]

    def take_due(self) -> list[Judged]:
        """Those whose time has come."""
        self._alarm.clear()
        due: list[Judged] = []
        while self._held and self._held[0][0] <= self._clock.now():
            due.append(self._held.popleft()[1])
        self._set()
        return due

    def clear(self) -> None:
        self._alarm.clear()

    def _set(self) -> None:
        if self._held and not self._alarm.is_set:
            self._alarm.set(max(self._held[0][0] - self._clock.now(), 0.0))
