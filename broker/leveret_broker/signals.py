"""A service as a process: it runs until it is told to stop, and stops by itself or at once."""

import asyncio
import os
import signal

from leveret_broker.lifecycle import Service

STOPPING = (signal.SIGTERM, signal.SIGINT)


async def run_until_signalled(service: Service) -> None:
    """Start a service, wait for SIGTERM or SIGINT, and stop it. A second signal ends at once.

    A signal during the start cancels that. Raises what the start raises.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def tell(number: int) -> None:
        if told.is_set():
            os._exit(128 + number)
        told.set()

    for number in STOPPING:
        loop.add_signal_handler(number, tell, number)
    starting = asyncio.ensure_future(service.start())
    telling = asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait([starting, telling], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await telling
            await service.stop()
    finally:
        for task in (starting, telling):
            task.cancel()
        await asyncio.gather(starting, telling, return_exceptions=True)
