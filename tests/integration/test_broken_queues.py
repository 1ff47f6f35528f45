"""A work queue that RabbitMQ broke itself: it exists, and whoever publishes to it hears nothing.

RabbitMQ 3.10 half forgets a replicated queue whose node is killed within a second of its
declaration ("segment_writer: failed to open segment file … enoent" in its log).
"""

import asyncio

import pytest

import leveret
from leveret_broker.rabbitmq import RabbitTransport
from tests import rabbit
from tests.cluster import Cluster
from tests.integration import behaviours as on
from tests.integration.conftest import PROJECT, key_text

pytestmark = pytest.mark.rabbitmq

QUEUE = f"{PROJECT}:add:0"
PUBLISH_TIMEOUT = 3.0
"""Seconds until the coordinator gives up a publication."""


async def test_a_queue_that_broke_with_its_broker_is_made_anew(
    own_rabbit_node: rabbit.PrivateNode,
) -> None:
    node = own_rabbit_node
    cluster = Cluster(node.url, [on.add], project=PROJECT, publish_timeout=PUBLISH_TIMEOUT)
    async with cluster, leveret.connect(node.url, project=PROJECT, key=key_text()):
        assert await on.add(1) == 2
        await _declared_anew(node.url)
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)
        async with asyncio.timeout(60):
            assert await on.add(2) == 3


async def _declared_anew(url: str) -> None:
    """Delete the queue, and wait until somebody who needs it has declared it again."""
    transport = RabbitTransport(url, name="test")
    await transport.open()
    await transport.delete(QUEUE)
    while (status := await transport.inspect(QUEUE)) is None or not status.consumers:
        await asyncio.sleep(0)
    await transport.close()
