"""Consuming from one queue of RabbitMQ, and settling what it delivers.

A delivery tag belongs to the channel that brought it: settling it anywhere else closes that channel
with an error. So a `Subscription` is one consumer on one channel, it dies with the channel, and a
`RabbitConsumer` is what the owner holds: a succession of subscriptions.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import aiormq
from aiormq import exceptions

from leveret_broker import rabbitmq_frames as frames
from leveret_broker.errors import Unroutable
from leveret_broker.rabbitmq_connection import (
    ConnectionLost,
    call,
    on_close,
    open_channel,
    refused,
    say_goodbye,
)
from leveret_broker.rabbitmq_settlements import Settlements
from leveret_broker.rabbitmq_tap import Connection, Lane
from leveret_broker.transport import COPY_HEADER, Delivery

log = logging.getLogger(__name__)

LARGEST_PREFETCH = 2000
"""More than that a quorum queue does not take."""


class RabbitDelivery:
    """One message that a subscription handed out."""

    __slots__ = (
        "_header",
        "_properties",
        "_subscription",
        "_tag",
        "_was_handed_out",
        "body",
        "exchange",
        "queue",
    )

    def __init__(
        self, method: bytes, header: bytes, body: bytes, subscription: "Subscription"
    ) -> None:
        self.body = body
        self.queue = subscription.queue
        self._tag, self._was_handed_out, self.exchange = frames.delivery(method)
        self._header = header
        self._properties: frames.Properties | None = None
        self._subscription = subscription

    @property
    def correlation_id(self) -> str | None:
        return self._read().correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._read().headers

    @property
    def redelivered(self) -> bool:
        return self._was_handed_out or COPY_HEADER in self._read().headers

    def ack(self) -> None:
        self._subscription.ack(self._tag)

    def nack(self) -> None:
        self._subscription.reject(self._tag, requeue=True)

    def reject(self) -> None:
        self._subscription.reject(self._tag, requeue=False)

    @property
    def tag(self) -> int:
        """The broker's number for it, on its channel."""
        return self._tag

    def _read(self) -> frames.Properties:
        if self._properties is None:
            try:
                self._properties = frames.properties(self._header)
            except ValueError as error:  # none of ours, and whoever reads the body finds out
                log.warning("properties of a message in %s not read: %s", self.queue, error)
                self._properties = frames.Properties()
        return self._properties


class Subscription(Lane):
    """One consumer on a channel of its own, until the channel closes or the broker cancels it.

    Settling is collected during a turn of the loop and written together.
    """

    def __init__(
        self,
        connection: Connection,
        channel: aiormq.Channel,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(connection.tap, channel.number)
        self.queue = queue
        self._channel = channel
        self._on_delivery = on_delivery
        self._on_end = on_end
        self._consumer_tag: str | None = None
        self._settlements = Settlements(channel.number)
        self._saying_goodbye: asyncio.Task[None] | None = None
        self._leaving = False
        self._closing = False
        self._started = False
        self._ended = False
        self.tap.add(self)
        on_close(channel, self._die)

    @property
    def is_alive(self) -> bool:
        """Whether the broker would hand it a message now."""
        return self._started and not self._ended and not self._channel.is_closed

    @property
    def is_settled(self) -> bool:
        """Whether nothing that it handed out has yet to be settled, or ever can be."""
        return self._channel.is_closed or self._settlements.is_empty

    async def start(self, *, prefetch: int) -> None:
        """Raises `Unroutable`, `ConnectionLost`, or `TransportError` if the broker forbids it."""
        try:
            await call(self._channel.basic_qos(prefetch_count=min(prefetch, LARGEST_PREFETCH)))
            consuming = await call(self._channel.basic_consume(self.queue, _unheard))
        except exceptions.ChannelNotFoundEntity as error:
            raise Unroutable(self.queue) from error
        except exceptions.ChannelClosed as error:
            raise refused(f"to consume from {self.queue!r}", error) from error
        self._consumer_tag = consuming.consumer_tag
        if self._ended:
            raise ConnectionLost("the broker cancelled the consumer")
        self._started = True
        self.tap.ask(self)

    def ack(self, tag: int) -> None:
        """Settle once; later ones, and those after the channel's end, do nothing."""
        if self._settlements.ack(tag) and not self.is_due:
            self.tap.ask(self)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Settle once, like `ack`."""
        if self._settlements.reject(tag, requeue=requeue) and not self.is_due:
            self.tap.ask(self)

    async def cancel(self) -> None:
        """Take no more; the channel stays until the last delivery is settled."""
        self._leaving = True
        if self._consumer_tag is not None and self.is_alive:
            try:
                with suppress(exceptions.AMQPError):
                    await call(self._channel.basic_cancel(self._consumer_tag))
            except BaseException as error:  # aiormq has closed the channel
                self._die()
                if not isinstance(error, ConnectionLost):
                    raise
        self._end()
        await self._leave_if_settled()

    async def release(self) -> None:
        """A successor takes over: leave the channel as soon as all is settled."""
        self._leaving = True
        await self._leave_if_settled()

    async def close(self) -> None:
        """Write what was settled, and give back the rest."""
        self._leaving = True
        self.tap.flush()
        self._closing = True  # a frame after the channel's close would break the connection
        self._end()
        await say_goodbye(self._channel)
        self._die()

    def abandon(self) -> None:
        """It did not start: write nothing any more."""
        self._closing = True

    # -- what the broker says ---------------------------------------------------------------------

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        delivery = RabbitDelivery(method, header, body, self)
        self._settlements.handed_out(delivery.tag)
        if self._leaving:
            delivery.nack()
            return
        try:
            self._on_delivery(delivery)
        except Exception:  # the connection would break
            log.exception("a delivery callback failed")

    def on_cancel(self) -> None:
        # Whatever it handed out is the broker's again. In RabbitMQ 4.3 a late acknowledgement would
        # set the consumer going once more, with nobody to hear it: so the tags die with it, and
        # its successor closes the channel.
        self._die()

    def collect(self) -> Iterable[bytes]:
        if not self._started or self._closing or self.is_shut:
            return ()
        written = self._settlements.take()
        if self._leaving and self._ended and self._settlements.is_empty:
            self._saying_goodbye = asyncio.ensure_future(self._leave_if_settled())
        return written

    async def _leave_if_settled(self) -> None:
        if self._settlements.is_empty:
            self._closing = True
            await say_goodbye(self._channel)

    def _end(self) -> None:
        """No more deliveries; those that were handed out can be settled still."""
        if not self._ended:
            self._ended = True
            if self._started and not self._leaving:
                self._on_end()

    def _die(self) -> None:
        """The channel is gone, or of no use any more, and every tag with it."""
        self._settlements.forget()
        self._end()


async def _unheard(message: aiormq.abc.DeliveredMessage) -> None:
    log.error("a delivery took the wrong way", extra={"tag": message.delivery_tag})


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

    async def subscribe(self, connection: Connection) -> None:
        """Consume over this connection, unless it does already or was cancelled.

        Raises `Unroutable`, `TransportError` or `ConnectionLost`.
        """
        if self.is_consuming or self._cancelled:
            return
        if self._subscription is not None:
            await self._subscription.release()
        channel = await open_channel(connection)
        subscription = Subscription(
            connection, channel, self.queue, self._on_delivery, self._on_end
        )
        try:
            await subscription.start(prefetch=self._prefetch)
        except BaseException:
            subscription.abandon()
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
