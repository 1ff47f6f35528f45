"""Messages that nobody can execute: to the dead-letter queue, each with its reason."""

from leveret_broker import logs, topology
from leveret_broker.errors import TransportError
from leveret_broker.transport import Delivery, Outgoing, Transport

log = logs.get_logger("leveret.worker")


async def set_aside(
    transport: Transport, delivery: Delivery, reason: str, *, exchange: str | None = None
) -> None:
    """Settle the delivery once its copy, sent through this exchange, is kept; raises nothing."""
    log.warning("message set aside", queue=delivery.queue, reason=reason)
    outgoing = Outgoing(
        queue=topology.DEAD.name,
        exchange=exchange,
        body=delivery.body,
        headers={topology.REASON_HEADER: reason, topology.ORIGIN_HEADER: delivery.queue},
    )
    try:
        await transport.publish(outgoing)
    except TransportError as error:
        log.warning("message not set aside", reason=str(error))
        delivery.reject()
    else:
        delivery.ack()
