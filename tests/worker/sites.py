"""A worker and a coordinator by hand, on a broker in memory, at a time by hand."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from leveret import payload
from leveret.definitions import Definition
from leveret_broker.lifecycle import Connected
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import Invocation
from leveret_broker.transport import Consumer, Delivery
from leveret_worker.service import WorkerService
from tests.worker.by_hand import PATIENCE, CoordinatorByHand
from tests.worker.clocks import HandClock


class Recorded(MemoryTransport):
    """Remembers what is called for the deliveries of each queue."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.callbacks: dict[str, Callable[[Delivery], None]] = {}

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> Consumer:
        self.callbacks[queue] = on_delivery
        return await super().consume(queue, on_delivery, prefetch=prefetch)


class Site:
    """The worker has one slot and no key."""

    def __init__(
        self, definitions: Sequence[Definition[..., Any]], *, stop_grace: float = 10
    ) -> None:
        self.broker = MemoryBroker()
        self.coordinator = CoordinatorByHand(self.broker)
        self.transport = Recorded(self.broker)
        self.clock = HandClock()
        self.worker = WorkerService(
            self.transport,
            definitions,
            project="p",
            keys=None,
            slots=1,
            clock=self.clock,
            stop_grace=stop_grace,
        )
        self._worker = Connected(self.transport, self.worker)

    async def start(self) -> None:
        await self.coordinator.start()
        await self.start_worker()

    async def start_worker(self) -> None:
        await self._worker.start()

    async def stop(self) -> None:
        await self.worker.stop(grace=0)
        await self._worker.stop()
        await self.coordinator.stop()

    async def submit(
        self, queue: str, *runs: str, arguments: Sequence[object], **fields: Any
    ) -> None:
        """One message with these runs of one definition, all with the same arguments."""
        invocations = [invocation(run, arguments, **fields) for run in runs]
        await self.coordinator.submit(queue, *invocations)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what happens on another thread, or in another process."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.001)


def invocation(
    run: str, arguments: Sequence[object], *, attempt: int = 1, **fields: Any
) -> Invocation:
    context = payload.Context(project="p", run=run, definition="job", direction="arguments")
    sealed = payload.seal(
        payload.encode_arguments(tuple(arguments), {}), keys=None, context=context
    )
    return Invocation(run=run, attempt=attempt, root=run, parent=None, arguments=sealed, **fields)
