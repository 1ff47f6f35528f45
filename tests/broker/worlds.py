"""The brokers that the conformance suite runs on, with the faults that it needs."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import aio_pika

from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.transport import Delivery, Transport
from tests.rabbit import RabbitNode

PATIENCE = 15.0
"""Seconds after which something awaited will not happen any more."""


class World(Protocol):
    """A broker, empty at the start of a test, and the transports connected to it."""

    def transport(self, *, publish_timeout: float = PATIENCE) -> Transport:
        """A transport that has yet to be opened; it is closed after the test."""
        ...

    async def drop_connections(self) -> None: ...
    async def block(self) -> None: ...
    async def unblock(self) -> None: ...
    async def stop(self) -> None:
        """The broker goes away and keeps its queues."""
        ...

    async def start(self) -> None: ...
    async def delete_queue(self, name: str) -> None:
        """Somebody else deletes a queue."""
        ...

    async def end(self) -> None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self._broker = MemoryBroker()
        self._transports: list[MemoryTransport] = []

    def transport(self, *, publish_timeout: float = PATIENCE) -> Transport:
        transport = MemoryTransport(self._broker, publish_timeout=publish_timeout)
        self._transports.append(transport)
        return transport

    async def drop_connections(self) -> None:
        self._broker.drop_connections()

    async def block(self) -> None:
        self._broker.block()

    async def unblock(self) -> None:
        self._broker.unblock()

    async def stop(self) -> None:
        self._broker.stop()

    async def start(self) -> None:
        self._broker.start()

    async def delete_queue(self, name: str) -> None:
        self._broker.delete(name)

    async def end(self) -> None:
        for transport in self._transports:
            await transport.close()


class RabbitWorld:
    def __init__(self, node: RabbitNode, url: str) -> None:
        self._node = node
        self._url = url
        self._transports: list[RabbitTransport] = []
        self._undo: list[Callable[[], None]] = []

    def transport(self, *, publish_timeout: float = PATIENCE) -> Transport:
        transport = RabbitTransport(self._url, name="test", publish_timeout=publish_timeout)
        self._transports.append(transport)
        return transport

    async def drop_connections(self) -> None:
        await asyncio.to_thread(self._node.close_all_connections)

    async def block(self) -> None:
        self._undo.append(self._unblock)
        await asyncio.to_thread(self._node.ctl, "set_vm_memory_high_watermark", "0.00001")

    async def unblock(self) -> None:
        await asyncio.to_thread(self._unblock)
        self._undo.remove(self._unblock)

    def _unblock(self) -> None:
        self._node.ctl("set_vm_memory_high_watermark", "0.4")

    async def stop(self) -> None:
        self._undo.append(self._node.start_app)
        await asyncio.to_thread(self._node.stop_app)

    async def start(self) -> None:
        await asyncio.to_thread(self._node.start_app)
        self._undo.remove(self._node.start_app)

    async def delete_queue(self, name: str) -> None:
        async with await aio_pika.connect(self._url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(name)

    async def end(self) -> None:
        for undo in self._undo:
            await asyncio.to_thread(undo)
        for transport in self._transports:
            await transport.close()


class Inbox:
    """Collects deliveries, and waits for them. With `settle`, each is settled as it comes."""

    def __init__(self, settle: Callable[[Delivery], None] | None = None) -> None:
        self.deliveries: list[Delivery] = []
        self._settle = settle
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._settle is not None:
            self._settle(delivery)
        self._arrived.set()

    async def take(self, number: int = 1) -> list[Delivery]:
        """Wait for so many more and take them out, oldest first."""
        await self.wait_for(lambda: len(self.deliveries) >= number)
        taken, self.deliveries = self.deliveries[:number], self.deliveries[number:]
        return taken

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at after each delivery."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._arrived.clear()
                await self._arrived.wait()
