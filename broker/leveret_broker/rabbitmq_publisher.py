"""Publishing over one RabbitMQ connection: many messages under one window of confirms.

A message is *published* once the broker has confirmed it, and *lost* when the connection or channel
went away before: nobody knows then whether it arrived. The caller publishes lost ones again.
"""

import asyncio
from collections.abc import Sequence
from enum import Enum
from itertools import count

import aiormq
from aiormq import exceptions, spec

from leveret_broker.errors import BrokerBlocked, Expired, TransportError, Unroutable
from leveret_broker.rabbitmq_connection import (
    ConnectionLost,
    call,
    is_blocked,
    is_loss,
    open_channel,
    until_closed,
)
from leveret_broker.transport import Outgoing


class Unconfirmed(Enum):
    """What is known of a message that the connection was lost with: nothing."""

    LOST = "lost"


Result = TransportError | Unconfirmed | None
"""`None` for confirmed."""

_PERSISTENT, _TRANSIENT = 2, 1


class Publisher:
    """A channel in confirm mode on one connection, opened again whenever the broker closes it."""

    def __init__(self, connection: aiormq.Connection) -> None:
        self._connection = connection
        self._open: aiormq.Channel | None = None
        self._opening = asyncio.Lock()
        self._exchanges: set[str] = set()
        # Returned messages are matched by message id: it must never repeat on a channel.
        self._ids = count(1)

    async def publish(self, messages: Sequence[Outgoing], *, timeout: float) -> list[Result]:
        """One result a message, in order, within the timeout."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._until_ready()
                channel = await self._channel(messages)
        except TimeoutError:
            error = await self._too_late(timeout)
            return [error for _ in messages]
        except ConnectionLost:
            return [Unconfirmed.LOST for _ in messages]
        tasks = [asyncio.ensure_future(self._send(channel, message)) for message in messages]
        late: set[asyncio.Future[None]] = set()
        try:
            await self._all_or_closed(tasks, channel, deadline - loop.time())
        finally:
            for task in tasks:
                if task.cancel():
                    late.add(task)
        unfinished = Unconfirmed.LOST if channel.is_closed else await self._too_late(timeout)
        return [
            unfinished if task in late else _result(task, message)
            for task, message in zip(tasks, messages, strict=True)
        ]

    async def _all_or_closed(
        self, tasks: Sequence[asyncio.Future[None]], channel: aiormq.Channel, timeout: float
    ) -> None:
        """Wait for the tasks, and no longer than the channel lives.

        A task that waits for room to write hears nothing of a broken connection.
        """
        everything = asyncio.gather(*tasks, return_exceptions=True)
        closed = until_closed(channel)
        try:
            await asyncio.wait(
                [everything, closed], timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            closed.cancel()

    async def _until_ready(self) -> None:
        """Wait while the broker blocks the connection. Raises `ConnectionLost`."""
        if await is_blocked(self._connection):
            ready = asyncio.ensure_future(self._connection.ready())
            closed = until_closed(self._connection)
            try:
                await asyncio.wait([ready, closed], return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
                closed.cancel()
        if self._connection.is_closed:
            raise ConnectionLost("closed")

    async def _send(self, channel: aiormq.Channel, message: Outgoing) -> None:
        # Nobody has to listen to a fan-out exchange, but a queue that is named must be there.
        await channel.basic_publish(
            message.body,
            exchange=message.fanout or "",
            routing_key=message.queue or "",
            mandatory=message.fanout is None,
            wait=False,
            properties=spec.Basic.Properties(
                delivery_mode=_PERSISTENT if message.persistent else _TRANSIENT,
                correlation_id=message.correlation_id,
                message_id=str(next(self._ids)),
                headers=dict(message.headers),
            ),
        )

    async def _channel(self, messages: Sequence[Outgoing]) -> aiormq.Channel:
        """An open channel, with the fan-out exchanges that the messages name."""
        async with self._opening:
            if self._open is None or self._open.is_closed:
                self._open = await open_channel(self._connection, confirms=True)
                self._exchanges.clear()  # a missing one may be what closed the last channel
            for exchange in {message.fanout for message in messages} - self._exchanges - {None}:
                assert exchange is not None
                await call(
                    self._open.exchange_declare(exchange, exchange_type="fanout", durable=True)
                )
                self._exchanges.add(exchange)
            return self._open

    async def _too_late(self, timeout: float) -> TransportError:
        if await is_blocked(self._connection):
            return BrokerBlocked(
                f"the broker took no message within {timeout:g} s: it is blocked, "
                "out of memory or disk"
            )
        return Expired(f"the broker confirmed nothing within {timeout:g} s")


def _result(task: "asyncio.Future[None]", message: Outgoing) -> Result:
    if task.cancelled():  # not by us: aiormq cancels what a lost connection leaves behind
        return Unconfirmed.LOST
    match task.exception():
        case None:
            return None
        case exceptions.PublishError():
            return Unroutable(message.queue or "")
        case exceptions.DeliveryError():
            return BrokerBlocked("the broker refused the message: a queue's limit is reached")
        case error if is_loss(error):
            return Unconfirmed.LOST
        case error:
            raise error
