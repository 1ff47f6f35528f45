from collections.abc import AsyncIterator

import pytest

from leveret_coordinator.catalog import Catalog


@pytest.fixture
async def catalog() -> AsyncIterator[Catalog]:
    """A catalog in memory: the same tables and statements as in a file."""
    catalog = await Catalog.open(None)
    yield catalog
    await catalog.close()
