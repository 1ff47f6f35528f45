"""A program that asks for a run and waits for it: its argument, and a key if there is one."""

import asyncio
import sys

import leveret
from tests.acceptance.apps import tasks


async def main() -> None:
    about, *keys = sys.argv[1:]
    draw = tasks.draw.options(key=keys[0]) if keys else tasks.draw
    async with leveret.connect() as client:
        run = await client.start(draw(about))
        print("run", run.id)
        print("result", await run.result())


asyncio.run(main())
