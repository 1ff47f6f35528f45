"""What `orders` imports."""

from leveret import define


@define.task
def count(item: str) -> int:
    return item.count("a")
