"""A site of one's own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import Site


@pytest.fixture
def site(rabbit_vhost_url: str, tmp_path: Path) -> Iterator[Site]:
    site = Site(rabbit_vhost_url, tmp_path)
    yield site
    site.close()
