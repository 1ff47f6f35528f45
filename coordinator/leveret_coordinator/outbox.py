"""What was committed goes out, and what the broker confirmed is noted.

The catalog remembers invocations (runs that are `pending`) and the ends of runs (`waiters`) until
they are confirmed, so of these nothing is lost here. Other messages are hints: a bounded number of
those that failed is kept in memory and tried again.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from leveret_broker import codec, logs, topology
from leveret_broker.errors import TransportError, Unroutable
from leveret_broker.messages import (
    Accepted,
    Control,
    Finished,
    Invocations,
    Rejected,
    Replies,
    Reply,
    Unserved,
)
from leveret_broker.transport import Outgoing, Transport
from leveret_coordinator.decision import Answer
from leveret_coordinator.records import Confirmed, PendingRun, Waiter

log = logs.get_logger("leveret.coordinator")

MOST_REPLIES = 200
"""Replies in one message."""
MOST_PAYLOAD = 256 * 1024
"""Bytes of results and errors in one message, unless a single one is larger."""
MOST_CANCELLED = 1000
"""Runs in one control message."""
MOST_UNSENT = 10_000
"""Messages kept for another try that the catalog doesn't remember."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """A message, and what is settled once it is confirmed."""

    message: Outgoing
    settles: Confirmed = field(default_factory=Confirmed)

    @property
    def is_invocation(self) -> bool:
        return bool(self.settles.published)


# -- packing --------------------------------------------------------------------------------------


def pack_invocation(pending: PendingRun) -> Parcel:
    """One run a message, so that any free worker can take it."""
    run = pending.run
    body = codec.encode(
        Invocations(project=run.project, definition=run.definition, runs=(pending.as_message(),))
    )
    return Parcel(
        message=Outgoing(body=body, queue=pending.queue, correlation_id=run.id),
        settles=Confirmed(published=(run.id,)),
    )


def pack_answers(answers: Iterable[Answer]) -> list[Parcel]:
    """As few messages a session as the limits allow, in the order of the answers."""
    by_session: dict[str, list[Reply]] = {}
    for answer in answers:
        by_session.setdefault(answer.session, []).append(answer.reply)
    return [
        _pack_replies(session, portion)
        for session, replies in by_session.items()
        for portion in _portions(replies)
    ]


def pack_cancelled(runs: Sequence[str]) -> list[Parcel]:
    """To every worker."""
    return [
        Parcel(
            message=Outgoing(
                body=codec.encode(Control(cancel=tuple(runs[start : start + MOST_CANCELLED]))),
                fanout=topology.CONTROL,
                persistent=False,
            )
        )
        for start in range(0, len(runs), MOST_CANCELLED)
    ]


def _portions(replies: Sequence[Reply]) -> Iterable[list[Reply]]:
    portion: list[Reply] = []
    payload = 0
    for reply in replies:
        size = _payload(reply)
        if portion and (len(portion) == MOST_REPLIES or payload + size > MOST_PAYLOAD):
            yield portion
            portion, payload = [], 0
        portion.append(reply)
        payload += size
    if portion:
        yield portion


def _payload(reply: Reply) -> int:
    if not isinstance(reply, Finished):
        return 0
    traceback = reply.failure.traceback if reply.failure else ""
    return len(reply.result or b"") + len(reply.error or b"") + len(traceback)


def _pack_replies(session: str, replies: Sequence[Reply]) -> Parcel:
    runs = {_concerned(reply) for reply in replies}
    ended = (reply.run for reply in replies if isinstance(reply, Finished))
    return Parcel(
        message=Outgoing(
            body=codec.encode(Replies(replies=tuple(replies))),
            queue=topology.reply_queue_name(session),
            correlation_id=runs.pop() if len(runs) == 1 else None,
            persistent=False,
        ),
        settles=Confirmed(answered=tuple(Waiter(run=run, session=session) for run in ended)),
    )


def _concerned(reply: Reply) -> str | None:
    """The run that a reply is about."""
    if isinstance(reply, Accepted | Rejected | Unserved | Finished):
        return reply.run
    return None


# -- sending --------------------------------------------------------------------------------------


class Outbox:
    """Publishes parcels, and knows whether anything is left to be published again."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._unsent: deque[Parcel] = deque(maxlen=MOST_UNSENT)

    def take_unsent(self) -> list[Parcel]:
        """What failed and isn't in the catalog, to be sent again."""
        unsent = list(self._unsent)
        self._unsent.clear()
        return unsent

    async def send(self, parcels: Sequence[Parcel]) -> tuple[Confirmed, bool]:
        """What is settled, and whether something failed that is to be sent again later.

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
        for parcel, error in failed:
            self._keep(parcel, error)
        return _sum(settled), bool(failed)

    async def _publish(
        self, parcels: Sequence[Parcel]
    ) -> tuple[list[Confirmed], list[tuple[Parcel, TransportError]]]:
        if not parcels:
            return [], []
        try:
            errors = await self._transport.publish_all([parcel.message for parcel in parcels])
        except TransportError as refusal:
            errors = [refusal] * len(parcels)
        settled: list[Confirmed] = []
        failed: list[tuple[Parcel, TransportError]] = []
        for parcel, error in zip(parcels, errors, strict=True):
            if error is None:
                settled.append(parcel.settles)
            elif isinstance(error, Unroutable) and not parcel.is_invocation:
                log.debug("caller is gone", queue=parcel.message.queue)
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

    def _keep(self, parcel: Parcel, error: TransportError) -> None:
        log.warning(
            "message not published, will be tried again",
            queue=parcel.message.queue or parcel.message.fanout,
            correlation_id=parcel.message.correlation_id,
            error=f"{type(error).__name__}: {error}",
        )
        if not parcel.is_invocation:
            self._unsent.append(parcel)


def _sum(settled: Sequence[Confirmed]) -> Confirmed:
    return Confirmed(
        published=tuple(run for each in settled for run in each.published),
        answered=tuple(waiter for each in settled for waiter in each.answered),
    )
