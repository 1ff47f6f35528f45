"""What the worker's tests share."""

from collections.abc import AsyncGenerator

import pytest

from tests.worker.bench import Bench


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    """With two slots and one process."""
    made = Bench()
    await made.open()
    yield made
    await made.close()
