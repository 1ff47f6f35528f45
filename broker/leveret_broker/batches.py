"""How many of what waits share a message: as many as there are, within bounds."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MOST_ITEMS = 200
"""Items that share one message at most."""
MOST_BYTES = 1 << 20
"""Bytes of payload after which a message takes no further item."""
ON_THEIR_WAY = 4
"""Messages published and not yet confirmed, at most; what comes meanwhile waits and is batched."""


def take(waiting: list[T], size: Callable[[T], int]) -> list[T]:
    """Remove from the list what the next message takes, in order, and return it."""
    count = total = 0
    for item in waiting[:MOST_ITEMS]:
        total += size(item)
        count += 1
        if total >= MOST_BYTES:
            break
    taken = waiting[:count]
    del waiting[:count]
    return taken
