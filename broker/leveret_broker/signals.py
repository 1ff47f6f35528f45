"""A service as a process: it runs until it is told to stop, and stops by itself or at once."""

import asyncio
import os
import signal

from leveret_broker.lifecycle import Service

STOPPING = (signal.SIGTERM, signal.SIGINT)


async def run_until_signalled(service: Service) -> None:
    """Start a service, wait for SIGTERM or SIGINT, and stop it. A second signal ends at once.

    A signal during the start is heeded as well.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def tell(number: int) -> None:
        if told.is_set():
            os._exit(128 + number)
        told.set()

    for number in STOPPING:
        loop.add_signal_handler(number, tell, number)
    try:
        starting = asyncio.ensure_future(service.start())
        stopping = asyncio.ensure_future(told.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        await asyncio.gather(starting, return_exceptions=told.is_set())
        await stopping
    finally:
        await service.stop()
        for number in STOPPING:
            loop.remove_signal_handler(number)
