"""Tasks and a workflow, one of the tasks imported from beside it."""

from leveret import define

from .stock import count


@define.task(version="1.2")
def price(item: str) -> int:
    return len(item)


@define.workflow
async def order(item: str) -> int:
    return await price(item) * await count(item)


again = price
