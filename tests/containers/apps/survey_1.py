"""An app before it is upgraded."""

import asyncio

from leveret import define
from tests.acceptance.apps.book import noted, passed, ticket


@define.task(name="measure", version="1.0")
async def measure(number: int) -> str:
    with noted():
        await passed(ticket())
        return f"{number} by the first"


@define.workflow(name="survey")
async def survey(count: int) -> list[str]:
    return await asyncio.gather(*[measure(number) for number in range(count)])
