"""Tasks that take a ticket, and wait until it is let pass."""

import asyncio
import random
from typing import Any

from leveret import define
from tests.acceptance.apps.book import noted, passed, ticket


@define.task
async def draw(about: Any) -> int:
    """A number that no other execution has. They end in random order."""
    with noted() as note:
        note.value = number = ticket()
        await passed(number)
        await asyncio.sleep(random.uniform(0, 0.2))
        return number


@define.task
async def follow(before: int) -> list[int]:
    """What it was given, and a number of its own."""
    with noted() as note:
        number = ticket()
        note.value = [before, number]
        await passed(number)
        await asyncio.sleep(random.uniform(0, 0.2))
        return [before, number]


@define.task
async def together(parts: list[list[int]]) -> list[list[int]]:
    with noted() as note:
        note.value = parts
        return parts
