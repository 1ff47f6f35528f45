"""Declaring, deleting and inspecting queues in RabbitMQ, and declaring them again after a loss.

The broker answers a refusal by closing the channel, so each exchange makes sure that there is one.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import aiormq
from aiormq import exceptions

from leveret_broker.errors import QueueMismatch, Unroutable
from leveret_broker.rabbitmq_connection import call, open_channel, refused
from leveret_broker.transport import Exchange, Queue, QueueStatus

Arguments = dict[str, str | int]
Ask = Callable[[aiormq.Channel], Coroutine[Any, Any, object]]

DELIVERY_LIMIT = 1_000_000
"""Deliveries after which the broker may give up a message of a quorum queue: never, in practice.

From RabbitMQ 4.0 the default is 20, and lost connections count. Which message is poison is for the
catalog's count of attempts to say. A number, because not every version takes -1 for "no limit".
"""


class Topology:
    """What was declared over one connection, on a channel of its own."""

    def __init__(self, connection: aiormq.Connection, *, replicated: bool) -> None:
        self._connection = connection
        self._replicated = replicated
        self._open: aiormq.Channel | None = None
        self._lock = asyncio.Lock()

    async def declare(self, declared: Queue | Exchange) -> None:
        """Raises `QueueMismatch`, `Forbidden`, `Unroutable` for a queue to be bound that is not
        there, or another `TransportError`."""
        async with self._lock:
            if isinstance(declared, Exchange):
                await self._declare_exchange(declared)
            else:
                await self._declare_queue(declared)

    async def has_exchange(self, name: str) -> bool:
        async with self._lock:
            try:
                await self._ask(lambda channel: channel.exchange_declare(name, passive=True))
            except exceptions.ChannelNotFoundEntity:
                return False
            except exceptions.ChannelClosed as error:
                raise refused(f"to look for the exchange {name!r}", error) from error
            return True

    async def _declare_queue(self, queue: Queue) -> None:
        try:
            await self._make(
                lambda channel: channel.queue_declare(
                    queue.name,
                    durable=not queue.exclusive,
                    exclusive=queue.exclusive,
                    arguments=dict(queue_arguments(queue, replicated=self._replicated)),
                ),
                or_find=lambda channel: channel.queue_declare(queue.name, passive=True),
            )
            for fanout in queue.fanouts:
                await self._make_exchange(fanout, "fanout")
                await self._bind(queue.name, fanout)
        except (exceptions.ChannelPreconditionFailed, exceptions.ChannelLockedResource) as error:
            raise QueueMismatch(
                f"the queue {queue.name!r} exists with other properties, "
                f"or belongs to another connection: {error.args[0]}"
            ) from error
        except exceptions.ChannelClosed as error:
            raise refused(f"to declare the queue {queue.name!r}", error) from error

    async def _declare_exchange(self, exchange: Exchange) -> None:
        kind = "fanout" if exchange.is_fanout else "direct"
        try:
            if not await self._make_exchange(exchange.name, kind):
                return  # who made it has bound it
            for queue in exchange.queues:
                try:
                    await self._bind(queue, exchange.name)
                except exceptions.ChannelNotFoundEntity as error:
                    raise Unroutable(queue) from error
        except exceptions.ChannelClosed as error:
            raise refused(f"to declare the exchange {exchange.name!r}", error) from error

    async def _make_exchange(self, name: str, kind: str) -> bool:
        return await self._make(
            lambda channel: channel.exchange_declare(name, exchange_type=kind, durable=True),
            or_find=lambda channel: channel.exchange_declare(name, passive=True),
        )

    async def _bind(self, queue: str, exchange: str) -> None:
        await self._ask(lambda channel: channel.queue_bind(queue, exchange, routing_key=queue))

    async def _make(self, make: Ask, *, or_find: Ask) -> bool:
        """Make something; what this user may not make has to be there. Whether it was made."""
        try:
            await self._ask(make)
        except exceptions.ChannelAccessRefused as refusal:
            try:
                await self._ask(or_find)  # to look, no permission is needed
            except exceptions.ChannelNotFoundEntity:
                raise refusal from None
            return False
        return True

    async def _ask(self, ask: Ask) -> None:
        await call(ask(await self._channel()))

    async def delete(self, queue: str) -> None:
        async with self._lock:
            channel = await self._channel()
            try:
                await call(channel.queue_delete(queue))
            except exceptions.ChannelNotFoundEntity:
                return
            except exceptions.ChannelClosed as error:
                raise refused(f"to delete the queue {queue!r}", error) from error

    async def inspect(self, queue: str) -> QueueStatus | None:
        async with self._lock:
            channel = await self._channel()
            try:
                found = await call(channel.queue_declare(queue, passive=True))
            except exceptions.ChannelNotFoundEntity:
                return None
            except exceptions.ChannelClosed as error:
                raise refused(f"to inspect the queue {queue!r}", error) from error
            return QueueStatus(
                messages=found.message_count or 0, consumers=found.consumer_count or 0
            )

    async def _channel(self) -> aiormq.Channel:
        if self._open is None or self._open.is_closed:
            self._open = await open_channel(self._connection)
        return self._open


def queue_arguments(queue: Queue, *, replicated: bool) -> Arguments:
    """The arguments of a queue's declaration.

    Few on purpose: they can never change afterwards. Limits belong into policies. The type is
    always named, because a virtual host may have a default type of its own.
    """
    arguments: Arguments = {"x-queue-type": "classic"}
    if replicated and queue.replicated:
        arguments = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    if queue.dead_letter is not None:
        arguments["x-dead-letter-exchange"] = ""
        arguments["x-dead-letter-routing-key"] = queue.dead_letter
    if queue.expires is not None:
        arguments["x-expires"] = int(queue.expires * 1000)
    return arguments
