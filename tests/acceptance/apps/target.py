"""What is attacked: it answers with what it is given."""

import asyncio
from typing import Any

from leveret import define


@define.task
async def mirror(value: Any) -> Any:
    return value


@define.task
def mirror_in_a_process(value: Any) -> Any:
    return value


@define.task
async def wait_for_nothing() -> None:
    """It never ends by itself."""
    await asyncio.Event().wait()


@define.workflow
async def mirror_twice(value: Any) -> list[Any]:
    return [await mirror(value), await mirror_in_a_process(value)]
