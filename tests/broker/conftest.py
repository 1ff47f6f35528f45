"""The brokers under test."""

from collections.abc import AsyncGenerator

import pytest

from leveret_broker.transport import Transport
from tests.broker.worlds import MemoryWorld, RabbitWorld, World
from tests.rabbit import RabbitNode


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
async def world(request: pytest.FixtureRequest) -> AsyncGenerator[World]:
    """A broker of each kind, empty."""
    made: World
    if request.param == "memory":
        made = MemoryWorld()
    else:
        node: RabbitNode = request.getfixturevalue("rabbit_node")
        made = RabbitWorld(node, request.getfixturevalue("rabbit_vhost_url"))
    yield made
    await made.end()


@pytest.fixture
async def transport(world: World) -> Transport:
    """An open transport to it."""
    made = world.transport()
    await made.open()
    return made
