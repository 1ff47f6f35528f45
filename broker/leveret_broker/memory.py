"""The transport within one process: an honest broker that keeps its queues in memory.

It takes and hands out bytes, and keeps what RabbitMQ promises: order, prefetch, redelivery, dead
letters, exclusive and expiring queues, round-robin, consumers that come back. Several transports
connect to one `MemoryBroker`, all in one event loop. Nothing survives the process.
"""

import asyncio
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import replace

from leveret_broker.errors import (
    BrokerBlocked,
    Expired,
    QueueMismatch,
    TransportClosed,
    TransportError,
    TransportUnreachable,
    Unroutable,
)
from leveret_broker.memory_queues import Stored, StoredQueue, Subscription
from leveret_broker.transport import (
    Consumer,
    Delivery,
    Exchange,
    Outgoing,
    Queue,
    QueueStatus,
    call_each,
)


class MemoryConsumer:
    """What `consume` returns: it outlives its subscriptions."""

    def __init__(self, queue: str, on_delivery: Callable[[Delivery], None], prefetch: int) -> None:
        self.queue = queue
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._subscriptions: list[Subscription] = []
        self._cancelled = False

    @property
    def is_lost(self) -> bool:
        """Whether it should be consuming and is not."""
        return not (self._cancelled or self.is_consuming)

    @property
    def is_consuming(self) -> bool:
        return any(one.is_consuming for one in self._subscriptions)

    async def cancel(self) -> None:
        self._cancelled = True
        for subscription in self._subscriptions:
            subscription.leave()

    @property
    def is_over(self) -> bool:
        """Whether it was cancelled and all that it handed out is settled."""
        return self._cancelled and all(one.is_settled for one in self._subscriptions)

    def subscribe(self, broker: "MemoryBroker", on_end: Callable[[], None]) -> None:
        """Raises `Unroutable` if there is no such queue."""
        queue = broker.find(self.queue)
        subscription = Subscription(
            queue, self._on_delivery, prefetch=self._prefetch, on_end=on_end
        )
        self._subscriptions.append(subscription)
        queue.add(subscription)

    def give_back(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.give_back()


class MemoryBroker:
    """Queues that several transports share, with the faults that a broker can have."""

    def __init__(self) -> None:
        self._queues: dict[str, StoredQueue] = {}
        self._bindings: dict[str, dict[str, None]] = {}
        """The queues that are bound to each exchange."""
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
        is_new = stored is None
        if stored is None:
            stored = self._queues[queue.name] = StoredQueue(
                queue,
                owner=connection if queue.exclusive else None,
                on_reject=self._dead_letter,
                on_expiry=self.delete,
            )
        elif replace(stored.declaration, fanouts=queue.fanouts) != queue:
            raise QueueMismatch(f"the queue {queue.name!r} exists with other properties")
        elif stored.owner not in (None, connection):
            raise QueueMismatch(f"the queue {queue.name!r} belongs to another connection")
        for fanout in queue.fanouts:
            self._bindings.setdefault(fanout, {})[queue.name] = None
        stored.restart_expiry()
        if is_new:
            for other in self._connections:
                other.resubscribe_soon()

    def declare_exchange(self, exchange: Exchange) -> None:
        """Raises `Unroutable` if a queue that it is to be bound to is missing."""
        bound = self._bindings.setdefault(exchange.name, {})
        for name in exchange.queues:
            self.find(name)
            bound[name] = None

    def has_exchange(self, name: str) -> bool:
        return name in self._bindings

    def delete(self, name: str) -> None:
        queue = self._queues.pop(name, None)
        if queue is None:
            return
        for bound in self._bindings.values():
            bound.pop(name, None)
        queue.stop_expiry()
        consumers = list(queue.consumers)
        queue.consumers.clear()
        for subscription in consumers:
            subscription.on_end()

    def inspect(self, name: str) -> QueueStatus | None:
        queue = self._queues.get(name)
        if queue is None:
            return None
        return QueueStatus(messages=len(queue.ready), consumers=len(queue.consumers))

    def find(self, name: str) -> StoredQueue:
        """Raises `Unroutable` if there is no such queue."""
        queue = self._queues.get(name)
        if queue is None:
            raise Unroutable(name)
        return queue

    # -- messages ---------------------------------------------------------------------------------

    def route(self, message: Outgoing) -> TransportError | None:
        """Put the message into its queues, or say why it can't be."""
        if message.fanout is not None:
            names = list(self._bindings.get(message.fanout, ()))
        elif message.queue is not None and message.queue in self._reached_through(message.exchange):
            names = [message.queue]
        else:
            return Unroutable(message.queue or "")
        for name in names:
            self._queues[name].put(
                bytes(message.body),
                message.correlation_id,
                dict(message.headers),
                message.fanout or message.exchange or "",
            )
        return None

    def _reached_through(self, exchange: str | None) -> Container[str]:
        return self._queues if exchange is None else self._bindings.get(exchange, {})

    def _dead_letter(self, queue: Queue, message: Stored) -> None:
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
        self._opened = False
        self._closed = False
        self._declared: dict[str, Queue | Exchange] = {}
        self._consumers: list[MemoryConsumer] = []
        self._callbacks: list[Callable[[], None]] = []
        self._on_loss: list[Callable[[], None]] = []

    @property
    def is_durable(self) -> bool:
        return False

    async def open(self) -> None:
        if self._closed:
            raise TransportClosed("the transport is closed")
        self._broker.connect(self)
        self._opened = True
        self._connected.set()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._connected.is_set():
            self._give_back()
        self._connected.set()  # whoever waits learns that it is closed
        self._broker.disconnect(self)

    async def declare(self, *declared: Queue | Exchange) -> None:
        await self._wait_connected()
        for one in declared:
            self._declare(one)
            self._declared[one.name] = one

    async def has_exchange(self, name: str) -> bool:
        await self._wait_connected()
        return self._broker.has_exchange(name)

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
            await self._wait_unblocked()
            await self._wait_connected()
        except TransportError as error:
            return [error] * len(messages)
        return [self._broker.route(message) for message in messages]

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> Consumer:
        await self._wait_connected()
        consumer = MemoryConsumer(queue, on_delivery, prefetch)
        consumer.subscribe(self._broker, self.resubscribe_soon)
        self._consumers = [other for other in self._consumers if not other.is_over]
        self._consumers.append(consumer)
        return consumer

    async def inspect(self, queue: str) -> QueueStatus | None:
        await self._wait_connected()
        return self._broker.inspect(queue)

    def on_loss(self, callback: Callable[[], None]) -> None:
        self._on_loss.append(callback)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    # -- called by the broker ---------------------------------------------------------------------

    def lose(self) -> None:
        """The connection breaks: what hung on it is gone."""
        self._connected.clear()
        self._give_back()
        self._broker.drop_exclusive(self)
        call_each(self._on_loss)

    def come_back_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._come_back)

    def resubscribe_soon(self) -> None:
        """A consumer has lost its queue, or a queue has come up that one may be waiting for."""
        if any(consumer.is_lost for consumer in self._consumers):
            call_each(self._on_loss)
            asyncio.get_running_loop().call_soon(self._resubscribe)

    # -- keeping it whole -------------------------------------------------------------------------

    def _come_back(self) -> None:
        if self._closed or self._connected.is_set():
            return
        for declared in self._declared.values():
            with suppress(TransportError):
                self._declare(declared)
        self._connected.set()
        self._consume_again()
        call_each(self._callbacks)

    def _resubscribe(self) -> None:
        if self._closed or not self._connected.is_set():
            return
        if self._consume_again():
            call_each(self._callbacks)

    def _consume_again(self) -> bool:
        """Returns whether a consumer came back."""
        came_back = False
        for consumer in self._consumers:
            if not consumer.is_lost:
                continue
            with suppress(TransportError):  # tried again when a queue is declared
                self._declare_again(consumer.queue)
                consumer.subscribe(self._broker, self.resubscribe_soon)
                came_back = True
        return came_back

    def _declare(self, declared: Queue | Exchange) -> None:
        if isinstance(declared, Exchange):
            self._broker.declare_exchange(declared)
        else:
            self._broker.declare(declared, self)

    def _declare_again(self, queue: str) -> None:
        """A queue that may have been deleted, and with it what it was bound to."""
        if queue in self._declared:
            self._declare(self._declared[queue])
        for declared in self._declared.values():
            if isinstance(declared, Exchange) and queue in declared.queues:
                self._declare(declared)

    def _give_back(self) -> None:
        for consumer in self._consumers:
            consumer.give_back()

    async def _wait_unblocked(self) -> None:
        try:
            async with asyncio.timeout(self._publish_timeout):
                await self._broker.takes_messages.wait()
        except TimeoutError:
            raise BrokerBlocked(
                f"the broker took no message within {self._publish_timeout:g} s: it is blocked"
            ) from None

    async def _wait_connected(self) -> None:
        self._check_open()
        try:
            async with asyncio.timeout(self._publish_timeout):
                await self._connected.wait()
        except TimeoutError:
            raise Expired(f"no connection to the broker for {self._publish_timeout:g} s") from None
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed("the transport is closed")
        if not self._opened:
            raise TransportClosed("the transport was not opened")
