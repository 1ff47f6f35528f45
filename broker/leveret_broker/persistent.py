"""A service over RabbitMQ that waits for its broker, however long that takes.

Containers start in any order, and a broker may be away, moved or misconfigured for a while. What
somebody else can put right is tried again; what only another setting here can, ends the start.
"""

import asyncio
import random
from collections.abc import Callable

from leveret_broker import logs
from leveret_broker.errors import Misconfigured, TransportError
from leveret_broker.health import Condition, Watched
from leveret_broker.lifecycle import Connected
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.rabbitmq_connection import Hopeless
from leveret_broker.rabbitmq_session import pause

log = logs.get_logger("leveret")

LONGEST_PAUSE = 5.0
LONGEST_PAUSE_IF_REFUSED = 30.0
"""Brokers count wrong passwords."""

Make = Callable[[], tuple[RabbitTransport, Watched]]
"""Makes a transport, which is tried once, and what runs over it."""


class Persistent:
    """Makes a service and starts it, again and again until it has started."""

    def __init__(
        self,
        make: Make,
        *,
        also: tuple[type[Exception], ...] = (),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`also`: what is tried again besides a `TransportError`."""
        self._make = make
        self._retried: tuple[type[Exception], ...] = (TransportError, *also)
        self._jitter = jitter
        self._problem: str | None = None
        self._transport: RabbitTransport | None = None
        self._service: Watched | None = None
        self._connected: Connected | None = None
        self._has_started = False

    async def start(self) -> None:
        """Return when it serves. Raises what trying again can't put right."""
        attempt = 0
        while True:
            attempt += 1
            self._transport, self._service = self._make()
            self._connected = Connected(self._transport, self._service)
            try:
                await self._connected.start()
            except Misconfigured:
                raise
            except self._retried as error:
                seconds = _pause(attempt, error, self._jitter)
                self._problem = str(error)
                log.warning("not started, will be tried again", reason=str(error), seconds=seconds)
                await asyncio.sleep(seconds)
            else:
                self._has_started = True
                return

    async def stop(self) -> None:
        if self._connected is not None and self._has_started:
            await self._connected.stop()

    async def condition(self) -> Condition:
        """How it is: what keeps it from its broker comes first."""
        if self._transport is None or self._service is None:
            return Condition(text="has not started", is_ready=False)
        if self._has_started or self._transport.problem is None:
            return await self._condition(self._transport, self._service)
        problem = self._problem or self._transport.problem
        return Condition(text=f"has not started, and tries again: {problem}", is_ready=False)

    async def _condition(self, transport: RabbitTransport, service: Watched) -> Condition:
        problem = transport.problem
        condition = await service.condition()
        if problem is not None and condition.is_live:
            return Condition(text=f"is not connected: {problem}", is_ready=False)
        return condition


def _pause(attempt: int, error: Exception, jitter: Callable[[], float]) -> float:
    longest = LONGEST_PAUSE_IF_REFUSED if isinstance(error, Hopeless) else LONGEST_PAUSE
    return round(pause(attempt, jitter, longest=longest), 2)
