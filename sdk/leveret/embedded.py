"""The composition root of a single process: coordinator and worker over the in-memory transport.

The same services as on a cluster; only the transport differs, and what can't be encoded fails here
too. Nothing but the catalog is kept, so a restart publishes again what had not ended.
"""

import asyncio
import secrets
from pathlib import Path
from typing import Any

from leveret.connection import DEFAULT_PROJECT, Connection
from leveret.definitions import Definition
from leveret.session import Session
from leveret_broker.clock import SystemClock
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_coordinator.service import CoordinatorService
from leveret_worker.service import WorkerService

CATALOG = "catalog.sqlite"
"""The catalog's file in the folder of `state=`."""


class EmbeddedBackend:
    """Opens and closes a coordinator, a worker and a session in this process."""

    def __init__(
        self,
        *,
        project: str | None,
        slots: int | None = None,
        processes: int | None = None,
        state: Path | None = None,
        key: bytes | None = None,
    ) -> None:
        self._project = project
        self._key = key or secrets.token_bytes(32)
        self._state = state
        broker = MemoryBroker()
        self._transports = [MemoryTransport(broker) for _ in range(3)]
        mine, coordinators, workers = self._transports
        catalog = None if state is None else state / CATALOG
        self._coordinator = CoordinatorService(coordinators, catalog, clock=SystemClock())
        self._worker = WorkerService(
            workers,
            project=project or DEFAULT_PROJECT,
            key=self._key,
            slots=slots,
            processes=processes,
            serve_more=self._serve,
        )
        self._session = Session(mine, where="this process")
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> Connection:
        self._loop = asyncio.get_running_loop()
        if self._state is not None:
            self._state.mkdir(parents=True, exist_ok=True)
        for transport in self._transports:
            await transport.open()
        await self._coordinator.start()
        await self._session.start()
        await self._worker.start()
        return Connection(self._session, project=self._project, key=self._key, serve=self._serve)

    async def close(self) -> None:
        await self._worker.stop(grace=0)
        await self._session.stop()
        await self._coordinator.stop()
        for transport in self._transports:
            await transport.close()

    async def _serve(self, definition: Definition[..., Any]) -> None:
        """Have the worker serve one more definition; from any loop."""
        assert self._loop is not None, "the runtime is open"
        serving = asyncio.run_coroutine_threadsafe(self._worker.serve([definition]), self._loop)
        await asyncio.wrap_future(serving)
