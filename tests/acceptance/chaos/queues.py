"""What is in the queues, asked in a way that is never out of date; and how to get rid of it.

`rabbitmqctl list_queues` counts the messages of a replicated queue every few seconds only. A
passive declaration counts at once, though only what no consumer holds: what they hold is back in
the queue once they are gone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import aio_pika
import msgpack
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

T = TypeVar("T")

LOOKED_AT = 3
"""Messages of a queue that are told of."""
LONGEST = 600


def ready(url: str, names: Iterable[str]) -> dict[str, int]:
    """How many messages are ready in each queue."""
    return asyncio.run(_on_channel(url, lambda channel: _ready(channel, list(names))))


def contents(url: str, name: str) -> list[str]:
    """The first messages of a queue, for people; they stay there."""
    return asyncio.run(_on_channel(url, lambda channel: _contents(channel, name)))


def purge(url: str, name: str) -> None:
    """Drop what is ready in a queue."""
    asyncio.run(_on_channel(url, lambda channel: _purge(channel, name)))


def delete(url: str, name: str) -> None:
    """Drop a queue, its consumers and all that it holds."""
    asyncio.run(_on_channel(url, lambda channel: channel.queue_delete(name)))


async def _purge(channel: AbstractChannel, name: str) -> None:
    await (await channel.get_queue(name)).purge()


async def _ready(channel: AbstractChannel, names: list[str]) -> dict[str, int]:
    found = [await channel.declare_queue(name, passive=True) for name in names]
    return {queue.name: queue.declaration_result.message_count or 0 for queue in found}


async def _contents(channel: AbstractChannel, name: str) -> list[str]:
    queue = await channel.declare_queue(name, passive=True)
    found = [await queue.get(fail=False) for _ in range(LOOKED_AT)]
    # Unacknowledged, so that closing the connection returns them.
    return [_told(message) for message in found if message]


def _told(message: AbstractIncomingMessage) -> str:
    return f"{dict(message.headers)} {msgpack.unpackb(message.body)!r}"[:LONGEST]


async def _on_channel(url: str, work: Callable[[AbstractChannel], Awaitable[T]]) -> T:
    async with await aio_pika.connect(url) as connection:
        return await work(await connection.channel())
