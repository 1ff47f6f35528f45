"""The images as they are: who runs in them, what they may write, and how they end."""

from tests.acceptance.apps import load
from tests.containers.site import Site

LOAD = "tests.acceptance.apps.load"


async def test_a_call_from_outside_runs_in_the_containers_and_all_stop_with_0(
    site: Site, apps: str
) -> None:
    """Both run without rights, and with nothing to write to but their volumes and /tmp."""
    services = [site.coordinator(), site.worker(apps, LOAD, "--processes", "1")]
    async with site.client():
        site.let_pass()
        assert await load.relay(1) == 1
        assert await load.carry_in_a_process(2) == 2
    for service in reversed(services):
        assert service.printed("id", "-u") == "10001"
        assert service.stop() == 0, service.text()
