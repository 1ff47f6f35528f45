"""Consuming from one queue of RabbitMQ, and settling what it delivers.

A delivery tag belongs to the channel that brought it: settling it anywhere else closes that channel
with an error. So a `Subscription` is one consumer on one channel, it dies with the channel, and a
`RabbitConsumer` is what the owner holds: a succession of subscriptions.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from typing import cast

import aiormq
from aiormq import exceptions

from leveret_broker.errors import Unroutable
from leveret_broker.rabbitmq_connection import (
    CLOSE_TIMEOUT,
    ConnectionLost,
    call,
    on_close,
    open_channel,
    refused,
    say_goodbye,
)
from leveret_broker.transport import COPY_HEADER, Delivery

log = logging.getLogger(__name__)

LARGEST_PREFETCH = 2000
"""More than that a quorum queue does not take."""


class Verb(Enum):
    """How a delivery is settled."""

    ACK = "ack"
    NACK = "nack"
    REJECT = "reject"


class RabbitDelivery:
    """One message that a subscription handed out."""

    __slots__ = ("_message", "_queue", "_subscription")

    def __init__(
        self, message: aiormq.abc.DeliveredMessage, queue: str, subscription: "Subscription"
    ) -> None:
        self._message = message
        self._queue = queue
        self._subscription = subscription

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def queue(self) -> str:
        return self._queue

    @property
    def exchange(self) -> str:
        return self._message.exchange or ""

    @property
    def correlation_id(self) -> str | None:
        return self._message.header.properties.correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        # Brokers and shovels add headers of other types (`x-death`): those are not ours to read.
        headers = cast(dict[str, object], self._message.header.properties.headers or {})
        return {name: value for name, value in headers.items() if isinstance(value, str)}

    @property
    def redelivered(self) -> bool:
        return bool(self._message.redelivered) or COPY_HEADER in self.headers

    def ack(self) -> None:
        self._settle(Verb.ACK)

    def nack(self) -> None:
        self._settle(Verb.NACK)

    def reject(self) -> None:
        self._settle(Verb.REJECT)

    def _settle(self, verb: Verb) -> None:
        self._subscription.settle(self._message.delivery_tag or 0, verb)


class Subscription:
    """One consumer on a channel of its own, until the channel closes or the broker cancels it.

    Settling is collected during a turn of the loop and written together.
    """

    def __init__(
        self,
        channel: aiormq.Channel,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        on_end: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._on_delivery = on_delivery
        self._on_end = on_end
        self._tag: str | None = None
        self._handed_out: set[int] = set()  # tags that may be settled
        self._decided: dict[int, Verb] = {}  # settled, not written yet
        self._unsettled: dict[int, None] = {}  # both of these, ascending: the broker's view
        self._writing: asyncio.Task[None] | None = None
        self._leaving = False
        self._closing = False
        self._started = False
        self._ended = False
        # Whatever it handed out is the broker's again. In RabbitMQ 4.3 a late acknowledgement would
        # set the consumer going once more, with nobody to hear it: so the tags die with it, and
        # its successor closes the channel.
        channel.on_consumer_cancel_callbacks.add(lambda _: self._die())
        on_close(channel, self._die)

    @property
    def is_alive(self) -> bool:
        """Whether the broker would hand it a message now."""
        return self._started and not self._ended and not self._channel.is_closed

    @property
    def is_settled(self) -> bool:
        """Whether nothing that it handed out has yet to be settled, or ever can be."""
        return self._channel.is_closed or not self._unsettled

    async def start(self, *, prefetch: int) -> None:
        """Raises `Unroutable`, `ConnectionLost`, or `TransportError` if the broker forbids it."""
        try:
            await call(self._channel.basic_qos(prefetch_count=min(prefetch, LARGEST_PREFETCH)))
            consuming = await call(self._channel.basic_consume(self._queue, self._deliver))
        except exceptions.ChannelNotFoundEntity as error:
            raise Unroutable(self._queue) from error
        except exceptions.ChannelClosed as error:
            raise refused(f"to consume from {self._queue!r}", error) from error
        self._tag = consuming.consumer_tag
        if self._ended:
            raise ConnectionLost("the broker cancelled the consumer")
        self._started = True

    def settle(self, tag: int, verb: Verb) -> None:
        """Settle once; later ones, and those after the channel's end, do nothing."""
        if tag not in self._handed_out or self._closing or self._channel.is_closed:
            return
        self._handed_out.remove(tag)
        self._decided[tag] = verb
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())

    async def cancel(self) -> None:
        """Take no more; the channel stays until the last delivery is settled."""
        self._leaving = True
        if self._tag is not None and self.is_alive:
            with suppress(ConnectionLost, exceptions.AMQPError):
                await call(self._channel.basic_cancel(self._tag))
        self._end()
        await self._leave_if_settled()

    async def release(self) -> None:
        """A successor takes over: leave the channel as soon as all is settled."""
        self._leaving = True
        await self._leave_if_settled()

    async def close(self) -> None:
        """Write what was settled, and give back the rest."""
        self._leaving = True
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=CLOSE_TIMEOUT)
        self._closing = True  # a frame after the channel's close would break the connection
        self._end()
        await say_goodbye(self._channel)
        self._die()

    async def _deliver(self, message: aiormq.abc.DeliveredMessage) -> None:
        tag = message.delivery_tag or 0
        self._unsettled[tag] = None
        self._handed_out.add(tag)
        if self._leaving:
            self.settle(tag, Verb.NACK)
            return
        try:
            self._on_delivery(RabbitDelivery(message, self._queue, self))
        except Exception:  # aiormq would tell it only when it collects the garbage
            log.exception("a delivery callback failed")

    async def _write(self) -> None:
        try:
            while self._decided:
                decided, self._decided = self._decided, {}
                with suppress(exceptions.AMQPError, RuntimeError):  # gone: the broker requeues
                    await self._write_batch(decided)
            if self._leaving and not self._unsettled:
                await say_goodbye(self._channel)
        finally:
            self._writing = None

    async def _write_batch(self, decided: dict[int, Verb]) -> None:
        acks: set[int] = set()
        for tag, verb in decided.items():
            if verb is Verb.ACK:
                acks.add(tag)
                continue
            del self._unsettled[tag]
            await self._channel.basic_reject(tag, requeue=verb is Verb.NACK, wait=False)
        for tag, multiple in self._merged(acks):
            await self._channel.basic_ack(tag, multiple=multiple, wait=False)

    def _merged(self, acks: set[int]) -> list[tuple[int, bool]]:
        """Frames that acknowledge these tags: one for all up to the first that is unsettled."""
        first: list[int] = []
        for tag in self._unsettled:
            if tag not in acks:
                break
            first.append(tag)
        rest = acks.difference(first)
        for tag in acks:
            del self._unsettled[tag]
        merged = [(first[-1], len(first) > 1)] if first else []
        return merged + [(tag, False) for tag in sorted(rest)]

    async def _leave_if_settled(self) -> None:
        if not self._unsettled and self._writing is None:
            await say_goodbye(self._channel)

    def _end(self) -> None:
        """No more deliveries; those that were handed out can be settled still."""
        if not self._ended:
            self._ended = True
            if self._started and not self._leaving:
                self._on_end()

    def _die(self) -> None:
        """The channel is gone, or of no use any more, and every tag with it."""
        self._handed_out.clear()
        self._unsettled.clear()
        self._decided.clear()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._end()


class RabbitConsumer:
    """What `consume` returns: it outlives its subscriptions."""

    def __init__(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        on_end: Callable[[], None],
    ) -> None:
        self.queue = queue
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._on_end = on_end
        self._subscription: Subscription | None = None
        self._cancelled = False

    @property
    def is_consuming(self) -> bool:
        return self._subscription is not None and self._subscription.is_alive

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled

    @property
    def is_over(self) -> bool:
        """Whether it was cancelled and all that it handed out is settled."""
        return self._cancelled and (self._subscription is None or self._subscription.is_settled)

    async def subscribe(self, connection: aiormq.Connection) -> None:
        """Consume over this connection, unless it does already or was cancelled.

        Raises `Unroutable`, `TransportError` or `ConnectionLost`.
        """
        if self.is_consuming or self._cancelled:
            return
        if self._subscription is not None:
            await self._subscription.release()
        channel = await open_channel(connection)
        subscription = Subscription(channel, self.queue, self._on_delivery, self._on_end)
        try:
            await subscription.start(prefetch=self._prefetch)
        except BaseException:
            await say_goodbye(channel)
            raise
        self._subscription = subscription
        if self._cancelled:
            await subscription.cancel()

    async def cancel(self) -> None:
        self._cancelled = True
        if self._subscription is not None:
            await self._subscription.cancel()

    async def close(self) -> None:
        """Stop, and give back what is not settled."""
        self._cancelled = True
        if self._subscription is not None:
            await self._subscription.close()
