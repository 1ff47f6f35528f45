"""Being known to the coordinator, so that no cancellation is missed.

A worker joins at its start, and again whenever it may have missed something: after a lost
connection, and after its process was stopped for a while. The coordinator's answer is a generation.
Whatever was stopped before that answer was stopped before the generation began, so invocations of
an older generation have to be claimed; until there is an answer, all of them have to.

Whoever may write to the worker's control queue could claim to be the coordinator, and say a
generation that is never reached: everything would have to be claimed from then on. So each question
has a nonce, and only who has read the question can answer it.
"""

import asyncio
import secrets
from collections.abc import Callable

from leveret_broker import logs
from leveret_broker.clock import Clock

log = logs.get_logger("leveret.worker")

JOIN_EVERY = 3.0
"""Seconds after which a coordinator that did not answer is asked again."""


class Membership:
    """Asks to be let in, until the coordinator has answered."""

    def __init__(self, ask: Callable[[str], None], clock: Clock) -> None:
        """`ask` publishes the question, with its nonce."""
        self._ask = ask
        self._nonce: str | None = None
        """That of the latest question, as long as an answer would count."""
        self._clock = clock
        self._generation: int | None = None
        self._joined = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._ignored = logs.Tally(log.warning, "a generation that was not asked for is ignored")

    @property
    def is_joined(self) -> bool:
        return self._generation is not None

    def covers(self, generation: int) -> bool:
        """Whether this worker would know if an invocation of this generation had been stopped."""
        return self._generation is not None and generation >= self._generation

    async def join(self) -> None:
        """Return when the coordinator has answered, however long that takes."""
        self.renew()
        await self._joined.wait()

    def renew(self) -> None:
        """Join again: something may have been missed."""
        self.leave()
        self._stop_asking()
        self._nonce = secrets.token_hex(16)
        asking = self._ask_until_joined(self._nonce)
        self._asking = asyncio.get_running_loop().create_task(asking)

    def leave(self) -> None:
        """The connection is lost, and with it what the coordinator may say: all is to be claimed
        until this worker has joined again."""
        self._nonce = self._generation = None
        self._joined.clear()

    def admit(self, generation: int, nonce: str | None) -> None:
        """The coordinator has answered; what answers another question changes nothing."""
        if nonce is None or nonce != self._nonce:
            self._ignored.add(generation=generation)
            return
        log.info("joined", generation=generation)
        self._generation = max(generation, self._generation or 0)
        self._joined.set()
        self._stop_asking()

    def stop(self) -> None:
        """Ask no more. Twice, or before the start, is fine."""
        self._stop_asking()

    def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask_until_joined(self, nonce: str) -> None:
        self._ask(nonce)
        while True:
            await self._clock.sleep(JOIN_EVERY)
            log.warning("no coordinator has let this worker in yet: asking again")
            self._ask(nonce)
