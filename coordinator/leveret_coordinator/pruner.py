"""Removes runs by itself when they have been kept long enough, in small portions."""

from collections.abc import Callable

from leveret_broker import logs
from leveret_broker.clock import Clock
from leveret_coordinator import retention
from leveret_coordinator.alarm import Alarm
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.retention import Portion, Retention

log = logs.get_logger("leveret.coordinator")

PAUSE = 0.1
"""Seconds between two portions: others come first."""
FIRST_AFTER = 60.0
"""Seconds after a start until it begins, at most."""
LISTEN_AGAIN_AFTER = 5.0


class Pruner:
    """Wakes the coordinator's loop when a portion is to be removed, which then calls `proceed`."""

    def __init__(
        self, clock: Clock, wake: Callable[[], None], *, keep: float | None, every: float
    ) -> None:
        """`keep`: seconds for which ended runs are kept, for ever if `None`. `every`: from one time
        that all is gone through to the next."""
        self._clock = clock
        self._keep = keep
        self._every = every
        self._alarm = Alarm(clock, wake)
        self._began_at = 0.0
        self._done = Portion()

    @property
    def is_due(self) -> bool:
        return self._alarm.is_due

    def start(self) -> None:
        """Begin to wait. What was given up before is removed in any case."""
        self._began_at = self._clock.now()
        self._alarm.set(min(self._every, FIRST_AFTER))

    def clear(self) -> None:
        """Wake nobody any more."""
        self._alarm.clear()

    async def proceed(self, catalog: Catalog, *, heard_until: float) -> None:
        """Remove a portion, unless what was told before the start is not all heard yet."""
        self._alarm.clear()
        pause: float | None = self._every
        try:
            if heard_until < self._began_at:
                pause = LISTEN_AGAIN_AFTER
            elif self._keep is None:
                pause = PAUSE if await retention.finish(catalog) else None
            else:
                pause = await self._remove(catalog, self._keep)
        finally:
            if pause is not None:
                self._alarm.set(pause)

    async def _remove(self, catalog: Catalog, keep: float) -> float:
        """Seconds until the next portion."""
        before, place = self._clock.now() - keep, self._done.place
        self._done += await retention.remove_portion(catalog, Retention(before=before), place)
        if self._done.place is not None:
            return PAUSE
        done, self._done = self._done, Portion()
        if done.runs or done.code:
            log.info("old runs removed", trees=done.trees, runs=done.runs, code=done.code)
        return self._every
