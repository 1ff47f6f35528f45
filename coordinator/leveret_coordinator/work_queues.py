"""The queues of definitions: declared when a definition is registered, and at every start.

A queue may break in the broker: RabbitMQ 3.10 half forgets a quorum queue that was declared just
before the node was killed. It can be inspected and takes no message, nor any consumer, for good. It
holds nothing that the catalog doesn't know, so it is deleted and declared once more.
"""

from collections.abc import Sequence

from leveret_broker import logs, topology
from leveret_broker.errors import QueueMismatch, TransportError
from leveret_broker.transport import Transport

log = logs.get_logger("leveret.coordinator")


async def declare(transport: Transport, names: Sequence[str]) -> None:
    """Make sure that they exist, as far as that can be done now. Never raises `TransportError`."""
    if not names:
        return
    try:
        await transport.declare(*map(topology.work_queue, names))
    except QueueMismatch as error:
        if len(names) > 1:
            for name in names:
                await declare(transport, [name])
        else:
            # It exists, only with other properties: invocations reach it all the same.
            log.warning("work queue differs from what is declared", error=str(error))
    except TransportError as error:
        # Workers declare it as well, and so does the first invocation that finds none.
        log.warning("work queues not declared", queues=list(names), error=str(error))


async def mend(transport: Transport, name: str) -> bool:
    """Make a queue anew that takes nothing, unless it holds something, and so is only full.

    Whether that was done. Raises `TransportError`.
    """
    status = await transport.inspect(name)
    if status is not None and status.messages:
        return False
    log.warning("work queue takes nothing and is made anew", queue=name)
    await transport.delete(name)
    await declare(transport, [name])
    return True
