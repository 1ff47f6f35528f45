"""The network between the processes and the broker in memory: late, unreliable, and honest.

It does what a real one may do, and no more:

- Each direction of a connection keeps its order. Between connections there is none.
- A broken connection loses what was on its way: requests, confirms, acknowledgements, deliveries.
  What was published and not confirmed is published again.
- A confirm can be so late that the publisher publishes again: both copies arrive, the second behind
  what others published meanwhile.
- A broker that starts again has lost what is not persistent, and nothing else.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

from leveret_broker.errors import Expired, TransportClosed, TransportError
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import (
    Consumer,
    Delivery,
    Outgoing,
    Queue,
    QueueStatus,
    call_each,
)
from tests.simulation.loop import Process, World

T = TypeVar("T")

Verb = Literal["ack", "nack", "reject"]

TRANSIENT = "simulated-transient"
"""The header of messages that don't survive a restart of the broker."""
COPY = "simulated-copy"
"""The header of what is published a second time, where transports mark that."""
PUBLISH_WITHIN = 30.0
"""Seconds that a transport waits for a connection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weather:
    """How bad the network is. Probabilities of each message."""

    late: float = 0.0
    """Up to `delay` seconds later than at once."""
    delay: float = 0.5
    doubled: float = 0.0


FAIR = Weather()


class Lost(Exception):
    """The connection broke before the answer came."""


class Network:
    """The broker, in a process that is never killed, and all connections to it."""

    def __init__(self, world: World, *, marks_copies: bool = False) -> None:
        """`marks_copies`: what is published a second time arrives as redelivered."""
        self.world = world
        self.marks_copies = marks_copies
        self.process = world.process("broker")
        self.queues = MemoryBroker()
        self.weather = FAIR
        self.published: Callable[[str, Outgoing], None] = lambda _who, _message: None
        """Called for everything that reaches the broker."""
        self.delivered: Callable[[str, Delivery], None] = lambda _who, _delivery: None
        """Called for everything that reaches a client."""
        self.settled: Callable[[str, str, Delivery], None] = lambda _who, _verb, _delivery: None
        """Called for every delivery that is settled, with the verb."""
        self.seen: dict[str, None] = {}
        """The names of all queues that were ever declared."""
        self._wires: list[Wire] = []
        self._is_up = True

    def wire(self, process: Process) -> "Wire":
        """A transport for a process."""
        wire = Wire(self, process)
        self._wires.append(wire)
        return wire

    def wires_of(self, process: Process) -> list["Wire"]:
        return [wire for wire in self._wires if wire.process is process]

    def forget(self, wire: "Wire") -> None:
        if wire in self._wires:
            self._wires.remove(wire)

    def post(self, action: Callable[[], object]) -> None:
        """Do something at the broker, in its next turn."""
        self.process.call_soon(action)

    def late(self) -> float:
        """Seconds that the next message takes."""
        rng, weather = self.world.rng, self.weather
        return rng.random() ** 3 * weather.delay if rng.random() < weather.late else 0.0

    def stop(self) -> None:
        """The broker goes down with its connections; the queues are kept."""
        self._is_up = False
        for wire in list(self._wires):
            wire.break_off(come_back=False)
        self.queues.stop()
        for name in self.seen:
            self._forget_transient(name)

    def start(self) -> None:
        """The broker comes up, and its clients connect again, in any order."""
        self._is_up = True
        self.queues.start()
        for wire in list(self._wires):
            wire.come_back()

    @property
    def is_up(self) -> bool:
        return self._is_up

    def purge(self, queue: str) -> None:
        """Somebody throws away what waits in a queue."""
        if self.queues.inspect(queue) is not None:
            self.queues.find(queue).ready.clear()

    def _forget_transient(self, queue: str) -> None:
        if self.queues.inspect(queue) is not None:
            ready = self.queues.find(queue).ready
            ready[:] = sorted(each for each in ready if TRANSIENT not in each.headers)

    def delete(self, queue: str) -> None:
        """Somebody deletes a queue under everybody."""
        self.queues.delete(queue)


class Stream:
    """One direction of a connection: what is sent arrives in order, or not at all."""

    def __init__(self, network: Network, to: Process) -> None:
        self._network = network
        self._to = to
        self._arrives = 0.0

    def send(self, action: Callable[[], object]) -> None:
        now = self._network.world.time
        arrives = max(self._arrives, now + self._network.late())
        if arrives == now and self._arrives < now:
            self._to.call_soon(action)
        else:
            self._arrives = arrives
            self._to.call_at(arrives, action)


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

    async def declare(self, *queues: Queue) -> None:
        self._network.seen.update(dict.fromkeys(queue.name for queue in queues))
        await self._ask(lambda: self._end.declare(*queues))

    async def delete(self, queue: str) -> None:
        await self._ask(lambda: self._end.delete(queue))

    async def publish(self, message: Outgoing) -> None:
        (error,) = await self.publish_all([message])
        if error is not None:
            raise error

    async def publish_all(self, messages: Sequence[Outgoing]) -> Sequence[TransportError | None]:
        try:
            copies = iter((False,))
            return await self._ask(lambda: self._published(messages, next(copies, True)))
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
            if self._closed:
                raise TransportClosed("the transport is closed")
            if not self._connected.is_set():
                await self._until_connected()
            epoch = self._seen
            answer: asyncio.Future[T] = self.process.create_future()
            self._asked.add(answer)
            self._up.send(partial(self._arrive, epoch, operation, answer))
            try:
                return await answer
            except Lost:
                continue
            finally:
                self._asked.discard(answer)

    async def _until_connected(self) -> None:
        try:
            async with asyncio.timeout(PUBLISH_WITHIN):
                await self._connected.wait()
        except TimeoutError:
            raise Expired("no connection to the broker") from None

    def _fail_asked(self, error: Exception) -> None:
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(error)
        self._asked.clear()

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

    def _be_back(self, epoch: int) -> None:
        if epoch == self._seen and not self._closed:
            self._connected.set()
            call_each(self._callbacks)

    # -- the broker's end -------------------------------------------------------------------------

    def _arrive(
        self, epoch: int, operation: Callable[[], Coroutine[Any, Any, T]], answer: asyncio.Future[T]
    ) -> None:
        if epoch == self._epoch:
            task = self._network.process.create_task(operation())
            task.add_done_callback(lambda task: self._reply(epoch, task, answer))

    def _reply(self, epoch: int, task: asyncio.Task[T], answer: asyncio.Future[T]) -> None:
        error = task.exception()

        def arrive() -> None:
            if epoch != self._seen or answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        self._down.send(arrive)

    async def _published(
        self, messages: Sequence[Outgoing], is_copy: bool
    ) -> list[TransportError | None]:
        rng, weather = self._network.world.rng, self._network.weather
        for message in messages:
            self._network.published(self.process.name, message)
        marked = [
            message if message.persistent else _with(message, TRANSIENT) for message in messages
        ]
        copies = marked
        if self._network.marks_copies:
            copies = [_with(message, COPY) for message in marked]
        errors = list(await self._end.publish_all(copies if is_copy else marked))
        if rng.random() < weather.doubled:
            await asyncio.sleep(rng.random() * weather.delay)
            if not self.process.is_closed():  # it has seen no confirm, and publishes again
                await self._end.publish_all(copies)
        return errors

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


def _with(message: Outgoing, header: str) -> Outgoing:
    return replace(message, headers={**message.headers, header: ""})


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
    def correlation_id(self) -> str | None:
        return self._delivery.correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._delivery.headers

    @property
    def redelivered(self) -> bool:
        return self._delivery.redelivered or COPY in self._delivery.headers

    def ack(self) -> None:
        self._wire.settle(self._epoch, "ack", self._delivery)

    def nack(self) -> None:
        self._wire.settle(self._epoch, "nack", self._delivery)

    def reject(self) -> None:
        self._wire.settle(self._epoch, "reject", self._delivery)
