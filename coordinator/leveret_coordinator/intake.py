"""What arrives: decoded, or set aside in `leveret.dead` with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass

from leveret_broker import codec, logs, topology
from leveret_broker.errors import MalformedMessage
from leveret_broker.messages import (
    Attach,
    Cancel,
    Explain,
    Goodbye,
    Heartbeat,
    Outcomes,
    Request,
    Retry,
    Submit,
)
from leveret_broker.transport import Delivery, Outgoing, Transport
from leveret_coordinator.confinement import OutOfProject, confined

log = logs.get_logger("leveret.coordinator")

Arrived = Request | Outcomes

LONGEST_ID = 200
"""Bytes that an id in a message may have: it becomes a queue's name or a correlation id."""
LONGEST_REASON = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """A delivery and what it says."""

    delivery: Delivery
    message: Arrived


async def receive(deliveries: Sequence[Delivery], transport: Transport) -> list[Received]:
    """Decode each; those that can't be are set aside."""
    received: list[Received] = []
    for delivery in deliveries:
        try:
            received.append(Received(delivery=delivery, message=read(delivery)))
        except MalformedMessage as error:
            await set_aside(delivery, f"malformed: {error}", transport)
        except OutOfProject as error:
            await set_aside(delivery, f"refused: {error}", transport)
    return received


def read(delivery: Delivery) -> Arrived:
    """What a delivery says. Raises `MalformedMessage` with the reason, and `OutOfProject` for what
    its sender may not say."""
    message: Arrived
    if delivery.queue == topology.OUTCOMES.name:
        message = codec.decode(delivery.body, Outcomes)
    else:
        message = codec.decode_request(delivery.body)
    for text in _ids(message):
        if not 0 < len(text.encode()) <= LONGEST_ID:
            raise MalformedMessage(f"an id of {len(text.encode())} bytes: {text[:40]!r}…")
    project = topology.project_of(delivery.exchange)
    return message if project is None else confined(message, project)


async def set_aside(delivery: Delivery, reason: str, transport: Transport) -> None:
    """Move the message to where people look for what nobody could deal with. Never raises."""
    log.error("message set aside", queue=delivery.queue, reason=reason)
    message = Outgoing(
        body=delivery.body,
        queue=topology.DEAD.name,
        correlation_id=delivery.correlation_id,
        headers={
            **delivery.headers,
            topology.REASON_HEADER: reason[:LONGEST_REASON],
            topology.ORIGIN_HEADER: delivery.queue,
        },
    )
    try:
        await transport.publish(message)
    except Exception as error:  # of this message nothing may stop the service
        log.warning("set aside without its reason", queue=delivery.queue, error=str(error))
        delivery.reject()
    else:
        delivery.ack()


def _ids(message: Arrived) -> list[str]:
    """Texts that become names in the broker."""
    match message:
        case Outcomes() | Heartbeat() | Goodbye():
            return [message.worker]
        case Submit():
            runs = [submission.run for submission in message.submissions]
            inputs = [made for submission in message.submissions for made in submission.inputs]
            return [message.session, *runs, *inputs]
        case Retry() | Explain():
            return [message.session, message.run]
        case Cancel():
            return [message.session, *message.runs, *message.unneeded]
        case Attach():
            return [message.session, *message.runs]
        case _:
            return [message.session]
