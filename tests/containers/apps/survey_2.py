"""The same app with a second version of its task, and a second revision of its workflow."""

import asyncio

from leveret import define
from tests.acceptance.apps.book import noted, passed, ticket


@define.task(name="measure", version="2.0")
async def measure(number: int) -> str:
    with noted():
        await passed(ticket())
        return f"{number} by the second"


@define.workflow(name="survey")
async def survey(count: int) -> list[str]:
    parts = await asyncio.gather(*[measure(number) for number in range(count)])
    return ["upgraded", *parts]
