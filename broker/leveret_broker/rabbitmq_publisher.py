"""Publishing over one RabbitMQ connection: many messages under one window of confirms.

A message is *published* once the broker has confirmed it, and *lost* when the connection or channel
went away before: nobody knows then whether it arrived. The caller publishes lost ones again.

The broker refuses a message by closing the channel, and does not say which one it means. So those
that were lost with the channel are published again one by one, on a channel that nobody shares:
what is refused alone is the one.
"""

import asyncio
from collections.abc import Sequence
from enum import Enum
from itertools import count

import aiormq
from aiormq import exceptions, spec

from leveret_broker.errors import (
    BrokerBlocked,
    Expired,
    Refused,
    TransportError,
    Unroutable,
)
from leveret_broker.rabbitmq_connection import (
    ConnectionLost,
    Deadline,
    call,
    is_blocked,
    is_loss,
    is_refusal,
    open_channel,
    reason_of,
    say_goodbye,
    until_closed,
)
from leveret_broker.transport import Outgoing


class Unconfirmed(Enum):
    """What is known of a message that the connection was lost with: nothing."""

    LOST = "lost"


Result = TransportError | Unconfirmed | None
"""`None` for confirmed."""

_PERSISTENT, _TRANSIENT = 2, 1


class ConfirmChannel:
    """A channel in confirm mode, opened again whenever the broker closes it."""

    def __init__(self, connection: aiormq.Connection) -> None:
        self._connection = connection
        self._open: aiormq.Channel | None = None
        self._opening = asyncio.Lock()
        self._exchanges: set[str] = set()

    async def ready(self, messages: Sequence[Outgoing]) -> aiormq.Channel:
        """An open channel, with the fan-out exchanges that the messages name.

        Raises `ConnectionLost`, or aiormq's `ChannelClosed` if the broker refuses an exchange.
        """
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

    def discard(self, channel: aiormq.Channel | None = None) -> None:
        """Never use this channel again, or whichever is open: the broker is closing it."""
        if channel is None or self._open is channel:
            self._open = None

    async def close(self) -> None:
        if self._open is not None:
            await say_goodbye(self._open)


class Publisher:
    """Publishes over one connection, on a channel that all callers share."""

    def __init__(self, connection: aiormq.Connection) -> None:
        self._connection = connection
        self._shared = ConfirmChannel(connection)
        # Returned messages are matched by message id: it must never repeat on a channel.
        self._ids = count(1)

    async def publish(self, messages: Sequence[Outgoing], deadline: Deadline) -> list[Result]:
        """One result a message, in order, within the deadline."""
        results, refusal = await self._attempt(self._shared, messages, deadline)
        if refusal is None:
            return results
        lost = [index for index, result in enumerate(results) if isinstance(result, Unconfirmed)]
        own = ConfirmChannel(self._connection)
        try:
            for index in lost:
                copy = messages[index].as_copy()
                results[index] = await self._publish_alone(own, copy, deadline)
        finally:
            await own.close()
        return results

    async def _publish_alone(
        self, own: ConfirmChannel, message: Outgoing, deadline: Deadline
    ) -> Result:
        (result,), refusal = await self._attempt(own, [message], deadline)
        if refusal is not None and isinstance(result, Unconfirmed):
            return Refused(f"the broker refused the message: {reason_of(refusal)}")
        return result

    async def _attempt(
        self, confirming: ConfirmChannel, messages: Sequence[Outgoing], deadline: Deadline
    ) -> tuple[list[Result], exceptions.ChannelClosed | None]:
        """One result a message, and the refusal that closed the channel, if one did."""
        if deadline.is_over:
            error = await self._too_late(deadline)
            return [error for _ in messages], None
        try:
            async with asyncio.timeout_at(deadline.at):
                await self._until_ready()
                channel = await confirming.ready(messages)
        except TimeoutError:
            error = await self._too_late(deadline)
            return [error for _ in messages], None
        except ConnectionLost:
            return [Unconfirmed.LOST for _ in messages], None
        except exceptions.ChannelClosed as error:
            confirming.discard()
            return [Unconfirmed.LOST for _ in messages], error
        tasks = [asyncio.ensure_future(self._send(channel, message)) for message in messages]
        late: set[asyncio.Future[None]] = set()
        try:
            await self._all_or_closed(tasks, channel, deadline.remaining)
        finally:
            for task in tasks:
                if task.cancel():
                    late.add(task)
        refusal = _refusal(channel, [task for task in tasks if task not in late])
        if refusal is not None:
            confirming.discard(channel)
        is_gone = channel.is_closed or refusal is not None
        unfinished = Unconfirmed.LOST if is_gone else await self._too_late(deadline)
        results = [
            unfinished if task in late else _result(task, message)
            for task, message in zip(tasks, messages, strict=True)
        ]
        return results, refusal

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
            exchange=message.fanout or message.exchange or "",
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

    async def _too_late(self, deadline: Deadline) -> TransportError:
        if await is_blocked(self._connection):
            return BrokerBlocked(
                f"the broker took no message within {deadline.timeout:g} s: it is blocked, "
                "out of memory or disk"
            )
        return Expired(f"the broker confirmed nothing within {deadline.timeout:g} s")


def _refusal(
    channel: aiormq.Channel, tasks: Sequence["asyncio.Future[None]"]
) -> exceptions.ChannelClosed | None:
    """The broker's reason for closing the channel because of a message, if it did."""
    ended = [until_closed(channel), *tasks] if channel.is_closed else tasks
    for one in ended:
        if one.done() and not one.cancelled():
            error = one.exception()
            if isinstance(error, exceptions.ChannelClosed) and is_refusal(error):
                return error
    return None


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
