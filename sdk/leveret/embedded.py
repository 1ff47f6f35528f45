"""The composition root of a single process: coordinator and worker over the in-memory transport.

The same services as on a cluster; only the transport differs, and what can't be encoded fails here
too. Nothing but the catalog is kept, so a restart publishes again what had not ended.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from leveret.connection import DEFAULT_PROJECT, Connection
from leveret.definitions import Definition
from leveret.errors import DefinitionError, StateError
from leveret.keys import Keyring, load_keyring, new_key
from leveret.sealing import PayloadOptions
from leveret.session import Session
from leveret.workspace import PayloadFolder
from leveret_broker.clock import SystemClock
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_coordinator.errors import CatalogError
from leveret_coordinator.service import CoordinatorService, CoordinatorSettings
from leveret_worker.service import WorkerService

CATALOG = "catalog.sqlite"
"""The catalog's file in the folder of `state=`."""
KEY = "key"
"""The file beside it with the key that signs its payloads."""


class EmbeddedBackend:
    """Opens and closes a coordinator, a worker and a session in this process."""

    def __init__(
        self,
        *,
        project: str | None,
        slots: int | None = None,
        processes: int | None = None,
        state: Path | None = None,
        keys: Keyring | None = None,
        encrypts: bool = False,
        payloads: PayloadOptions | None = None,
    ) -> None:
        """Without `keys` it makes its own; `encrypts` is for those."""
        self._project = project
        self._keys = keys or replace(_keys_in(state), encrypts=encrypts)
        self._state = state
        broker = MemoryBroker()
        self._transports = [MemoryTransport(broker) for _ in range(3)]
        mine, coordinators, workers = self._transports
        catalog = None if state is None else state / CATALOG
        self._folder = PayloadFolder(state)
        self._payloads = replace(
            payloads or PayloadOptions(), store=str(self._folder.path), durable=state is not None
        )
        settings = CoordinatorSettings(
            payload_store=None if state is None else self._payloads.store, cleans_at_start=True
        )
        self._coordinator = CoordinatorService(
            coordinators, catalog, clock=SystemClock(), settings=settings
        )
        self._worker = WorkerService(
            workers,
            project=project or DEFAULT_PROJECT,
            keys=self._keys,
            payloads=self._payloads,
            slots=slots,
            processes=processes,
            serve_more=self._serve,
        )
        self._session = Session(mine, where="this process")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = AsyncExitStack()
        self._serving: dict[tuple[str, str | None], Definition[..., Any]] = {}

    async def open(self) -> Connection:
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as started:
            started.callback(self._folder.close)
            self._folder.open()
            for transport in self._transports:
                await transport.open()
                started.push_async_callback(transport.close)
            try:
                await self._coordinator.start()
            except CatalogError as error:
                raise StateError(str(error)) from error
            started.push_async_callback(self._coordinator.stop)
            started.push_async_callback(self._session.stop)
            await self._session.start()
            started.push_async_callback(self._worker.stop, grace=0)
            await self._worker.start()
            connection = Connection(
                self._session,
                project=self._project,
                keys=self._keys,
                payloads=self._payloads,
                serve=self._serve,
            )
            if self._state is not None:
                await connection.prepare_known()  # runs of an earlier start may wait for them
            # Nobody waits in a runtime that closes, so its session is the first to know.
            started.push_async_callback(self._session.stop)
            self._started = started.pop_all()
        return connection

    async def close(self) -> None:
        await self._started.aclose()

    async def _serve(self, definition: Definition[..., Any]) -> None:
        """Have the worker serve one more definition; from any loop.

        A definition made anew by the same code in the same place, as in a notebook, replaces the
        one before. Raises `DefinitionError` if another function has the name already.
        """
        name = (definition.name, definition.version)
        known = self._serving.get(name)
        if known is definition:
            return
        if known is not None and known.where != definition.where:
            _check_same_code(known, definition)
        assert self._loop is not None, "the runtime is open"
        serving = asyncio.run_coroutine_threadsafe(self._worker.serve([definition]), self._loop)
        await asyncio.wrap_future(serving)
        self._serving[name] = definition


def _check_same_code(known: Definition[..., Any], other: Definition[..., Any]) -> None:
    if known.fingerprint != other.fingerprint:
        raise DefinitionError(
            f"{known.where} and {other.where} are both {known!r}, with different code: "
            f"give one of them another name"
        )


def _keys_in(state: Path | None) -> Keyring:
    """A key of the runtime's own: kept in the folder, to read what an earlier start has written."""
    if state is None:
        return load_keyring(new_key())
    path = state / KEY
    try:
        state.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(new_key())
        return load_keyring(path.read_text())
    except OSError as error:
        raise StateError(f"{state} can't keep the state: {error.strerror} ({path})") from error
