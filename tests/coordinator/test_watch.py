"""What a coordinator says of how it is."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from leveret_broker import topology
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import Consumer
from leveret_coordinator.errors import CatalogUnavailable
from leveret_coordinator.watch import STUCK_AFTER, Watch
from tests.worker.clocks import HandClock


class Site:
    """A watch over one consumer, and a serving task that does nothing."""

    def __init__(self) -> None:
        self.transport = MemoryTransport(MemoryBroker())
        self.clock = HandClock()
        self.watch = Watch(self.transport, self.clock)
        self.consumers: list[Consumer] = []
        self.serving = asyncio.create_task(asyncio.Event().wait())

    async def said(self) -> tuple[str, bool, bool]:
        """Text, whether it is ready, and whether it is live."""
        serving: asyncio.Task[None] = self.serving  # type: ignore[assignment]
        told = await self.watch.condition(serving, self.consumers)
        return told.text, told.is_ready, told.is_live


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    site = Site()
    await site.transport.open()
    await site.transport.declare(topology.DEAD, topology.REQUESTS)
    consumer = await site.transport.consume(
        topology.REQUESTS.name, lambda delivery: delivery.ack(), prefetch=1
    )
    site.consumers.append(consumer)
    site.watch.serves()
    yield site
    site.serving.cancel()
    await site.watch.stop()
    await site.transport.close()


async def test_it_is_well_while_it_consumes(site: Site) -> None:
    assert await site.said() == ("is connected, and consumes requests and outcomes", True, True)


async def test_what_it_waits_for_comes_first(site: Site) -> None:
    site.watch.does("stands by")
    assert await site.said() == ("stands by", False, True)


async def test_it_is_ill_from_a_failed_step_until_one_that_does_not_fail(site: Site) -> None:
    site.watch.works()
    site.watch.failed(CatalogUnavailable("disk full"))
    site.clock.jump(5)
    assert await site.said() == ("has failed for 5 s, and tries again: disk full", False, True)
    site.watch.works()
    site.watch.rests()
    assert (await site.said())[1]


async def test_it_is_ill_while_it_is_stuck_in_a_step(site: Site) -> None:
    site.watch.works()
    site.clock.jump(STUCK_AFTER - 1)
    assert (await site.said())[1]
    site.clock.jump(2)
    text, is_ready, is_live = await site.said()
    assert "has been busy with one batch for 61 s" in text
    assert (is_ready, is_live) == (False, True)


async def test_one_whose_serving_has_ended_needs_a_restart(site: Site) -> None:
    site.serving.cancel()
    await asyncio.wait([site.serving])
    assert await site.said() == ("has ended by an error", False, False)


async def test_a_consumer_that_is_lost_makes_it_ill(site: Site) -> None:
    await site.consumers[0].cancel()
    assert await site.said() == ("has lost a consumer of its queues", False, True)


async def test_a_broker_that_knows_of_no_consumer_makes_it_ill(site: Site) -> None:
    """Whatever the consumer believes."""
    await site.consumers.pop().cancel()
    text, is_ready, _ = await site.said()
    assert "the broker knows of nobody who consumes 'leveret.requests'" in text
    assert not is_ready
