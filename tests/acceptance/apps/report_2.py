"""The second revision."""

import asyncio

from leveret import define
from tests.acceptance.apps import tasks


@define.workflow
async def report() -> list[int]:
    numbers = await asyncio.gather(tasks.draw("a"), tasks.draw("b"))
    return [*numbers, await tasks.draw("c")]
