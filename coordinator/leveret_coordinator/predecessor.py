"""One coordinator a broker: the next one waits until the last one is gone."""

from leveret_broker import logs, topology
from leveret_broker.clock import Clock
from leveret_broker.transport import Transport
from leveret_coordinator.errors import AnotherCoordinator

log = logs.get_logger("leveret.coordinator")

LOOK_AGAIN_AFTER = 0.1
"""Seconds."""


async def wait_gone(transport: Transport, clock: Clock, *, within: float) -> None:
    """Return when nobody consumes the coordinator's requests.

    A broker may take a moment to notice that a killed coordinator is gone. Raises
    `AnotherCoordinator` if one is still there after so many seconds.
    """
    left, told = within, False
    while await _is_served(transport):
        if not told:
            told = True
            log.info("another coordinator is there, waiting for it to leave")
        if left <= 0:
            raise AnotherCoordinator(
                f"Another coordinator consumes {topology.REQUESTS.name!r} at this broker. Two with "
                "catalogs of their own would each know half of the runs: stop that one first, or "
                "use another broker or virtual host."
            )
        await clock.sleep(LOOK_AGAIN_AFTER)
        left -= LOOK_AGAIN_AFTER


async def _is_served(transport: Transport) -> bool:
    status = await transport.inspect(topology.REQUESTS.name)
    return status is not None and status.consumers > 0
