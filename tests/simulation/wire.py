"""A `Transport` over the simulated network: both ends of a connection."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

from leveret_broker.errors import Expired, TransportClosed, TransportError
from leveret_broker.memory import MemoryTransport
from leveret_broker.transport import (
    Consumer,
    Delivery,
    Exchange,
    Outgoing,
    Queue,
    QueueStatus,
    call_each,
)
from tests.simulation.loop import Process
from tests.simulation.network import TRANSIENT, Network, Stream

T = TypeVar("T")

Errors = list[TransportError | None]
Verb = Literal["ack", "nack", "reject"]

CONNECTED_WITHIN = 30.0
"""Seconds that a transport waits for a connection."""


class Lost(Exception):
    """The connection broke before the answer came."""


class Wire:
    """A `Transport` over this network: the client's end, in the client's process."""

    def __init__(self, network: Network, process: Process) -> None:
        self.process = process
        self._network = network
        self._end = MemoryTransport(network.queues)
        """The broker's end; only the broker's process touches it."""
        self._end.on_reconnect(self._end_is_back)
        self._up = Stream(network, network.process)
        self._down = Stream(network, process)
        self._epoch = 0
        """Grows when the connection breaks."""
        self._seen = 0
        """The epoch as the client knows it."""
        self._connected = asyncio.Event()
        self._closed = False
        self._asked: set[asyncio.Future[Any]] = set()
        self._callbacks: list[Callable[[], None]] = []
        self._on_loss: list[Callable[[], None]] = []
        network.add(self)

    # -- the contract -----------------------------------------------------------------------------

    @property
    def is_durable(self) -> bool:
        return True

    async def open(self) -> None:
        self._connected.set()
        await self._ask(self._end.open)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._up.send(self._hang_up)
            self._fail_asked(TransportClosed("the transport is closed"))

    async def declare(self, *declared: Queue | Exchange) -> None:
        self._network.seen.update(dict.fromkeys(queue.name for queue in declared))
        await self._ask(lambda: self._end.declare(*declared))

    async def has_exchange(self, name: str) -> bool:
        return await self._ask(lambda: self._end.has_exchange(name))

    async def delete(self, queue: str) -> None:
        await self._ask(lambda: self._end.delete(queue))

    async def publish(self, message: Outgoing) -> None:
        (error,) = await self.publish_all([message])
        if error is not None:
            raise error

    async def publish_all(self, messages: Sequence[Outgoing]) -> Sequence[TransportError | None]:
        marked = [each if each.persistent else _transient(each) for each in messages]
        copies = [each.as_copy() for each in marked]
        try:
            answer = self._asked_once(partial(self._take, marked, copies))
            while True:
                try:
                    errors: Errors = await (await answer)
                    return errors
                except Lost:
                    answer = self._asked_once(partial(self._take, copies, copies))
        except Expired as error:
            return [error] * len(messages)

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> Consumer:
        def arrived(delivery: Delivery) -> None:
            epoch = self._epoch
            self._down.send(lambda: self._hand_over(epoch, delivery, on_delivery))

        consumer = await self._ask(lambda: self._end.consume(queue, arrived, prefetch=prefetch))
        return WireConsumer(self, consumer)

    async def inspect(self, queue: str) -> QueueStatus | None:
        return await self._ask(lambda: self._end.inspect(queue))

    def on_loss(self, callback: Callable[[], None]) -> None:
        self._on_loss.append(callback)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def cancel(self, consumer: Consumer) -> None:
        await self._ask(consumer.cancel)

    def settle(self, epoch: int, verb: Verb, delivery: Delivery) -> None:
        """Tell the broker, unless that delivery's connection is gone."""

        def arrive() -> None:
            if epoch == self._epoch:
                self._network.settled(self.process.name, verb, delivery)
                getattr(delivery, verb)()

        self._up.send(arrive)

    # -- the client's end -------------------------------------------------------------------------

    async def _ask(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have the broker do something, again if the connection broke before its answer."""
        while True:
            try:
                return await (await self._asked_once(partial(self._perform, operation)))
            except Lost:
                continue

    async def _asked_once(
        self, arrive: Callable[[int, asyncio.Future[T]], None]
    ) -> asyncio.Future[T]:
        """Send something, and return what will hold the answer, or the loss of the connection."""
        if self._closed:
            raise TransportClosed("the transport is closed")
        if not self._connected.is_set():
            await self._until_connected()
        epoch = self._seen
        answer: asyncio.Future[T] = self.process.create_future()
        self._asked.add(answer)
        answer.add_done_callback(self._asked.discard)
        self._up.send(partial(self._arrive, epoch, arrive, answer))
        return answer

    async def _until_connected(self) -> None:
        try:
            async with asyncio.timeout(CONNECTED_WITHIN):
                await self._connected.wait()
        except TimeoutError:
            raise Expired("no connection to the broker") from None

    def _fail_asked(self, error: Exception) -> None:
        for answer in list(self._asked):
            if not answer.done():
                answer.set_exception(error)

    def _hand_over(
        self, epoch: int, delivery: Delivery, on_delivery: Callable[[Delivery], None]
    ) -> None:
        if epoch == self._seen and not self._closed:
            self._network.delivered(self.process.name, delivery)
            on_delivery(WireDelivery(self, epoch, delivery))

    def _lose(self, epoch: int) -> None:
        """The client learns that the connection broke."""
        if epoch > self._seen:
            self._seen = epoch
            self._connected.clear()
            self._fail_asked(Lost())
            call_each(self._on_loss)

    def _be_back(self, epoch: int) -> None:
        if epoch == self._seen and not self._closed:
            self._connected.set()
            call_each(self._callbacks)

    # -- the broker's end -------------------------------------------------------------------------

    def _arrive(
        self,
        epoch: int,
        arrive: Callable[[int, asyncio.Future[T]], None],
        answer: asyncio.Future[T],
    ) -> None:
        if epoch == self._epoch:
            arrive(epoch, answer)

    def _perform(
        self,
        operation: Callable[[], Coroutine[Any, Any, T]],
        epoch: int,
        answer: asyncio.Future[T],
    ) -> None:
        def done(task: asyncio.Task[T]) -> None:
            if error := task.exception():
                self._reply(epoch, answer, partial(answer.set_exception, error))
            else:
                self._reply(epoch, answer, partial(answer.set_result, task.result()))

        self._network.process.create_task(operation()).add_done_callback(done)

    def _take(
        self,
        messages: Sequence[Outgoing],
        copies: Sequence[Outgoing],
        epoch: int,
        answer: asyncio.Future[Errors],
    ) -> None:
        """Route what is published; sometimes the client sees no confirm and publishes again."""
        rng, weather = self._network.world.rng, self._network.weather
        errors = self._route(messages)
        confirm = partial(self._reply, epoch, answer, partial(answer.set_result, errors))
        if rng.random() >= weather.doubled:
            confirm()
            return

        def again() -> None:
            if epoch == self._epoch and not self.process.is_closed():
                self._route(copies)
                confirm()

        self._network.process.call_later(rng.random() * weather.delay, again)

    def _route(self, messages: Sequence[Outgoing]) -> Errors:
        for message in messages:
            self._network.published(self.process.name, message)
        return [self._network.queues.route(message) for message in messages]

    def _reply(self, epoch: int, answer: asyncio.Future[T], settle: Callable[[], object]) -> None:
        def arrive() -> None:
            if epoch == self._seen and not answer.done():
                settle()

        self._down.send(arrive)

    def break_off(self, *, come_back: bool = True) -> None:
        """The connection breaks. Called in the broker's process."""
        self._epoch += 1
        epoch = self._epoch
        self._end.lose()
        self.process.call_soon(self._lose, epoch)
        if come_back:
            self._network.process.call_later(self._network.late(), self.come_back)

    def come_back(self) -> None:
        if self._network.is_up:
            self._end.come_back_soon()

    def hang_up(self, after: float) -> None:
        """Its process is gone; the broker notices after so many seconds."""
        self._network.process.call_later(after, self._hang_up)

    def _end_is_back(self) -> None:
        epoch = self._epoch
        self._down.send(lambda: self._be_back(epoch))

    def _hang_up(self) -> None:
        self._epoch += 1
        self._network.forget(self)
        self._network.process.create_task(self._end.close())


def _transient(message: Outgoing) -> Outgoing:
    return replace(message, headers={**message.headers, TRANSIENT: ""})


class WireConsumer:
    """What `consume` returns."""

    def __init__(self, wire: Wire, consumer: Consumer) -> None:
        self._wire = wire
        self._consumer = consumer

    @property
    def is_consuming(self) -> bool:
        return self._consumer.is_consuming

    async def cancel(self) -> None:
        await self._wire.cancel(self._consumer)


class WireDelivery:
    """A delivery whose settling travels as well."""

    __slots__ = ("_delivery", "_epoch", "_wire")

    def __init__(self, wire: Wire, epoch: int, delivery: Delivery) -> None:
        self._wire = wire
        self._epoch = epoch
        self._delivery = delivery

    @property
    def body(self) -> bytes:
        return self._delivery.body

    @property
    def queue(self) -> str:
        return self._delivery.queue

    @property
    def exchange(self) -> str:
        return self._delivery.exchange

    @property
    def correlation_id(self) -> str | None:
        return self._delivery.correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._delivery.headers

    @property
    def redelivered(self) -> bool:
        return self._delivery.redelivered

    def ack(self) -> None:
        self._wire.settle(self._epoch, "ack", self._delivery)

    def nack(self) -> None:
        self._wire.settle(self._epoch, "nack", self._delivery)

    def reject(self) -> None:
        self._wire.settle(self._epoch, "reject", self._delivery)
