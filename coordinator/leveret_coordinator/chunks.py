"""How many runs of a queue share a message: a few milliseconds of work, never more.

A message costs the broker, the coordinator and the worker as much as a tiny task does. But what
shares a message goes to one worker, so long ones travel alone. How long executions of a definition
take is known by what workers tell; until they have told, nothing shares.
"""

import math
from collections.abc import Iterable

MOST_TOGETHER = 100
"""Runs in one message."""
LONGEST = 0.02
"""Seconds of work in one message."""
NEGLIGIBLE = 0.002
"""Seconds of work that need not be spread over the workers."""
SHARES = 4
"""Messages, at least, that work is spread over beyond that."""
MOST_DEFINITIONS = 10_000
"""That are remembered."""


class Chunks:
    """Sizes by definition, measured."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def note(self, paces: Iterable[tuple[str, float]]) -> None:
        """How many seconds executions of definitions took, each a mean of some.

        What takes longer now counts at once, what takes less by and by.
        """
        for definition, seconds in paces:
            known = self._seconds.pop(definition, seconds)
            self._seconds[definition] = max(seconds, (seconds + known) / 2)
            if len(self._seconds) > MOST_DEFINITIONS:
                del self._seconds[next(iter(self._seconds))]

    def size(self, definition: str, waiting: int) -> int:
        """How many of so many runs may share a message."""
        seconds = self._seconds.get(definition)
        if seconds is None or waiting == 1:
            return 1
        seconds = max(seconds, 1e-6)
        negligible = NEGLIGIBLE / seconds
        spread = max(negligible, math.ceil(waiting / SHARES))
        return max(1, min(MOST_TOGETHER, int(LONGEST / seconds), int(spread)))
