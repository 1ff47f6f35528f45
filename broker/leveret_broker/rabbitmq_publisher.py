"""Publishing over one RabbitMQ connection: many messages under one window of confirms.

A message is *published* once the broker has confirmed it, and *lost* when the connection or channel
went away before: nobody knows then whether it arrived. The caller publishes lost ones again.

The broker refuses a message by closing the channel, and does not say which one it means. So those
that were lost with the channel are published again one by one, on a channel that nobody shares:
what is refused alone is the one.
"""

import asyncio
from collections.abc import Sequence

import aiormq
from aiormq import exceptions

from leveret_broker.errors import (
    BrokerBlocked,
    Expired,
    Refused,
    TransportError,
)
from leveret_broker.rabbitmq_connection import (
    ConnectionLost,
    Deadline,
    call,
    open_channel,
    reason_of,
    say_goodbye,
    until_closed,
)
from leveret_broker.rabbitmq_tap import Connection
from leveret_broker.rabbitmq_window import Result, Unconfirmed, Window
from leveret_broker.transport import Outgoing


class ConfirmChannel:
    """A channel in confirm mode, opened again whenever the broker closes it.

    Fan-out exchanges are declared on a channel of their own: an exchange with the broker that is
    given up closes its channel.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: Window | None = None
        self._opening = asyncio.Lock()
        self._declaring: aiormq.Channel | None = None
        self._exchanges: set[str] = set()

    def window(self, messages: Sequence[Outgoing]) -> Window | None:
        """The open channel, if there is nothing to wait for."""
        if self._open is None or self._open.is_shut or self._missing(messages):
            return None
        return self._open

    async def ready(self, messages: Sequence[Outgoing]) -> Window:
        """An open channel, and the fan-out exchanges that the messages name.

        Raises `ConnectionLost`, or aiormq's `ChannelClosed` if the broker refuses an exchange.
        """
        async with self._opening:
            if self._open is None or self._open.is_shut:
                channel = await open_channel(self._connection, confirms=True)
                self._open = Window(self._connection, channel)
                self._exchanges.clear()  # a missing one may be what closed the last channel
            for exchange in self._missing(messages):
                await self._declare(exchange)
            return self._open

    def _missing(self, messages: Sequence[Outgoing]) -> set[str]:
        named = {message.fanout for message in messages if message.fanout is not None}
        return named - self._exchanges

    async def _declare(self, exchange: str) -> None:
        if self._declaring is None or self._declaring.is_closed:
            self._declaring = await open_channel(self._connection)
        declaring = self._declaring.exchange_declare(exchange, exchange_type="fanout", durable=True)
        await call(declaring)
        self._exchanges.add(exchange)

    def discard(self, window: Window) -> None:
        """Never use this channel again: the broker is closing it."""
        if self._open is window:
            self._open = None

    async def close(self) -> None:
        channels = [self._declaring, None if self._open is None else self._open.channel]
        await say_goodbye(*(channel for channel in channels if channel is not None))


class Publisher:
    """Publishes over one connection, on a channel that all callers share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._shared = ConfirmChannel(connection)

    async def publish(self, messages: Sequence[Outgoing], deadline: Deadline) -> list[Result]:
        """One result a message, in order, within the deadline: never `Unconfirmed.LATE`."""
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
            return [self._too_late(deadline)] * len(messages), None
        window = None if self._connection.tap.is_blocked else confirming.window(messages)
        if window is None:
            try:
                async with asyncio.timeout_at(deadline.at):
                    await self._until_unblocked()
                    window = await confirming.ready(messages)
            except TimeoutError:
                return [self._too_late(deadline)] * len(messages), None
            except ConnectionLost:
                return [Unconfirmed.LOST] * len(messages), None
            except exceptions.ChannelClosed as error:
                return [Unconfirmed.LOST] * len(messages), error
        results = await window.publish(messages, deadline)
        if Unconfirmed.LATE in results:
            late = self._too_late(deadline)
            results = [late if result is Unconfirmed.LATE else result for result in results]
        if window.refusal is not None:
            confirming.discard(window)
        return results, window.refusal

    async def _until_unblocked(self) -> None:
        """Wait while the broker blocks the connection. Raises `ConnectionLost`."""
        if self._connection.tap.is_blocked:
            ready = asyncio.ensure_future(self._connection.tap.until_unblocked())
            closed = until_closed(self._connection)
            try:
                await asyncio.wait([ready, closed], return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
                closed.cancel()
        if self._connection.is_closed:
            raise ConnectionLost("closed")

    def _too_late(self, deadline: Deadline) -> TransportError:
        if self._connection.tap.is_blocked:
            return BrokerBlocked(
                f"the broker took no message within {deadline.timeout:g} s: it is blocked, "
                "out of memory or disk"
            )
        return Expired(f"the broker confirmed nothing within {deadline.timeout:g} s")
