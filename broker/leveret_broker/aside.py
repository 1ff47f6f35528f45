"""Messages that a worker or a caller can't read: to the dead-letter queue, each with its reason."""

from leveret_broker import logs, topology
from leveret_broker.errors import TransportError
from leveret_broker.transport import Delivery, Outgoing, Transport

LONGEST_REASON = 1000


class Aside:
    """Sets aside, and counts. The log has some of them, with the count; `leveret.dead` has all."""

    def __init__(self, transport: Transport, log: logs.EventLogger) -> None:
        self._transport = transport
        self._put = logs.Tally(log.warning, "message set aside")
        self._dropped = logs.Tally(log.warning, "message dropped, since it can't be set aside")

    async def put(self, delivery: Delivery, reason: str, *, exchange: str | None) -> None:
        """Settle the delivery once its copy, sent through this exchange, is kept; raises nothing.

        If the broker takes no copy, its own dead-lettering may: otherwise the message is dropped.
        """
        self._put.add(queue=delivery.queue, reason=reason)
        outgoing = Outgoing(
            queue=topology.DEAD.name,
            exchange=exchange,
            body=delivery.body,
            headers={
                topology.REASON_HEADER: reason[:LONGEST_REASON],
                topology.ORIGIN_HEADER: delivery.queue,
            },
        )
        try:
            await self._transport.publish(outgoing)
        except TransportError as error:
            self._dropped.add(queue=delivery.queue, reason=str(error))
            delivery.reject()
        else:
            delivery.ack()
