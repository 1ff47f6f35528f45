"""The queues that a worker consumes, and how much of each it takes ahead."""

from collections.abc import Callable
from contextlib import suppress

from leveret_broker import topology
from leveret_broker.errors import TransportError
from leveret_broker.transport import Consumer, Delivery, Transport


class WorkQueues:
    """Consumers by queue; several of one queue each have a window of their own."""

    def __init__(self, transport: Transport, on_delivery: Callable[[Delivery], None]) -> None:
        self._transport = transport
        self._on_delivery = on_delivery
        self._consumers: dict[str, list[Consumer | None]] = {}

    def windows(self, queue: str) -> int:
        """How many consumers the queue has, or will in a moment."""
        return len(self._consumers.get(queue, ()))

    def __len__(self) -> int:
        """How many queues there are."""
        return len(self._consumers)

    @property
    def deaf(self) -> list[str]:
        """Those that should be consumed, and are not at this moment."""
        return [
            queue
            for queue, windows in self._consumers.items()
            if not any(window is not None and window.is_consuming for window in windows)
        ]

    async def consume(self, queue: str, prefetch: int) -> None:
        """Take up to so many more messages of a queue, which is made if it is not there."""
        windows = self._consumers.setdefault(queue, [])
        place = len(windows)
        windows.append(None)
        await self._transport.declare(topology.work_queue(queue))
        consumer = await self._transport.consume(queue, self._on_delivery, prefetch=prefetch)
        windows[place] = consumer
        if self._consumers.get(queue) is not windows:  # it was released meanwhile
            with suppress(TransportError):
                await consumer.cancel()

    async def release(self, queue: str) -> None:
        """Take no more of a queue."""
        for consumer in self._consumers.pop(queue, ()):
            if consumer is not None:
                with suppress(TransportError):  # then the connection is gone, and it with it
                    await consumer.cancel()

    async def release_all(self) -> None:
        """Take no more of any. Raises `TransportError` if the connection is lost."""
        for windows in self._consumers.values():
            for consumer in windows:
                if consumer is not None:
                    await consumer.cancel()
