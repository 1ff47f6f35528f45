"""Serving what is shipped to the project.

The catalog knows what that is. A message of the coordinator says that it is worth asking; it may
be lost, so this asks every now and then as well. What nobody calls any more is let go: a definition
that was shipped once would cost every worker a consumer for ever. The coordinator lists what is in
use, and a call of anything else makes it tell all workers to ask again.

A queue is let go in this order: stop consuming, tell the coordinator, ask once more. A call that
came before it was told is in that answer; one that comes later finds nobody who serves it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from leveret.errors import LeveretError
from leveret_broker import logs, messages
from leveret_broker.clock import Clock
from leveret_broker.errors import TransportError
from leveret_worker.code import Shipped

log = logs.get_logger("leveret.worker")

ASK_EVERY = 15.0
"""Seconds between two questions that nothing gave reason for."""


class Server(Protocol):
    """The worker, as far as this needs it."""

    def serves_itself(self, queue: str) -> bool:
        """Whether it serves this queue with code of its own."""
        ...

    def is_idle(self, queue: str) -> bool:
        """Whether it holds no run of it."""
        ...

    async def open_shipped(self, shipped: Shipped) -> None: ...

    async def close_shipped(self, shipped: Shipped) -> None: ...

    async def tell(self) -> None:
        """Tell the coordinator what is served now."""
        ...


Ask = Callable[[str], Awaitable[messages.Shipped]]
"""Asks for what follows a database id."""


class Generic:
    """Belongs to the connection's loop."""

    def __init__(self, server: Server, ask: Ask, clock: Clock) -> None:
        self._server = server
        self._ask = ask
        self._clock = clock
        self._served: dict[str, Shipped] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def served(self) -> Mapping[str, Shipped]:
        """By queue."""
        return self._served

    async def start(self) -> None:
        """Return once what was shipped so far is served."""
        await self._refresh()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="shipped code")

    async def stop(self) -> None:
        """Twice, or before the start, is fine."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def refresh(self) -> None:
        """There may be something new."""
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            await self._wait()
            self._wanted.clear()
            try:
                await self._refresh()
            except (TransportError, LeveretError) as error:
                log.warning("what is shipped is not known", reason=str(error))
            except Exception as error:  # it goes on serving what it serves
                log.exception("what is shipped can't be served", error=str(error))

    async def _wait(self) -> None:
        asking = asyncio.ensure_future(self._wanted.wait())
        waiting = asyncio.ensure_future(self._clock.sleep(ASK_EVERY))
        try:
            await asyncio.wait((asking, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
            waiting.cancel()

    async def _refresh(self) -> None:
        in_use = await self._in_use()
        opened = await self._open(in_use)
        closed = await self._close({shipped.queue for shipped in in_use})
        if opened or closed:
            await self._server.tell()
        if closed:
            await self._open(await self._in_use())
            await self._server.tell()

    async def _in_use(self) -> Sequence[Shipped]:
        found: list[Shipped] = []
        after = ""
        while True:
            answer = await self._ask(after)
            found += [Shipped.of(record) for record in answer.definitions]
            if not answer.has_more:
                return found
            after = answer.definitions[-1].id

    async def _open(self, in_use: Sequence[Shipped]) -> bool:
        """Whether there was anything new."""
        has_opened = False
        for shipped in in_use:
            if self._server.serves_itself(shipped.queue):
                continue
            is_new = shipped.queue not in self._served
            self._served[shipped.queue] = shipped
            if is_new:
                await self._server.open_shipped(shipped)
                log.info("serves what was shipped", definition=shipped.queue)
                has_opened = True
        return has_opened

    async def _close(self, in_use: set[str]) -> bool:
        """Whether anything was let go."""
        has_closed = False
        for queue in [queue for queue in self._served if queue not in in_use]:
            if self._server.is_idle(queue):
                shipped = self._served[queue]
                await self._server.close_shipped(shipped)
                if self._server.is_idle(queue):
                    del self._served[queue]
                    has_closed = True
                else:  # it took some in its last moment
                    await self._server.open_shipped(shipped)
        return has_closed
