from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.service import CoordinatorService
from tests.coordinator import peers


@pytest.fixture
async def catalog() -> AsyncIterator[Catalog]:
    """A catalog in memory: the same tables and statements as in a file."""
    catalog = await Catalog.open(None)
    yield catalog
    await catalog.close()


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def transport(broker: MemoryBroker) -> AsyncIterator[MemoryTransport]:
    async with peers.connected(broker) as transport:
        yield transport


@pytest.fixture
async def caller(broker: MemoryBroker) -> AsyncIterator[peers.Caller]:
    async with peers.connected(broker) as transport:
        yield await peers.Caller(transport).open()


@pytest.fixture
async def service(transport: MemoryTransport, tmp_path: Path) -> AsyncIterator[CoordinatorService]:
    async with peers.coordinator(transport, tmp_path / "catalog", peers.QUICK) as service:
        yield service
