"""Looks for what went wrong unheard: workers that are gone, invocations that vanished.

Silence counts only while this coordinator listens, and only until the time until which it has heard
all (`hearing.py`): a heartbeat may wait behind a thousand submissions. It does not listen while its
process stands still, nor while nobody at all is heard: then it is the broker that takes nothing.
Three signs tell that a worker is gone, and make its attempts orphans: it said goodbye, its
heartbeat is old, or nobody consumes its control queue for a while. The last is quicker, and is
looked at when there is a reason to suspect.

A queue that lost messages has fewer of them, with what its workers hold, than the catalog says once
it knows all that was told when they were counted. What was published long ago is then published
again, as a copy that is claimed before it is started: if nothing was lost after all, nothing is
executed twice.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from leveret_broker import logs, topology
from leveret_broker.clock import Clock
from leveret_broker.errors import TransportError
from leveret_broker.transport import Transport
from leveret_coordinator.catalog import Catalog, QueueCount
from leveret_coordinator.hearing import Hearing
from leveret_coordinator.reading import Liveness
from leveret_coordinator.records import Orphan, Vanished

log = logs.get_logger("leveret.coordinator")

MOST = 500
"""Orphans, or vanished invocations of a queue, that one look deals with."""
OVERTAKEN_AFTER = 60.0
"""Seconds by which a run must have been published before one that was taken, to be missed where
several share a message."""
MOST_GONE = 1000
"""Workers that are remembered as gone; after a while their silence says the same."""
LONGEST_PAUSE = 5.0
"""Seconds between two looks beyond those planned, after which this process counts as stopped."""
LOOK_AGAIN_AFTER = 1.0
"""Seconds to the next look while something is suspected."""
TELL_AFTER = 60.0
"""Seconds without a look after which it is told what keeps it from looking."""
MOST_COUNTS = 20
"""Times that queues are counted ahead of what was heard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverySettings:
    """Times are seconds."""

    worker_silent_after: float = 20.0
    """A worker whose heartbeat is older counts as dead."""
    worker_late_after: float = 1.6 * topology.HEARTBEAT_EVERY
    """A worker whose heartbeat is older is suspected, and silence of all of them is not theirs. So
    long, too, a queue must have been short: all workers have told by then what they hold. Longer
    than the time between two heartbeats, or workers that beat in step are never heard."""
    worker_gone_after: float = 3.0
    """How long nobody consumes a suspect's control queue until it counts as dead."""
    look_every: float = 5.0
    vanished_after: float = 15.0
    """How long an invocation must have been in its queue to be counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """What was in the queues at a time."""

    at: float
    ready: Mapping[str, int]


class Recoverer:
    """What this coordinator suspects. The catalog has what it knows."""

    def __init__(
        self, transport: Transport, hearing: Hearing, clock: Clock, settings: RecoverySettings
    ) -> None:
        self._transport = transport
        self._hearing = hearing
        self._clock = clock
        self._settings = settings
        self._listening_since = self._heard_at = self._turned_at = clock.now()
        self._looked_at = self._told_at = clock.now()
        self._suspects: dict[str, float | None] = {}
        """Since when nobody consumes their control queue, as far as it was looked at."""
        self._gone: dict[str, None] = {}
        self._reached: dict[str, float] = {}
        """How far workers have come in the queues of definitions."""
        self._short: dict[str, float] = {}
        """Since when definitions' queues have had too few messages at every look."""
        self._counted: deque[Counted] = deque()
        """Counts that are to be compared once all is heard that was told until then."""

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        return LOOK_AGAIN_AFTER if self._suspects or self._short else self._settings.look_every

    @property
    def alive(self) -> Liveness:
        """Who counts as alive now: everybody until there was time to hear of all."""
        self._turn()
        until, silent_after = self._hearing.until, self._settings.worker_silent_after
        has_listened = until - self._listening_since >= silent_after
        is_heard = self._clock.now() - self._heard_at <= self._settings.worker_late_after
        since = until - silent_after if has_listened and is_heard else -math.inf
        return Liveness(since=since, gone=tuple(self._gone))

    @property
    def listening_since(self) -> float:
        """From when on nothing that it was told can have passed it by."""
        self._turn()
        return self._listening_since

    @property
    def patient_until(self) -> float:
        """When timeouts that pass now have to have been due: not while news that they are kept may
        wait to be heard, or be on its way to where it waits."""
        self._turn()
        until = self._hearing.until
        return until if until - self._listening_since >= LOOK_AGAIN_AFTER else -math.inf

    def listen(self) -> None:
        """The connection was away, or this process: silence counts from now on."""
        self._listening_since = self._heard_at = self._clock.now()
        self._suspects = dict.fromkeys(self._suspects)
        self._counted.clear()
        self._reached.clear()
        self._hearing.forget()

    def hear(self) -> None:
        """A worker was heard. If none was for long, then it was not the workers that were away:
        a broker that is out of memory, say, takes heartbeats from nobody."""
        now = self._clock.now()
        silence = now - self._heard_at
        if silence > self._settings.worker_late_after:
            log.info("nobody was heard for a while, which is held against nobody", seconds=silence)
            self.listen()
        self._heard_at = now

    def _turn(self) -> None:
        """Notice that this process did not run for a while, or that its clock was set."""
        now, before = self._clock.now(), self._turned_at
        self._turned_at = now
        if not 0 <= now - before <= self._settings.look_every + LONGEST_PAUSE:
            self.listen()

    def suspect(self, workers: Iterable[str]) -> None:
        for worker in workers:
            if worker not in self._gone:
                self._suspects.setdefault(worker, None)

    def welcome(self, workers: Iterable[str]) -> None:
        """They are here, whatever was thought of them."""
        for worker in workers:
            self._suspects.pop(worker, None)
            self._gone.pop(worker, None)

    async def look(self, catalog: Catalog) -> list[Orphan | Vanished]:
        """What is to be mended. Nothing if the broker can't be asked."""
        self._turn()
        try:
            until = await self._hearing.listen()
            await self._look_at_suspects(catalog, until)
            orphans, vanished = await self._orphans(catalog), await self._vanished(catalog, until)
        except TransportError as error:
            self._tell(str(error))
            return []
        self._looked_at = max(self._looked_at, until)
        self._tell("messages wait to be heard")
        return [*orphans, *vanished]

    def _tell(self, reason: str) -> None:
        """If nothing of the last minute was looked at, people are told."""
        now = self._clock.now()
        if now - max(self._looked_at, self._told_at) >= TELL_AFTER:
            self._told_at = now
            seconds = round(now - self._looked_at)
            log.warning("nobody looks for lost runs", reason=reason, seconds=seconds)

    def note_reached(self, reached: Iterable[tuple[str, float]]) -> None:
        """What was published then, was taken from the queues of these definitions."""
        for definition, published_at in reached:
            latest = self._reached.get(definition, published_at)
            self._reached[definition] = max(published_at, latest)

    # -- workers ----------------------------------------------------------------------------------

    async def _look_at_suspects(self, catalog: Catalog, until: float) -> None:
        late_after = self._settings.worker_late_after
        if until - self._listening_since >= late_after:
            self.suspect(await catalog.late_holders(heard_since=until - late_after))
        for worker, missing_since in list(self._suspects.items()):
            status = await self._transport.inspect(topology.control_queue(worker).name)
            if status is not None and status.consumers:
                del self._suspects[worker]
            elif missing_since is None:
                self._suspects[worker] = self._clock.now()
            elif until - missing_since >= self._settings.worker_gone_after:
                del self._suspects[worker]
                self._gone[worker] = None
                if len(self._gone) > MOST_GONE:
                    del self._gone[next(iter(self._gone))]
                log.warning("worker is gone", worker=worker)

    async def _orphans(self, catalog: Catalog) -> list[Orphan]:
        orphans = await catalog.orphans(self.alive, most=MOST)
        for worker in dict.fromkeys(orphan.worker for orphan in orphans):
            log.warning("attempts of a lost worker are given to others", worker=worker)
        return orphans

    # -- invocations ------------------------------------------------------------------------------

    async def _vanished(self, catalog: Catalog, until: float) -> list[Vanished]:
        latest = await self._count(catalog)
        counted: Counted | None = None
        while self._counted and self._counted[0].at <= until:
            counted = self._counted.popleft()
        if counted is None:
            return []
        if counted.at != self._hearing.asked_at:  # the catalog knows more of it by now
            latest = await self._old_in_queues(catalog, counted.at)
        return await self._missing(catalog, counted, latest)

    async def _count(self, catalog: Catalog) -> Sequence[QueueCount]:
        """See what is in the queues now, and return what the catalog knows of them. All that was
        told until now is to be known for comparing."""
        if len(self._counted) >= MOST_COUNTS:
            return ()
        now = self._hearing.asked_at
        counts = await self._old_in_queues(catalog, now)
        statuses = {each.queue: await self._transport.inspect(each.queue) for each in counts}
        ready = {name: status.messages if status else 0 for name, status in statuses.items()}
        self._counted.append(Counted(at=now, ready=ready))
        return counts

    async def _old_in_queues(self, catalog: Catalog, at: float) -> list[QueueCount]:
        before = at - self._settings.vanished_after
        return await catalog.old_in_queues(before=before, alive_since=self.alive.since)

    async def _missing(
        self, catalog: Catalog, counted: Counted, counts: Sequence[QueueCount]
    ) -> list[Vanished]:
        before = counted.at - self._settings.vanished_after
        short: dict[str, float] = {}
        missing: list[Vanished] = []
        for count in counts:
            ready = counted.ready.get(count.queue)
            if ready is None:
                continue
            if count.published <= ready * count.together + count.held:
                missing += await self._overtaken(catalog, count, before)
                continue
            short_since = self._short.get(count.definition, counted.at)
            # What a worker took a moment ago it tells with its next heartbeat only.
            if counted.at - short_since >= self._settings.worker_late_after:
                log.warning("invocations vanished and are published again", queue=count.queue)
                missing += await catalog.queued_before(count.definition, before=before, most=MOST)
            else:
                short[count.definition] = short_since
        self._short = short
        return missing

    async def _overtaken(
        self, catalog: Catalog, count: QueueCount, before: float
    ) -> Sequence[Vanished]:
        """Where several runs share a message, what is there may hide that others are lost. A queue
        hands out in order: what was taken was behind them."""
        reached = self._reached.get(count.definition)
        if count.together == 1 or reached is None:
            return ()
        until = min(before, reached - OVERTAKEN_AFTER)
        found = await catalog.queued_before(count.definition, before=until, most=MOST)
        if found:
            log.warning("invocations were passed over and are published again", queue=count.queue)
        return found
