"""The queues of definitions: declared when a definition is registered, and at every start."""

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
