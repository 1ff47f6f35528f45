"""How the coordinator is: what `leveret health` tells of it."""

import asyncio
from collections.abc import Sequence

from leveret_broker import topology
from leveret_broker.clock import Clock
from leveret_broker.errors import TransportError
from leveret_broker.health import Condition, Pulse
from leveret_broker.transport import Consumer, Transport

STUCK_AFTER = 60.0
"""Seconds that one step may take until the coordinator counts as stuck in it."""


class Watch:
    """Told of what the coordinator does, it says how that goes."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._pulse = Pulse(self._ask_broker)
        self._doing = "has not started"
        self._busy_since: float | None = None
        self._failure = ""
        self._failing_since: float | None = None

    def does(self, what: str) -> None:
        """It is not ready yet, or no more, because of this."""
        self._doing = what

    def serves(self) -> None:
        """From now on it should be ready."""
        self._doing = ""

    def works(self) -> None:
        """A step has begun."""
        if self._busy_since is None:
            self._busy_since = self._clock.now()

    def rests(self) -> None:
        """It waits for something to do: what had failed is done."""
        self.succeeded()

    def failed(self, error: Exception) -> None:
        """A step failed, and will be tried again."""
        self._busy_since = None
        self._failure = str(error) or type(error).__name__
        if self._failing_since is None:
            self._failing_since = self._clock.now()

    def succeeded(self) -> None:
        """A step did not fail."""
        self._busy_since = None
        self._failing_since = None

    async def condition(
        self, loop: "asyncio.Task[None] | None", consumers: Sequence[Consumer]
    ) -> Condition:
        """How it is, given its serving task and what it consumes by."""
        if self._doing:
            return Condition(text=self._doing, is_ready=False)
        if loop is None or loop.done():
            return Condition(text="has ended by an error", is_ready=False, is_live=False)
        if (stuck := self._seconds_since(self._busy_since)) > STUCK_AFTER:
            text = f"has been busy with one batch for {stuck:.0f} s: look at the catalog's disk"
            return Condition(text=text, is_ready=False)
        if self._failing_since is not None:
            seconds = self._seconds_since(self._failing_since)
            text = f"has failed for {seconds:.0f} s, and tries again: {self._failure}"
            return Condition(text=text, is_ready=False)
        if not all(consumer.is_consuming for consumer in consumers):
            return Condition(text="has lost a consumer of its queues", is_ready=False)
        if problem := await self._pulse.problem():
            return Condition(text=f"may not be connected: {problem}", is_ready=False)
        return Condition(text="is connected, and consumes requests and outcomes", is_ready=True)

    async def stop(self) -> None:
        """Ask the broker no more."""
        await self._pulse.stop()

    def _seconds_since(self, moment: float | None) -> float:
        return 0.0 if moment is None else self._clock.now() - moment

    async def _ask_broker(self) -> str | None:
        try:
            status = await self._transport.inspect(topology.REQUESTS.name)
        except TransportError as error:
            return str(error)
        if status is None or status.consumers == 0:
            return f"the broker knows of nobody who consumes {topology.REQUESTS.name!r}"
        return None
