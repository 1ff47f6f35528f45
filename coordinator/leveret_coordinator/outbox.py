"""What was committed goes out, and what the broker confirmed is noted.

The catalog remembers invocations (runs that are `pending`) and the ends of runs (`waiters`) until
they are confirmed, so of these nothing is lost here. Other messages are hints: a bounded number of
those that failed is kept in memory and tried again.

A message that the broker refuses for what it is would be refused again, so something shorter goes
in its place.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from leveret_broker import errors, logs, topology
from leveret_broker.errors import TransportError, Unroutable
from leveret_broker.messages import Finished
from leveret_broker.transport import Transport
from leveret_coordinator import parcels as packing
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.parcels import Parcel
from leveret_coordinator.records import Confirmed, RefusedAttempt

log = logs.get_logger("leveret.coordinator")

MOST_UNSENT = 10_000
"""Messages kept for another try that the catalog doesn't remember."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What became of some parcels."""

    confirmed: Confirmed = field(default_factory=Confirmed)
    refused: tuple[RefusedAttempt, ...] = ()
    """Those that can never be handed to a worker."""
    has_failed: bool = False
    """Whether something is to be sent again later."""
    has_sent: bool = False
    """Whether the broker took something of it."""
    deaf: frozenset[str] = frozenset()
    """Work queues that exist and took nothing."""
    silent: frozenset[str] = frozenset()
    """Those of them about which the broker said nothing at all until the deadline."""

    def __add__(self, other: "Sent") -> "Sent":
        return Sent(
            confirmed=self.confirmed + other.confirmed,
            refused=self.refused + other.refused,
            has_failed=self.has_failed or other.has_failed,
            has_sent=self.has_sent or other.has_sent,
            deaf=self.deaf | other.deaf,
            silent=self.silent | other.silent,
        )


class Outbox:
    """Publishes parcels, and knows whether anything is left to be published again."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._unsent: deque[Parcel] = deque(maxlen=MOST_UNSENT)

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def put_back(self, unsent: Sequence[Parcel]) -> None:
        """It could not be tried again yet."""
        self._unsent.extend(unsent)

    def take_unsent(self) -> list[Parcel]:
        """What failed and isn't in the catalog, to be sent again."""
        unsent = list(self._unsent)
        self._unsent.clear()
        return unsent

    async def send(self, parcels: Sequence[Parcel]) -> Sent:
        """Publish them, as often as it may help at once.

        A work queue that is missing is declared once more. A reply queue that is missing means
        that the caller is gone, and is settled.
        """
        settled, failed = await self._publish(parcels)
        homeless = [parcel for parcel, error in failed if isinstance(error, Unroutable)]
        if homeless and await self._declare(homeless):
            failed = [pair for pair in failed if not isinstance(pair[1], Unroutable)]
            settled_now, failed_again = await self._publish(homeless)
            settled += settled_now
            failed += failed_again
        refused = [pair for pair in failed if isinstance(pair[1], errors.Refused)]
        failed = [pair for pair in failed if not isinstance(pair[1], errors.Refused)]
        for parcel, error in failed:
            self._keep(parcel, error)
        sent = Sent(
            confirmed=_sum(settled),
            has_failed=bool(failed),
            has_sent=bool(settled),
            deaf=_queues(failed, errors.BrokerBlocked) | _queues(failed, errors.Expired),
            silent=_queues(failed, errors.Expired),
        )
        return sent + await self._replace(refused) if refused else sent

    async def _publish(
        self, parcels: Sequence[Parcel]
    ) -> tuple[list[Confirmed], list[tuple[Parcel, TransportError]]]:
        if not parcels:
            return [], []
        try:
            outcomes = await self._transport.publish_all([parcel.message for parcel in parcels])
        except TransportError as refusal:
            outcomes = [refusal] * len(parcels)
        settled: list[Confirmed] = []
        failed: list[tuple[Parcel, TransportError]] = []
        for parcel, error in zip(parcels, outcomes, strict=True):
            if error is None:
                settled.append(parcel.settles)
            elif isinstance(error, Unroutable) and not parcel.is_invocation:
                log.debug("nobody has this queue any more", queue=parcel.message.queue)
                settled.append(parcel.settles)
            else:
                failed.append((parcel, error))
        return settled, failed

    async def _declare(self, parcels: Sequence[Parcel]) -> bool:
        names = dict.fromkeys(parcel.message.queue or "" for parcel in parcels)
        log.warning("work queues are missing and declared again", queues=list(names))
        try:
            await self._transport.declare(*(topology.work_queue(name) for name in names))
        except TransportError as error:
            log.warning("work queues can't be declared", queues=list(names), error=str(error))
            return False
        return True

    async def _replace(self, refused: Sequence[tuple[Parcel, TransportError]]) -> Sent:
        """Send what goes in place of refused parcels; settle those that nothing can replace."""
        sent = Sent()
        instead: list[Parcel] = []
        for parcel, error in refused:
            log.error(
                "message refused by the broker",
                queue=parcel.message.queue or parcel.message.fanout,
                correlation_id=parcel.message.correlation_id,
                bytes=len(parcel.message.body),
                error=str(error),
            )
            replacements = packing.in_place_of(parcel, str(error))
            instead += replacements
            if parcel.is_invocation and not replacements:
                sent += Sent(refused=_never_published(parcel, str(error)))
            elif not replacements:
                sent += Sent(confirmed=parcel.settles)
        return sent + await self.send(instead) if instead else sent

    def _keep(self, parcel: Parcel, error: TransportError) -> None:
        log.warning(
            "message not published, will be tried again",
            queue=parcel.message.queue or parcel.message.fanout,
            correlation_id=parcel.message.correlation_id,
            error=f"{type(error).__name__}: {error}",
        )
        if parcel.answers:
            # The catalog remembers the ends of runs, and would have each sent twice.
            hints = [each for each in parcel.answers if not isinstance(each.reply, Finished)]
            self._unsent.extend(packing.pack_answers(hints))
        elif not parcel.is_invocation:
            self._unsent.append(parcel)


class Backlog:
    """One pass over what the catalog remembers and the broker has not confirmed.

    `unsent` goes first: what failed and the catalog doesn't remember. Invocations may have been
    published before, which they tell.
    """

    def __init__(
        self, catalog: Catalog, *, page: int, unsent: Sequence[Parcel], generation: int
    ) -> None:
        self._generation = generation
        self._unsent = unsent
        self._pending = catalog.pending(page=page)
        self._unanswered = catalog.unanswered(page=page)
        self.has_failed = False
        """Whether something of it is to be sent again later."""

    @property
    def has_unsent(self) -> bool:
        """Whether something is left to be sent that the catalog doesn't remember."""
        return bool(self._unsent)

    def take_unsent(self) -> Sequence[Parcel]:
        """What is left of that."""
        unsent, self._unsent = self._unsent, ()
        return unsent

    async def next_page(self) -> list[Parcel]:
        """What comes next, whatever became of the page before. Empty at the end."""
        pending = await anext(self._pending, None) or ()
        answers = await anext(self._unanswered, None) or ()
        unsent = self.take_unsent()
        return [
            *unsent,
            *packing.pack_invocations([each.as_copy() for each in pending], self._generation),
            *packing.pack_answers(answers),
        ]

    async def close(self) -> None:
        await self._pending.aclose()
        await self._unanswered.aclose()


def _never_published(parcel: Parcel, reason: str) -> tuple[RefusedAttempt, ...]:
    return tuple(
        RefusedAttempt(run=each.run, attempt=each.attempt, reason=reason)
        for each in parcel.settles.published
    )


def _queues(
    failed: Sequence[tuple[Parcel, TransportError]], kind: type[TransportError]
) -> frozenset[str]:
    """The work queues that failed like this."""
    return frozenset(
        parcel.message.queue or ""
        for parcel, error in failed
        if parcel.is_invocation and isinstance(error, kind)
    )


def _sum(settled: Sequence[Confirmed]) -> Confirmed:
    return Confirmed(
        published=tuple(attempt for each in settled for attempt in each.published),
        settled=tuple(waiter for each in settled for waiter in each.settled),
    )
