"""The transport within one process: an honest broker that keeps its queues in memory.

It takes and hands out bytes, and keeps what RabbitMQ promises: order, prefetch, redelivery, dead
letters, exclusive and expiring queues, round-robin, consumers that come back. Several transports
connect to one `MemoryBroker`, all in one event loop. Nothing survives the process.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from leveret_broker.errors import (
    BrokerBlocked,
    Expired,
    QueueMismatch,
    TransportClosed,
    TransportError,
    TransportUnreachable,
    Unroutable,
)
from leveret_broker.transport import Consumer, Delivery, Outgoing, Queue, QueueStatus


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class _Stored:
    """A message in a queue; messages sort by when they came into it."""

    position: int
    body: bytes = field(compare=False)
    correlation_id: str | None = field(compare=False)
    headers: Mapping[str, str] = field(compare=False)
    redelivered: bool = field(default=False, compare=False)


class _StoredQueue:
    """A queue's messages and whom they go to."""

    def __init__(self, declaration: Queue, owner: "MemoryTransport | None") -> None:
        self.declaration = declaration
        self.owner = owner
        self.ready: list[_Stored] = []  # a heap: what comes back takes its old place
        self.consumers: deque[_Subscription] = deque()
        self.handing_out = False
        self.expiry: asyncio.TimerHandle | None = None
        self._positions = count()

    def put(
        self, body: bytes, correlation_id: str | None, headers: Mapping[str, str]
    ) -> None:
        self.put_back(
            _Stored(
                position=next(self._positions),
                body=body,
                correlation_id=correlation_id,
                headers=headers,
            )
        )

    def put_back(self, *messages: _Stored) -> None:
        for message in messages:
            heapq.heappush(self.ready, message)
        self.hand_out_soon()

    def hand_out_soon(self) -> None:
        if not self.handing_out and self.ready and self.consumers:
            self.handing_out = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self.handing_out = False
        while self.ready and (subscription := self._next_with_room()):
            subscription.hand_out(heapq.heappop(self.ready))

    def _next_with_room(self) -> "_Subscription | None":
        for _ in range(len(self.consumers)):
            subscription = self.consumers[0]
            self.consumers.rotate(-1)
            if subscription.has_room:
                return subscription
        return None


class _Subscription:
    """One consumer's time on one queue, over one connection."""

    def __init__(
        self,
        broker: "MemoryBroker",
        queue: _StoredQueue,
        on_delivery: Callable[[Delivery], None],
        prefetch: int,
        on_end: Callable[[], None],
    ) -> None:
        self._broker = broker
        self.queue = queue
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self.on_end = on_end
        self._unsettled: dict[int, _Stored] = {}

    @property
    def has_room(self) -> bool:
        return not self._prefetch or len(self._unsettled) < self._prefetch

    @property
    def is_consuming(self) -> bool:
        return self in self.queue.consumers

    def hand_out(self, message: _Stored) -> None:
        self._unsettled[message.position] = message
        try:
            self._on_delivery(MemoryDelivery(message, self))
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "delivery callback", "exception": error}
            )

    def take_out(self, message: _Stored) -> bool:
        """Whether the message was still to be settled; now it is not."""
        return self._unsettled.pop(message.position, None) is not None

    def settled(self) -> None:
        self.queue.hand_out_soon()

    def requeue(self, *messages: _Stored) -> None:
        self.queue.put_back(*(replace(message, redelivered=True) for message in messages))

    def dead_letter(self, message: _Stored) -> None:
        self._broker.dead_letter(self.queue.declaration, message)

    def leave(self) -> None:
        """Take no more; what was handed out can be settled still."""
        if self.is_consuming:
            self.queue.consumers.remove(self)
            self._broker.watch_expiry(self.queue)

    def give_back(self) -> None:
        """The connection is gone: what is unsettled takes its old place."""
        self.leave()
        messages, self._unsettled = list(self._unsettled.values()), {}
        self.requeue(*messages)


class MemoryDelivery:
    """One message that a subscription handed out."""

    __slots__ = ("_message", "_subscription")

    def __init__(self, message: _Stored, subscription: _Subscription) -> None:
        self._message = message
        self._subscription = subscription

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def queue(self) -> str:
        return self._subscription.queue.declaration.name

    @property
    def correlation_id(self) -> str | None:
        return self._message.correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._message.headers

    @property
    def redelivered(self) -> bool:
        return self._message.redelivered

    def ack(self) -> None:
        if self._subscription.take_out(self._message):
            self._subscription.settled()

    def nack(self) -> None:
        if self._subscription.take_out(self._message):
            self._subscription.requeue(self._message)

    def reject(self) -> None:
        if self._subscription.take_out(self._message):
            self._subscription.dead_letter(self._message)
            self._subscription.settled()


class MemoryConsumer:
    """What `consume` returns: it outlives its subscriptions."""

    def __init__(
        self, queue: str, on_delivery: Callable[[Delivery], None], prefetch: int
    ) -> None:
        self.queue = queue
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._subscriptions: list[_Subscription] = []
        self._cancelled = False

    @property
    def is_consuming(self) -> bool:
        return any(one.is_consuming for one in self._subscriptions)

    async def cancel(self) -> None:
        self._cancelled = True
        for subscription in self._subscriptions:
            subscription.leave()

    def subscribe(self, broker: "MemoryBroker", on_end: Callable[[], None]) -> None:
        """Raises `Unroutable` if there is no such queue."""
        if not self._cancelled and not self.is_consuming:
            self._subscriptions.append(
                broker.subscribe(self.queue, self._on_delivery, self._prefetch, on_end)
            )

    def give_back(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.give_back()


class MemoryBroker:
    """Queues that several transports share, with the faults that a broker can have."""

    def __init__(self) -> None:
        self._queues: dict[str, _StoredQueue] = {}
        self._bindings: dict[str, dict[str, None]] = {}
        self._connections: dict[MemoryTransport, None] = {}
        self._is_running = True
        self.takes_messages = asyncio.Event()
        self.takes_messages.set()

    # -- faults -----------------------------------------------------------------------------------

    def drop_connections(self) -> None:
        """Every connection breaks; the transports connect again by themselves."""
        for connection in list(self._connections):
            connection.lose()
            if self._is_running:
                connection.come_back_soon()

    def stop(self) -> None:
        """Every connection breaks, and none is taken until `start`. Queues are kept."""
        self._is_running = False
        self.drop_connections()

    def start(self) -> None:
        """Take connections again."""
        self._is_running = True
        for connection in list(self._connections):
            connection.come_back_soon()

    def block(self) -> None:
        """Take no messages, as a broker does that runs out of memory or disk."""
        self.takes_messages.clear()

    def unblock(self) -> None:
        self.takes_messages.set()

    # -- connections ------------------------------------------------------------------------------

    def connect(self, connection: "MemoryTransport") -> None:
        if not self._is_running:
            raise TransportUnreachable("the broker in memory is stopped")
        self._connections[connection] = None

    def disconnect(self, connection: "MemoryTransport") -> None:
        self._connections.pop(connection, None)
        self.drop_exclusive(connection)

    def drop_exclusive(self, connection: "MemoryTransport") -> None:
        for name, queue in list(self._queues.items()):
            if queue.owner is connection:
                self.delete(name)

    # -- queues -----------------------------------------------------------------------------------

    def declare(self, queue: Queue, connection: "MemoryTransport") -> None:
        stored = self._queues.get(queue.name)
        if stored is None:
            owner = connection if queue.exclusive else None
            stored = self._queues[queue.name] = _StoredQueue(queue, owner)
        elif replace(stored.declaration, fanout=queue.fanout) != queue:
            raise QueueMismatch(f"the queue {queue.name!r} exists with other properties")
        elif stored.owner not in (None, connection):
            raise QueueMismatch(f"the queue {queue.name!r} belongs to another connection")
        if queue.fanout is not None:
            self._bindings.setdefault(queue.fanout, {})[queue.name] = None
        self.watch_expiry(stored)
        for other in self._connections:
            other.resubscribe_soon()

    def delete(self, name: str) -> None:
        queue = self._queues.pop(name, None)
        if queue is None:
            return
        for bound in self._bindings.values():
            bound.pop(name, None)
        if queue.expiry is not None:
            queue.expiry.cancel()
        consumers = list(queue.consumers)
        queue.consumers.clear()
        for subscription in consumers:
            subscription.on_end()

    def inspect(self, name: str) -> QueueStatus | None:
        queue = self._queues.get(name)
        if queue is None:
            return None
        return QueueStatus(messages=len(queue.ready), consumers=len(queue.consumers))

    def subscribe(
        self,
        name: str,
        on_delivery: Callable[[Delivery], None],
        prefetch: int,
        on_end: Callable[[], None],
    ) -> _Subscription:
        queue = self._queues.get(name)
        if queue is None:
            raise Unroutable(name)
        subscription = _Subscription(self, queue, on_delivery, prefetch, on_end)
        queue.consumers.append(subscription)
        self.watch_expiry(queue)
        queue.hand_out_soon()
        return subscription

    def watch_expiry(self, queue: _StoredQueue) -> None:
        """Delete an expiring queue once it was long enough without a consumer."""
        name, seconds = queue.declaration.name, queue.declaration.expires
        if queue.expiry is not None:
            queue.expiry.cancel()
            queue.expiry = None
        if seconds is not None and not queue.consumers and self._queues.get(name) is queue:
            loop = asyncio.get_running_loop()
            queue.expiry = loop.call_later(seconds, self.delete, name)

    # -- messages ---------------------------------------------------------------------------------

    def route(self, message: Outgoing) -> TransportError | None:
        """Put the message into its queues, or say why it can't be."""
        if message.fanout is not None:
            names = list(self._bindings.get(message.fanout, ()))
        elif message.queue in self._queues:
            names = [message.queue]
        else:
            return Unroutable(message.queue or "")
        for name in names:
            self._queues[name].put(
                bytes(message.body), message.correlation_id, dict(message.headers)
            )
        return None

    def dead_letter(self, queue: Queue, message: _Stored) -> None:
        if queue.dead_letter in self._queues:
            self._queues[queue.dead_letter].put(
                message.body, message.correlation_id, message.headers
            )


class MemoryTransport:
    """A `Transport`: one connection to a `MemoryBroker`. `publish_timeout` is in seconds."""

    def __init__(self, broker: MemoryBroker, *, publish_timeout: float = 30.0) -> None:
        self._broker = broker
        self._publish_timeout = publish_timeout
        self._connected = asyncio.Event()
        self._closed = False
        self._declared: dict[str, Queue] = {}
        self._consumers: list[MemoryConsumer] = []
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_durable(self) -> bool:
        return False

    async def open(self) -> None:
        if self._closed:
            raise TransportClosed("the transport is closed")
        self._broker.connect(self)
        self._connected.set()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._connected.is_set():
            self._give_back()
        self._connected.set()  # whoever waits learns that it is closed
        self._broker.disconnect(self)

    async def declare(self, *queues: Queue) -> None:
        await self._wait_connected()
        for queue in queues:
            self._broker.declare(queue, self)
            self._declared[queue.name] = queue

    async def delete(self, queue: str) -> None:
        await self._wait_connected()
        self._declared.pop(queue, None)
        self._broker.delete(queue)

    async def publish(self, message: Outgoing) -> None:
        (error,) = await self.publish_all([message])
        if error is not None:
            raise error

    async def publish_all(self, messages: Sequence[Outgoing]) -> Sequence[TransportError | None]:
        self._check_open()
        await asyncio.sleep(0)  # a broker answers in a later turn of the loop, never in this one
        try:
            async with asyncio.timeout(self._publish_timeout):
                await self._broker.takes_messages.wait()
                await self._wait_connected()
        except TimeoutError:
            return [self._too_late()] * len(messages)
        except TransportError as error:
            return [error] * len(messages)
        return [self._broker.route(message) for message in messages]

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> Consumer:
        await self._wait_connected()
        consumer = MemoryConsumer(queue, on_delivery, prefetch)
        consumer.subscribe(self._broker, self.resubscribe_soon)
        self._consumers.append(consumer)
        return consumer

    async def inspect(self, queue: str) -> QueueStatus | None:
        await self._wait_connected()
        return self._broker.inspect(queue)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    # -- called by the broker ---------------------------------------------------------------------

    def lose(self) -> None:
        """The connection breaks: what hung on it is gone."""
        self._connected.clear()
        self._give_back()
        self._broker.drop_exclusive(self)

    def come_back_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._come_back)

    def resubscribe_soon(self) -> None:
        """A consumer has lost its queue, or a queue has come up that one may be waiting for."""
        if any(not consumer.is_consuming for consumer in self._consumers):
            asyncio.get_running_loop().call_soon(self._resubscribe)

    # -- keeping it whole -------------------------------------------------------------------------

    def _come_back(self) -> None:
        if self._closed or self._connected.is_set():
            return
        for queue in self._declared.values():
            self._try(partial(self._broker.declare, queue, self))
        self._connected.set()
        self._resubscribe()
        for callback in self._callbacks:
            callback()

    def _resubscribe(self) -> None:
        if self._closed or not self._connected.is_set():
            return
        for consumer in self._consumers:
            queue = self._declared.get(consumer.queue)
            if queue is not None and not consumer.is_consuming and not consumer.is_cancelled:
                self._try(partial(self._broker.declare, queue, self))
            self._try(partial(consumer.subscribe, self._broker, self.resubscribe_soon))

    def _try(self, action: Callable[[], None]) -> None:
        """What fails is tried again when a queue is declared."""
        try:
            action()
        except TransportError:
            return

    def _give_back(self) -> None:
        for consumer in self._consumers:
            consumer.give_back()

    def _too_late(self) -> TransportError:
        if not self._broker.takes_messages.is_set():
            return BrokerBlocked(
                f"the broker took no message within {self._publish_timeout:g} s: it is blocked"
            )
        return Expired(f"no connection to the broker for {self._publish_timeout:g} s")

    async def _wait_connected(self) -> None:
        self._check_open()
        await self._connected.wait()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed("the transport is closed")
