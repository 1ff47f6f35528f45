"""Until when this coordinator has heard everything that it was told.

What waits in its queues may be a sign of life, or the end of a run. If nothing waits, all is heard
until now. Otherwise a marker is put behind what waits, and when it comes back, all that was told
before it was heard. So a coordinator that never catches up knows what silence means as well; it
only judges later.

A marker is known by a token that nobody else has seen. Others are dropped: an earlier coordinator,
or this one before its connection was lost, may have sent them. Markers are empty, and come through
the broker's own exchange. Anything else is a request like any other, whatever its headers say.
"""

import math
import secrets
from collections.abc import Callable

from leveret_broker import logs, topology
from leveret_broker.clock import Clock
from leveret_broker.transport import Delivery, Outgoing, Transport

log = logs.get_logger("leveret.coordinator")

QUEUES = (topology.REQUESTS.name, topology.OUTCOMES.name)
MARK_EVERY = 1.0
"""Seconds between two markers at least."""
MOST_MARKERS = 100
"""Markers on their way in a queue, about: the further it is behind, the fewer are sent."""


class Hearing:
    """What was heard, by the time at which it was told."""

    def __init__(
        self, transport: Transport, clock: Clock, has_unheard: Callable[[], bool] = lambda: False
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._has_unheard = has_unheard
        """Whether something was delivered that is not dealt with."""
        self._until = dict.fromkeys(QUEUES, -math.inf)
        self._markers: dict[str, dict[str, float]] = {queue: {} for queue in QUEUES}
        """When each of those that have not come back was sent, oldest first."""
        self._dropped = logs.Tally(log.info, "a marker that tells nothing is dropped")
        self.asked_at = -math.inf
        """When it was last seen what waits."""

    @property
    def until(self) -> float:
        """All that was told until then is heard, in seconds since the Unix epoch. Minus infinity
        if that is not known."""
        return min(self._until.values())

    def forget(self) -> None:
        """What is on its way may arrive in another order, or time may have been set."""
        self._until = dict.fromkeys(QUEUES, -math.inf)
        self._markers = {queue: {} for queue in QUEUES}

    async def listen(self) -> float:
        """See what waits, and return `until`. Raises `TransportError` if the broker can't be
        asked."""
        now = self.asked_at = self._clock.now()
        waits = [queue for queue in QUEUES if self._has_unheard() or await self._waits(queue)]
        if self._has_unheard():  # it came while the broker was asked
            waits = list(QUEUES)
        for queue in QUEUES:
            if queue in waits:
                await self._mark(queue, now)
            else:
                self._until[queue] = now
                self._markers[queue].clear()
        return self.until

    def is_marker(self, delivery: Delivery) -> bool:
        """Whether a coordinator may have put it there."""
        is_bare = not (delivery.body or delivery.exchange)
        return is_bare and topology.MARKER_HEADER in delivery.headers

    def hear(self, delivery: Delivery) -> None:
        """A marker came back, and all before it is dealt with."""
        markers = self._markers.get(delivery.queue, {})
        sent_at = markers.get(delivery.headers[topology.MARKER_HEADER])
        if sent_at is None:
            self._dropped.add(queue=delivery.queue)
        else:
            self._until[delivery.queue] = max(self._until[delivery.queue], sent_at)
            self._markers[delivery.queue] = {
                token: at for token, at in markers.items() if at > sent_at
            }

    async def _waits(self, queue: str) -> bool:
        status = await self._transport.inspect(queue)
        return status is None or status.messages > 0

    async def _mark(self, queue: str, now: float) -> None:
        markers = self._markers[queue]
        if markers:
            oldest, latest = next(iter(markers.values())), next(reversed(markers.values()))
            if now - latest < max(MARK_EVERY, (now - oldest) / MOST_MARKERS):
                return
        token = secrets.token_hex(16)
        markers[token] = now
        await self._transport.publish(
            Outgoing(
                body=b"",
                queue=queue,
                headers={topology.MARKER_HEADER: token},
                persistent=False,
            )
        )
