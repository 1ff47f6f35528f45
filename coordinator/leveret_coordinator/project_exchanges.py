"""The exchanges of projects whose users may reach nothing else: kept bound to our queues.

`leveret admin grant` makes them. But a binding goes with its queue, and users of a project may bind
nothing, so whoever declares our queues anew has to bind them anew.
"""

from collections.abc import Sequence

from leveret_broker import logs, topology
from leveret_broker.errors import TransportError
from leveret_broker.transport import Delivery, Transport

log = logs.get_logger("leveret.coordinator")


class ProjectExchanges:
    """Those that something came through since the start."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._tended: set[str] = set()

    async def tend(self, deliveries: Sequence[Delivery]) -> None:
        """Declare those that are new, so that the transport declares them again after a loss."""
        exchanges = {delivery.exchange for delivery in deliveries} - self._tended
        for exchange in exchanges:
            self._tended.add(exchange)
            project = topology.project_of(exchange)
            if project is None:
                continue
            try:
                await self._transport.declare(*topology.exchanges(project))
            except TransportError as error:
                log.warning("exchange not declared", exchange=exchange, error=str(error))
