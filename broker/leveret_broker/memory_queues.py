"""The queues of the broker in memory: what waits in them, who consumes, what has to be settled."""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from leveret_broker.transport import COPY_HEADER, Delivery, Queue


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Stored:
    """A message in a queue; messages sort by when they came into it."""

    position: int
    body: bytes = field(compare=False)
    exchange: str = field(compare=False)
    correlation_id: str | None = field(compare=False)
    headers: Mapping[str, str] = field(compare=False)
    redelivered: bool = field(default=False, compare=False)


class StoredQueue:
    """A queue's messages and whom they go to.

    `on_reject` gets what consumers reject; `on_expiry` is called after the queue's time without a
    consumer.
    """

    def __init__(
        self,
        declaration: Queue,
        *,
        owner: object | None,
        on_reject: Callable[[Queue, Stored], None],
        on_expiry: Callable[[str], None],
    ) -> None:
        self.declaration = declaration
        self.owner = owner
        self._on_reject = on_reject
        self._on_expiry = on_expiry
        self.ready: list[Stored] = []  # a heap: what comes back takes its old place
        self.consumers: deque[Subscription] = deque()
        self._handing_out = False
        self._expiry: asyncio.TimerHandle | None = None
        self._positions = count()

    def put(
        self,
        body: bytes,
        correlation_id: str | None,
        headers: Mapping[str, str],
        exchange: str = "",
    ) -> None:
        self.put_back(
            Stored(
                position=next(self._positions),
                body=body,
                exchange=exchange,
                correlation_id=correlation_id,
                headers=headers,
            )
        )

    def put_back(self, *messages: Stored) -> None:
        for message in messages:
            heapq.heappush(self.ready, message)
        self.hand_out_soon()

    def hand_out_soon(self) -> None:
        if not self._handing_out and self.ready and self.consumers:
            self._handing_out = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def reject(self, message: Stored) -> None:
        self._on_reject(self.declaration, message)

    def add(self, subscription: "Subscription") -> None:
        self.consumers.append(subscription)
        self.stop_expiry()
        self.hand_out_soon()

    def remove(self, subscription: "Subscription") -> None:
        self.consumers.remove(subscription)
        self.restart_expiry()

    def restart_expiry(self) -> None:
        """From now on, an expiring queue has its full time to get a consumer."""
        self.stop_expiry()
        if self.declaration.expires is not None and not self.consumers:
            self._expiry = asyncio.get_running_loop().call_later(
                self.declaration.expires, self._on_expiry, self.declaration.name
            )

    def stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _hand_out(self) -> None:
        self._handing_out = False
        while self.ready and (subscription := self._next_with_room()):
            subscription.hand_out(heapq.heappop(self.ready))

    def _next_with_room(self) -> "Subscription | None":
        for _ in range(len(self.consumers)):
            subscription = self.consumers[0]
            self.consumers.rotate(-1)
            if subscription.has_room:
                return subscription
        return None


class Subscription:
    """One consumer's time on one queue, over one connection."""

    def __init__(
        self,
        queue: StoredQueue,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        on_end: Callable[[], None],
    ) -> None:
        self.queue = queue
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self.on_end = on_end
        self._unsettled: dict[int, Stored] = {}

    @property
    def has_room(self) -> bool:
        return not self._prefetch or len(self._unsettled) < self._prefetch

    @property
    def is_consuming(self) -> bool:
        return self in self.queue.consumers

    @property
    def is_settled(self) -> bool:
        return not self._unsettled

    def hand_out(self, message: Stored) -> None:
        self._unsettled[message.position] = message
        try:
            self._on_delivery(MemoryDelivery(message, self))
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "delivery callback", "exception": error}
            )

    def take_out(self, message: Stored) -> bool:
        """Whether the message was still to be settled; now it is not."""
        return self._unsettled.pop(message.position, None) is not None

    def requeue(self, *messages: Stored) -> None:
        self.queue.put_back(*(replace(message, redelivered=True) for message in messages))

    def leave(self) -> None:
        """Take no more; what was handed out can be settled still."""
        if self.is_consuming:
            self.queue.remove(self)

    def give_back(self) -> None:
        """The connection is gone: what is unsettled takes its old place."""
        self.leave()
        messages, self._unsettled = list(self._unsettled.values()), {}
        self.requeue(*messages)


class MemoryDelivery:
    """One message that a subscription handed out."""

    __slots__ = ("_message", "_subscription")

    def __init__(self, message: Stored, subscription: Subscription) -> None:
        self._message = message
        self._subscription = subscription

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def queue(self) -> str:
        return self._subscription.queue.declaration.name

    @property
    def exchange(self) -> str:
        return self._message.exchange

    @property
    def correlation_id(self) -> str | None:
        return self._message.correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._message.headers

    @property
    def redelivered(self) -> bool:
        return self._message.redelivered or COPY_HEADER in self._message.headers

    def ack(self) -> None:
        if self._subscription.take_out(self._message):
            self._subscription.queue.hand_out_soon()

    def nack(self) -> None:
        if self._subscription.take_out(self._message):
            self._subscription.requeue(self._message)

    def reject(self) -> None:
        if self._subscription.take_out(self._message):
            self._subscription.queue.reject(self._message)
            self._subscription.queue.hand_out_soon()
