"""A program that awaits a call: over its own connection if its argument says so."""

import asyncio
import signal
import sys
from contextlib import nullcontext

import leveret
from tests.acceptance.apps import held


async def main() -> None:
    connects = sys.argv[1:] == ["connected"]
    async with leveret.connect() if connects else nullcontext():
        await held.parent()


signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
asyncio.run(main())
