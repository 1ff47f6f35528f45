"""The queues that a worker consumes: several windows of one, and none when it lets go."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from leveret_broker import topology
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import Delivery, Exchange, Outgoing, Queue
from leveret_worker.work_queues import WorkQueues

QUEUE = "p:work:0"


class Slow(MemoryTransport):
    """A broker that takes its time to declare a queue."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def declare(self, *declared: Queue | Exchange) -> None:
        await self.may_go_on.wait()
        await super().declare(*declared)


class Site:
    """A worker's queues over a broker in memory, and what was handed out."""

    def __init__(self) -> None:
        self.transport = Slow(MemoryBroker())
        self.deliveries: list[Delivery] = []
        self.queues = WorkQueues(self.transport, self.deliveries.append)

    async def publish(self, count: int) -> None:
        for _ in range(count):
            await self.transport.publish(Outgoing(queue=QUEUE, body=b"run"))

    async def consumers(self) -> int:
        status = await self.transport.inspect(QUEUE)
        assert status is not None
        return status.consumers


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    site = Site()
    await site.transport.open()
    await site.transport.declare(topology.work_queue(QUEUE))
    yield site
    await site.transport.close()


async def test_each_consumer_takes_as_many_again(site: Site) -> None:
    await site.publish(5)
    await site.queues.consume(QUEUE, 2)
    while len(site.deliveries) < 2:
        await asyncio.sleep(0)
    await site.queues.consume(QUEUE, 2)
    while len(site.deliveries) < 4:
        await asyncio.sleep(0)
    assert site.queues.windows(QUEUE) == 2


async def test_a_queue_that_is_released_has_no_consumer_left(site: Site) -> None:
    for _ in range(2):
        await site.queues.consume(QUEUE, 1)
    assert await site.consumers() == 2
    await site.queues.release(QUEUE)
    assert await site.consumers() == 0
    assert site.queues.windows(QUEUE) == 0


async def test_what_is_opened_while_it_is_released_is_closed_again(site: Site) -> None:
    site.transport.may_go_on.clear()
    opening = asyncio.create_task(site.queues.consume(QUEUE, 1))
    await asyncio.sleep(0)
    await site.queues.release(QUEUE)
    site.transport.may_go_on.set()
    await opening
    assert await site.consumers() == 0
