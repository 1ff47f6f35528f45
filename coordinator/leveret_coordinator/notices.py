"""What nobody tells the coordinator: what is due, was lost unheard, or is stuck.

It notices by itself, and deals with it as with the messages that it is sent.
"""

from collections.abc import Awaitable, Callable, Sequence

from leveret_broker import logs
from leveret_broker.clock import Clock
from leveret_broker.errors import TransportError
from leveret_broker.transport import Transport
from leveret_coordinator import work_queues
from leveret_coordinator.alarm import Alarm
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.decision import Decision
from leveret_coordinator.errors import CatalogUnavailable
from leveret_coordinator.facts import Message
from leveret_coordinator.hearing import Hearing
from leveret_coordinator.publishing import Publisher
from leveret_coordinator.reading import Liveness
from leveret_coordinator.records import Timer
from leveret_coordinator.recoverer import LOOK_AGAIN_AFTER, Recoverer
from leveret_coordinator.settings import CoordinatorSettings
from leveret_coordinator.timers import Timers

log = logs.get_logger("leveret.coordinator")


class Notices:
    """Wakes the coordinator's loop when there is something, which then calls `proceed`.

    `deal_with` decides and writes; `hear_more` deals with what was delivered meanwhile.
    """

    def __init__(
        self,
        transport: Transport,
        hearing: Hearing,
        publisher: Publisher,
        clock: Clock,
        wake: Callable[[], None],
        settings: CoordinatorSettings,
        *,
        deal_with: Callable[[Sequence[Message]], Awaitable[None]],
        hear_more: Callable[[], Awaitable[None]],
    ) -> None:
        self._transport = transport
        self._hearing = hearing
        self._publisher = publisher
        self._clock = clock
        self._settings = settings
        self._deal_with = deal_with
        self._hear_more = hear_more
        self._look = Alarm(clock, wake)
        self._timers = Timers(clock, wake)
        self._recoverer = Recoverer(transport, hearing, clock, settings.recovery)

    @property
    def is_due(self) -> bool:
        return self._publisher.has_unpublishable or self._timers.is_due or self._look.is_due

    @property
    def alive(self) -> Liveness:
        """Which workers count as alive now."""
        return self._recoverer.alive

    @property
    def heard_since(self) -> float:
        """Since when a worker must have been heard for people to be told that it is there."""
        silent_since = self._clock.now() - self._settings.worker_silent_after
        return max(self.alive.since, silent_since)

    @property
    def listening_since(self) -> float:
        """From when on nothing that it was told can have passed the coordinator by."""
        return self._recoverer.listening_since

    async def start(self, catalog: Catalog) -> None:
        """Wake for what is due."""
        await self._timers.expect_next(catalog)

    def listen(self) -> None:
        """From now on silence means something."""
        self._recoverer.listen()
        self._look_soon()

    def note(self, decision: Decision) -> None:
        """What was decided may be due some day; who was heard is there."""
        self._timers.note(decision.timers)
        self._recoverer.note_reached(decision.reached)
        self._recoverer.welcome([each.worker for each in decision.joined])
        if decision.heartbeats:
            self._recoverer.hear()
        if decision.suspects:
            self._recoverer.suspect(decision.suspects)
            self._look_soon()

    async def proceed(self, catalog: Catalog) -> bool:
        """Do one thing that is due; whether that may have left something to be published again."""
        if self._publisher.has_unpublishable:
            await self._deal_with(self._publisher.take_unpublishable())
        elif self._timers.is_due:
            await self._fire_timers(catalog)
        else:
            return await self._recover(catalog)
        return False

    def clear(self) -> None:
        """Wake nobody any more."""
        self._timers.clear()
        self._look.clear()

    def _look_soon(self) -> None:
        self._look.clear()
        self._look.set(self._recoverer.pause)

    # -- what is due ------------------------------------------------------------------------------

    async def _fire_timers(self, catalog: Catalog) -> None:
        """Do what is due. Without the catalog it stays due; what fails by itself is put off."""
        began_at = self._clock.now()
        patient_until = await self._patient_until()
        due = await self._timers.due(catalog, patient_until=patient_until)
        try:
            if due:
                await self._deal_with(due)
        except CatalogUnavailable:
            raise
        except Exception as error:
            log.exception("timers failed, each is tried alone", error=str(error))
            for timer in due:
                await self._fire_alone(catalog, timer)
        is_behind = patient_until < began_at
        await self._timers.expect_next(catalog, pause=LOOK_AGAIN_AFTER if is_behind else 0.0)

    async def _patient_until(self) -> float:
        try:
            await self._hearing.listen()
        except TransportError as error:
            log.info("nobody can tell what waits to be heard", error=str(error))
        return self._recoverer.patient_until

    async def _fire_alone(self, catalog: Catalog, timer: Timer) -> None:
        try:
            await self._deal_with([timer])
        except CatalogUnavailable:
            raise
        except Exception as error:
            log.exception("timer failed", run=timer.run, kind=timer.kind, error=str(error))
            later = self._clock.now() + self._settings.failed_timer_after
            await catalog.put_off(timer, until=later)

    # -- what went wrong unheard ------------------------------------------------------------------

    async def _recover(self, catalog: Catalog) -> bool:
        """Look for it, and mend it. Whether something is stuck in the catalog."""
        self._look.clear()
        try:
            await self._look_for_what_is_lost(catalog)
            await self.mend_queues()
            return await self._is_stuck(catalog)
        finally:
            self._look.set(self._recoverer.pause)

    async def _look_for_what_is_lost(self, catalog: Catalog) -> None:
        found = await self._recoverer.look(catalog)
        await self._hear_more()  # it may be a sign of life
        for start in range(0, len(found), self._settings.largest_batch):
            await self._deal_with(found[start : start + self._settings.largest_batch])

    async def mend_queues(self) -> None:
        """Declare work queues anew that the broker has broken."""
        since = self._clock.now() - self._settings.deaf_after
        for queue in self._publisher.deaf_queues(since=since):
            try:
                is_mended = await work_queues.mend(self._transport, queue)
            except TransportError as error:
                log.warning("work queue not made anew", queue=queue, error=str(error))
                is_mended = False
            if is_mended:
                self._publisher.note_mended(queue)
            else:
                self._publisher.note_not_mended(queue)

    async def _is_stuck(self, catalog: Catalog) -> bool:
        if self._publisher.is_mending:
            return False
        before = self._clock.now() - self._settings.stuck_after
        return await catalog.has_pending(before=before)
