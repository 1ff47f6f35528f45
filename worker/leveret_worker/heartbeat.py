"""The sign of life that the coordinator knows a worker by, sent from the connection's thread."""

import asyncio
from collections.abc import Awaitable, Callable

from leveret_broker import logs, topology
from leveret_broker.clock import Clock
from leveret_broker.errors import TransportError

log = logs.get_logger("leveret.worker")


class Heart:
    """Calls `beat` at once and then at a steady pace, until stopped."""

    def __init__(
        self,
        beat: Callable[[], Awaitable[None]],
        clock: Clock,
        every: float = topology.HEARTBEAT_EVERY,
    ) -> None:
        self._beat = beat
        self._clock = clock
        self._every = every
        self._task: asyncio.Task[None] | None = None
        self.started_at = 0.0
        """When it began, in seconds since the Unix epoch."""

    async def start(self) -> None:
        self.started_at = self._clock.now()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="heartbeat")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def beat(self) -> None:
        """Send one now. A beat that can't be sent is missed, not repeated."""
        try:
            await self._beat()
        except TransportError as error:
            log.warning("heartbeat missed", reason=str(error))
        except Exception as error:  # a worker whose heartbeats end is taken for dead
            log.exception("heartbeat failed", error=str(error))

    async def _run(self) -> None:
        while True:
            await self.beat()
            await self._clock.sleep(self._every)
