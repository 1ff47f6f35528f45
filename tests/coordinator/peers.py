"""Who talks to the coordinator: a caller and a worker, real ones, on the in-memory broker."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from leveret_broker import codec, topology
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import (
    Finished,
    Invocation,
    Invocations,
    Outcomes,
    Replies,
    Reply,
    ShowRun,
    Tree,
    Wire,
)
from leveret_broker.transport import Delivery, Outgoing, Transport
from leveret_coordinator.service import CoordinatorService, CoordinatorSettings
from tests.coordinator import build

PATIENCE = 10.0
"""Seconds after which a test gives up waiting."""

FLOW = build.register(build.spec("flow"), session="s")
"""Registers what most tests run."""
QUICK = CoordinatorSettings(retry_first=0.001, retry_longest=0.01)


@asynccontextmanager
async def connected(broker: MemoryBroker) -> AsyncGenerator[MemoryTransport, None]:
    transport = MemoryTransport(broker)
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def coordinator(
    transport: Transport,
    catalog: Path | None = None,
    settings: CoordinatorSettings | None = None,
) -> AsyncGenerator[CoordinatorService, None]:
    service = CoordinatorService(transport, catalog, settings=settings)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


class Peer:
    """Remembers what arrives, and waits for what is to arrive."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.deliveries: dict[str, list[Delivery]] = defaultdict(list)
        self._changed = asyncio.Event()

    async def consume(self, queue: str) -> None:
        def arrived(delivery: Delivery) -> None:
            self.deliveries[queue].append(delivery)
            self.on_delivery(delivery)
            delivery.ack()
            self._changed.set()

        await self.transport.consume(queue, arrived, prefetch=0)

    def on_delivery(self, delivery: Delivery) -> None:
        """What a kind of peer does with a delivery."""

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def publish(self, queue: str, message: Wire) -> None:
        body = codec.encode(message)
        await self.transport.publish(Outgoing(body=body, queue=queue))

    async def request(self, *messages: Wire) -> None:
        for message in messages:
            await self.publish(topology.REQUESTS.name, message)

    async def tell(self, *messages: Outcomes) -> None:
        for message in messages:
            await self.publish(topology.OUTCOMES.name, message)


class Caller(Peer):
    """A session with its reply queue."""

    def __init__(self, transport: Transport, session: str = "s") -> None:
        super().__init__(transport)
        self.session = session
        self.replies: list[Reply] = []

    async def open(self) -> "Caller":
        queue = topology.reply_queue(self.session)
        await self.transport.declare(topology.REQUESTS, topology.OUTCOMES, topology.DEAD, queue)
        await self.consume(queue.name)
        return self

    def on_delivery(self, delivery: Delivery) -> None:
        if delivery.queue == topology.reply_queue_name(self.session):
            self.replies.extend(codec.decode(delivery.body, Replies).replies)

    def finished(self) -> dict[str, list[Finished]]:
        """The ends of runs that were told, by run."""
        told: dict[str, list[Finished]] = defaultdict(list)
        for reply in self.replies:
            if isinstance(reply, Finished):
                told[reply.run].append(reply)
        return told

    async def until_replies(self, count: int) -> Sequence[Reply]:
        await self.until(lambda: len(self.replies) >= count)
        return self.replies

    async def until_finished(self, *runs: str) -> None:
        await self.until(lambda: set(runs) <= self.finished().keys())

    async def ask(self, message: Wire) -> Reply:
        """The next reply after a request."""
        count = len(self.replies)
        await self.request(message)
        return (await self.until_replies(count + 1))[count]


class Worker(Peer):
    """Serves queues: every invocation is answered with its arguments."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.invocations: list[Invocation] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, *queues: str) -> "Worker":
        for queue in queues:
            await self.transport.declare(topology.DEAD, topology.work_queue(queue))
            await self.consume(queue)
        return self

    def on_delivery(self, delivery: Delivery) -> None:
        for invocation in codec.decode(delivery.body, Invocations).runs:
            self.invocations.append(invocation)
            outcome = build.outcome(
                invocation.run, attempt=invocation.attempt, result=invocation.arguments
            )
            task = asyncio.create_task(self.tell(build.outcomes(outcome)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def state_of(caller: Caller, run: str) -> str:
    tree = await caller.ask(ShowRun(session=caller.session, request="show", run=run))
    assert isinstance(tree, Tree)
    return tree.runs[0].state


async def until_empty(transport: Transport, queue: str) -> None:
    """Wait until a queue has nothing ready."""
    async with asyncio.timeout(PATIENCE):
        while (status := await transport.inspect(queue)) is None or status.messages:
            await asyncio.sleep(0)
