"""The images' health check means that a service consumes."""

import asyncio

import pytest

from tests.acceptance.apps import load
from tests.acceptance.durable import becomes
from tests.containers.site import Site
from tests.containers.test_images import LOAD

OFTEN = {"interval": 1_000_000_000, "retries": 1}
"""The image's own check, each second."""


@pytest.mark.parametrize("which", ["coordinator", "worker"])
async def test_who_is_cut_off_is_unhealthy_until_it_is_back(
    site: Site, apps: str, which: str
) -> None:
    site.url += "?heartbeat=2"
    site.health_check = OFTEN
    services = {"coordinator": site.coordinator(), "worker": site.worker(apps, LOAD)}
    watched = services[which]
    await becomes(
        lambda: all(service.health == "healthy" for service in services.values()), "all are healthy"
    )
    site.cut_off(watched)
    await becomes(lambda: watched.health == "unhealthy", f"the {which} is unhealthy")
    site.reconnect(watched)
    await becomes(lambda: watched.health == "healthy", f"the {which} is healthy again")
    site.let_pass()
    async with site.client():
        assert await asyncio.wait_for(load.carry(1), 30) == 1
