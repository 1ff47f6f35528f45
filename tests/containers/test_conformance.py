"""The transport's conformance suite on the RabbitMQ of the containers, another than the suite's."""

from collections.abc import AsyncGenerator

import pytest

from leveret_broker.transport import Transport
from tests import rabbit
from tests.broker import test_conformance as suite
from tests.broker.worlds import RabbitWorld, World
from tests.containers.broker import Broker

globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_")})


@pytest.fixture
async def world(broker: Broker, vhosts: rabbit.VirtualHosts) -> AsyncGenerator[World]:
    """The broker in its container, with nothing in the virtual host."""
    made = RabbitWorld(broker, vhosts.take())
    yield made
    await made.end()


@pytest.fixture
async def transport(world: World) -> Transport:
    """An open transport to it."""
    made = world.transport()
    await made.open()
    return made
