"""What a transport has while it is connected, and how long it waits before it connects again."""

from collections.abc import Callable

from leveret_broker.rabbitmq_connection import say_goodbye
from leveret_broker.rabbitmq_publisher import Publisher
from leveret_broker.rabbitmq_tap import Connection
from leveret_broker.rabbitmq_topology import Topology

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
STABLE_AFTER = 10.0
"""Seconds that a session has to last for the pauses to start over."""


class Session:
    """A pair of connections and what hangs on them."""

    def __init__(self, publishing: Connection, consuming: Connection, *, replicated: bool) -> None:
        self.publishing = publishing
        self.consuming = consuming
        self.publisher = Publisher(publishing)
        self.topology = Topology(consuming, replicated=replicated)

    @property
    def is_alive(self) -> bool:
        return not (self.publishing.is_closed or self.consuming.is_closed)

    async def close(self) -> None:
        await say_goodbye(self.publishing, self.consuming)


class Backoff:
    """The pauses before reconnecting.

    There is one before the first attempt already: when a broker goes away, all its clients notice
    at once. The pauses grow until a session has lasted `STABLE_AFTER` seconds; one that breaks as
    soon as it is up doesn't make them start over. `clock` is monotonic, in seconds.
    """

    def __init__(self, *, jitter: Callable[[], float], clock: Callable[[], float]) -> None:
        self._jitter = jitter
        self._clock = clock
        self._attempts = 0
        self._connected_at: float | None = None

    def connected(self) -> None:
        """A session has begun."""
        self._connected_at = self._clock()

    def next_pause(self) -> float:
        """Seconds to wait before connecting again."""
        if self._connected_at is not None and self._clock() - self._connected_at > STABLE_AFTER:
            self._attempts = 0
        self._connected_at = None
        self._attempts += 1
        return pause(self._attempts, self._jitter)


def pause(attempt: int, jitter: Callable[[], float], *, longest: float = LONGEST_PAUSE) -> float:
    """Seconds before the next attempt: exponential, the upper half of it left to chance."""
    most = min(longest, FIRST_PAUSE * 2.0 ** min(attempt, 16))
    return most * (0.5 + 0.5 * jitter())
