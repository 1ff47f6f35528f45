"""Looks for what went wrong unheard: workers that are gone, invocations that vanished.

Silence counts only while this coordinator listens, and only once it has heard all there is to hear:
a heartbeat may wait behind a thousand submissions. It does not listen while its process stands
still, nor while nobody at all is heard: then it is the broker that takes nothing. Three signs tell
that a worker is gone, and make its attempts orphans: it said goodbye, its heartbeat is old, or
nobody consumes its control queue for a while. The last is quicker, and is looked at when there is a
reason to suspect.

A queue that lost messages has fewer of them, with what its workers hold, than the catalog says.
What was published long ago is then published again, as a copy that is claimed before it is started:
if nothing was lost after all, nothing is executed twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from leveret_broker import logs, topology
from leveret_broker.clock import Clock
from leveret_broker.errors import TransportError
from leveret_broker.transport import Transport
from leveret_coordinator.catalog import Catalog, Liveness
from leveret_coordinator.records import Orphan, Vanished

log = logs.get_logger("leveret.coordinator")

MOST = 500
"""Orphans, or vanished invocations of a queue, that one look deals with."""
MOST_GONE = 1000
"""Workers that are remembered as gone; after a while their silence says the same."""
LONGEST_PAUSE = 5.0
"""Seconds between two looks beyond those planned, after which this process counts as stopped."""
LOOK_AGAIN_AFTER = 1.0
"""Seconds to the next look while something is suspected."""
TELL_AFTER = 60.0
"""Seconds without a look after which it is told what keeps it from looking."""


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


class Recoverer:
    """What this coordinator suspects. The catalog has what it knows."""

    def __init__(self, transport: Transport, clock: Clock, settings: RecoverySettings) -> None:
        self._transport = transport
        self._clock = clock
        self._settings = settings
        self._listening_since = self._heard_at = self._turned_at = clock.now()
        self._looked_at = self._told_at = clock.now()
        self._suspects: dict[str, float | None] = {}
        """Since when nobody consumes their control queue, as far as it was looked at."""
        self._gone: dict[str, None] = {}
        self._short: dict[str, float] = {}
        """Since when definitions' queues have had too few messages at every look."""

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        return LOOK_AGAIN_AFTER if self._suspects or self._short else self._settings.look_every

    @property
    def alive(self) -> Liveness:
        """Who counts as alive now: everybody until there was time to hear of all."""
        self._turn()
        now, silent_after = self._clock.now(), self._settings.worker_silent_after
        has_listened = now - self._listening_since >= silent_after
        is_heard = now - self._heard_at <= self._settings.worker_late_after
        since = now - silent_after if has_listened and is_heard else float("-inf")
        return Liveness(since=since, gone=tuple(self._gone))

    @property
    def listening_since(self) -> float:
        """From when on nothing that it was told can have passed it by."""
        self._turn()
        return self._listening_since

    @property
    def has_listened(self) -> bool:
        """Whether it listens for long enough that nothing it is told can still be on its way here,
        unless it waits in a queue."""
        self._turn()
        return self._clock.now() - self._listening_since >= LOOK_AGAIN_AFTER

    def listen(self) -> None:
        """The connection was away, or this process: silence counts from now on."""
        self._listening_since = self._heard_at = self._clock.now()
        self._suspects = dict.fromkeys(self._suspects)

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
            if not await self.has_heard_all():
                self.put_off("messages wait to be heard")
                return []
            await self._look_at_suspects(catalog)
            orphans, vanished = await self._orphans(catalog), await self._vanished(catalog)
        except TransportError as error:
            self.put_off(str(error))
            return []
        self._looked_at = self._told_at = self._clock.now()
        return [*orphans, *vanished]

    def put_off(self, reason: str) -> None:
        """There is no look this time. If that has been so for long, people are told."""
        now = self._clock.now()
        if now - self._told_at >= TELL_AFTER:
            self._told_at = now
            seconds = round(now - self._looked_at)
            log.warning("nobody looks for lost runs", reason=reason, seconds=seconds)

    async def has_heard_all(self) -> bool:
        """Whether nothing waits for this coordinator. Raises `TransportError`."""
        for queue in (topology.REQUESTS, topology.OUTCOMES):
            status = await self._transport.inspect(queue.name)
            if status is None or status.messages:
                return False
        return True

    # -- workers ----------------------------------------------------------------------------------

    async def _look_at_suspects(self, catalog: Catalog) -> None:
        now, late_after = self._clock.now(), self._settings.worker_late_after
        if now - self._listening_since >= late_after:
            self.suspect(await catalog.late_holders(heard_since=now - late_after))
        for worker, missing_since in list(self._suspects.items()):
            status = await self._transport.inspect(topology.control_queue(worker).name)
            if status is not None and status.consumers:
                del self._suspects[worker]
            elif missing_since is None:
                self._suspects[worker] = now
            elif now - missing_since >= self._settings.worker_gone_after:
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

    async def _vanished(self, catalog: Catalog) -> list[Vanished]:
        now = self._clock.now()
        before = now - self._settings.vanished_after
        short: dict[str, float] = {}
        vanished: list[Vanished] = []
        for count in await catalog.old_in_queues(before=before, alive_since=self.alive.since):
            status = await self._transport.inspect(count.queue)
            ready = 0 if status is None else status.messages
            if count.published <= ready + count.held:
                continue
            short_since = self._short.get(count.definition, now)
            # What a worker took a moment ago it tells with its next heartbeat only.
            if now - short_since >= self._settings.worker_late_after:
                log.warning("invocations vanished and are published again", queue=count.queue)
                vanished += await catalog.queued_before(count.definition, before=before, most=MOST)
            else:
                short[count.definition] = short_since
        self._short = short
        return vanished
