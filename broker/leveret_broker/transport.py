"""How messages travel: the contract that every transport keeps.

There are two implementations, `memory` and `rabbitmq`, and one conformance suite
(`tests/broker/test_conformance.py`) that runs on both. A change of meaning starts there.

Every method belongs to the event loop in which the transport was opened. Delivery callbacks are
plain functions that run on that loop and must not block.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from leveret_broker.errors import TransportError

log = logging.getLogger(__name__)

COPY_HEADER = "leveret-copy"
"""On a message that was published before, and whose first copy may have arrived."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """A queue as it is declared. Declaring the same value again changes nothing."""

    name: str
    replicated: bool = False
    """Kept on several nodes of a cluster, where the broker can (a quorum queue)."""
    exclusive: bool = False
    """Belongs to one connection and goes away with it."""
    expires: float | None = None
    """Seconds without a consumer after which the broker deletes it. Never for work."""
    dead_letter: str | None = None
    """The queue that receives what consumers reject."""
    fanouts: tuple[str, ...] = ()
    """The fan-out exchanges whose every message it receives a copy of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """An exchange as it is declared, apart from the broker's own by which every queue is reached.

    Only who may write to it can publish through it, and only to the queues bound to it.
    """

    name: str
    queues: tuple[str, ...] = ()
    """Bound to it, each by its own name."""
    is_fanout: bool = False
    """Every message goes to all bound queues. Queues bind themselves, by `Queue.fanouts`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """A message to publish: to one queue by name, or to every queue bound to a fan-out exchange."""

    body: bytes
    queue: str | None = None
    exchange: str | None = None
    """The exchange to go through, which has to be bound to the queue; the broker's own if none."""
    fanout: str | None = None
    correlation_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    persistent: bool = True
    """Survives a restart of the broker, in a queue that does."""

    def as_copy(self) -> "Outgoing":
        """The same message, for when the first may have arrived."""
        return replace(self, headers={**self.headers, COPY_HEADER: "1"})


class Delivery(Protocol):
    """One message handed to a consumer, to be settled once by one of three verbs.

    Settling never raises and never waits. When the connection that brought the delivery is gone,
    settling does nothing: the broker has already put the message back.
    """

    @property
    def body(self) -> bytes: ...
    @property
    def queue(self) -> str: ...
    @property
    def exchange(self) -> str:
        """What it was published through; empty for the broker's own. The broker vouches for it."""
        ...

    @property
    def correlation_id(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def redelivered(self) -> bool:
        """Somebody may have dealt with the message before.

        It was handed out before, or is the copy of one whose confirmation was lost.
        """
        ...

    def ack(self) -> None:
        """Done with: the broker forgets the message."""
        ...

    def nack(self) -> None:
        """Not my turn: back into the queue, for anybody."""
        ...

    def reject(self) -> None:
        """Can't be dealt with: to the queue's dead-letter queue, or dropped if it has none."""
        ...


class Consumer(Protocol):
    """A subscription to one queue. It comes back by itself after any loss, until cancelled."""

    @property
    def is_consuming(self) -> bool:
        """Whether the broker would hand it a message now."""
        ...

    async def cancel(self) -> None:
        """Take no more. Deliveries already handed out stay to be settled."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStatus:
    """What the broker says of a queue."""

    messages: int
    """Ready to be handed out; those handed out and not settled don't count."""
    consumers: int


class Transport(Protocol):
    """A connection to a broker."""

    @property
    def is_durable(self) -> bool:
        """Whether messages outlive the process that holds the transport."""
        ...

    async def open(self) -> None:
        """Connect. Raises `TransportUnreachable` after the transport's deadline."""
        ...

    async def close(self) -> None:
        """Disconnect. Unsettled deliveries go back to their queues. Closing twice is fine."""
        ...

    async def declare(self, *declared: Queue | Exchange) -> None:
        """Make sure that they exist; after a reconnect they are declared again.

        What the user may not make has to be there already: else `Forbidden` is raised, and
        `Unroutable` if a queue to be bound is missing.
        """
        ...

    async def has_exchange(self, name: str) -> bool:
        """Whether there is one of this name."""
        ...

    async def delete(self, queue: str) -> None:
        """Delete a queue with all it holds; no error if there is none."""
        ...

    async def publish(self, message: Outgoing) -> None:
        """Return once the broker has confirmed the message.

        Raises `Unroutable`, `Refused`, `BrokerBlocked`, `Expired` or `TransportClosed`. A
        connection lost meanwhile is awaited and the message published again, so a receiver may
        see it twice: the second time as redelivered.
        To a fan-out exchange nobody has to listen.
        """
        ...

    async def publish_all(self, messages: Sequence[Outgoing]) -> Sequence[TransportError | None]:
        """Publish many under one window of confirms: one entry a message, `None` for confirmed.

        A message that the broker refuses keeps no other from arriving.
        """
        ...

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> Consumer:
        """Hand the queue's messages to `on_delivery`, at most `prefetch` unsettled at a time.

        Zero means no limit. Raises `Unroutable` if there is no such queue.
        """
        ...

    async def inspect(self, queue: str) -> QueueStatus | None:
        """What the broker says of the queue, `None` if there is none."""
        ...

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call back as soon as a connection or a consumer is known to be lost.

        What was delivered before may be somebody else's from now on, and nothing is delivered by
        what comes back before this was called. It may be called more often than something is lost.
        """
        ...

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call back after every loss, once what was lost is back: the connection, or a consumer.

        A consumer that was away may have missed messages for good (its queue was deleted with all
        it held), so this is the moment to ask again. It may be called more often than something
        was missed: asking again has to be harmless. If one consumer comes back later than the
        others, it is called then once more. A callback that raises is logged.
        """
        ...


def call_each(callbacks: Iterable[Callable[[], None]]) -> None:
    """Call all of them: one that raises is logged, and keeps no other from being called."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("a callback of who uses the transport failed")
