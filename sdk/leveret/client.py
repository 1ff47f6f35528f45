"""A program's way in: `connect` to a cluster, or run everything in this process by `local`."""

import asyncio
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from leveret import payload
from leveret.calls import Call
from leveret.connection import Connection
from leveret.context import connected
from leveret.errors import LeveretError, SettingError
from leveret.runs import Run
from leveret.settings import settings
from leveret_broker import identifiers, messages
from leveret_broker.errors import InvalidName
from leveret_broker.lifecycle import IoThread

if TYPE_CHECKING:
    from leveret_broker.messages import (
        DefinitionRecord,
        DefinitionRow,
        Explanation,
        RunRow,
        WorkerRow,
    )

R = TypeVar("R")


class Backend(Protocol):
    """What stands behind a client: a cluster, or everything in this process.

    Both methods run on the client's I/O thread.
    """

    async def open(self) -> Connection: ...

    async def close(self) -> None: ...


class Client:
    """A connection with a program's verbs. Made by `connect` or `local`, as `async with`.

    Calls awaited within the block go through it.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._io = IoThread()
        self._connection: Connection | None = None
        self._entered = AsyncExitStack()

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            raise LeveretError("the client is not open: use it as `async with`")
        return self._connection

    async def open(self) -> None:
        """Connect. Raises `CoordinatorUnreachable` in time, naming the broker."""
        self._io.start()
        try:
            self._connection = await self._io.call(self._backend.open())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect. Runs that were accepted go on, unless they live in this process."""
        self._connection = None
        if self._io.is_running:
            try:
                await self._io.call(self._backend.close())
            finally:
                self._io.stop()

    async def __aenter__(self) -> "Client":
        await self.open()
        self._entered.enter_context(connected(self.connection))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._entered.aclose()
        await self.close()

    @overload
    async def start(self, what: Call[R], /) -> Run[R]: ...
    @overload
    async def start(self, what: str, /, *args: Any, **kwargs: Any) -> Run[Any]: ...
    async def start(self, what: Call[Any] | str, /, *args: Any, **kwargs: Any) -> Run[Any]:
        """Start a run and return once the coordinator has accepted it; it is not awaited.

        `what` is a call, or an identifier followed by the arguments. Raises `IdentificationError`
        or `NotDeployedError` if there is nothing to run.
        """
        given: object = what  # whatever the type says
        if isinstance(what, str):
            arguments = payload.encode_arguments(args, kwargs)
            definition = await self.resolve(what)
            run = await self.connection.submit_identified(
                what, definition.project, definition.name, arguments
            )
        elif not isinstance(given, Call):
            raise TypeError(f"{given!r} is no call: call it, or give an identifier")
        else:
            if args or kwargs:
                raise TypeError("a call has its arguments already")
            run = await what.start(self.connection, acknowledge=True)
        await run.accepted()
        return run

    def run(self, run: str) -> Run[Any]:
        """The run with this id, whoever started it; whether it exists shows when it is asked."""
        return Run(self.connection, run)

    async def resolve(self, identifier: str) -> "DefinitionRecord":
        """The definition that an identifier means here. Raises `IdentificationError`."""
        await self.connection.prepare_known()
        answer = await self.connection.ask(
            messages.Resolved,
            messages.Resolve,
            identifier=identifier,
            project=self.connection.known_project,
        )
        return answer.definition

    async def definitions(self) -> "Sequence[DefinitionRow]":
        """All definitions of the known project, or of every project if none is known."""
        await self.connection.prepare_known()
        answer = await self.connection.ask(
            messages.Rows, messages.ListDefinitions, project=self.connection.known_project
        )
        return answer.definitions

    async def runs(
        self,
        *,
        state: messages.RunState | None = None,
        definition: str | None = None,
        since: float | None = None,
        limit: int = 50,
        after: str | None = None,
        roots_only: bool = False,
    ) -> "Sequence[RunRow]":
        """Runs, newest first. `since` is in seconds since the Unix epoch.

        `after`, the last run of one page, begins the next. Raises `IdentificationError` if there is
        no such run.
        """
        answer = await self.connection.ask(
            messages.Rows,
            messages.ListRuns,
            project=self.connection.known_project,
            state=state,
            definition=definition,
            since=since,
            limit=limit,
            after=after,
            roots_only=roots_only,
        )
        return answer.runs

    async def show(self, run: str) -> "Sequence[RunRow]":
        """A run and all below it, parents first. Raises `IdentificationError` if unknown."""
        return await self.connection.show(run)

    async def cancel(self, run: str) -> Sequence[str]:
        """Stop a run and all below it; return the ids of all that were stopped.

        They are none if it had ended. Raises `IdentificationError` if there is no such run, or it
        is of another project than the one that is known.
        """
        return await self.run(run).cancel()

    async def retry(self, run: str, *, revision: int | str | None = None) -> Run[Any]:
        """Execute a run again, and return it: its `result` waits for the new end.

        What had succeeded below it is kept. With `revision` it goes on with that revision, or
        version, of the code: a run that has not ended can be moved as well. Raises `RunStateError`
        if it succeeded, or has not ended and stays with its revision, and `IdentificationError` if
        there is no such run or revision.
        """
        again = self.run(run)
        await again.retry(revision=revision)
        return again

    async def resume(self, run: str) -> Run[Any]:
        """Go on with a parked run, and return it. Raises `RunStateError` for any other run."""
        again = self.run(run)
        await again.resume()
        return again

    async def explain(self, run: str) -> "Explanation":
        """Why a run does not move: `text` is a paragraph for people."""
        return await self.run(run).explain()

    async def workers(self) -> "Sequence[WorkerRow]":
        """The workers that are alive."""
        answer = await self.connection.ask(
            messages.Rows, messages.ListWorkers, project=self.connection.known_project
        )
        return answer.workers


def connect(
    url: str | None = None,
    *,
    project: str | None = None,
    key: str | None = None,
    timeout: float | None = None,
    payload_store: str | None = None,
    ship: Iterable[str | ModuleType] | None = None,
) -> Client:
    """A client of a cluster; `async with connect(...) as client` opens it.

    `url` is the broker's, `LEVERET_URL` by default; `project` is `LEVERET_PROJECT`, and unknown if
    neither is given; `key` is `LEVERET_KEY`, or in `LEVERET_KEY_FILE`; `payload_store`,
    `LEVERET_PAYLOAD_STORE`, is the URL of the store for large arguments and results. Opening raises
    `CoordinatorUnreachable` if broker or coordinator don't answer within `timeout` seconds (8 by
    default).

    What a script or a notebook defines is carried to the cluster, signed with the key, when it is
    called and nobody there serves it. `ship` names modules whose code is carried as well
    (`LEVERET_SHIP`, separated by commas); that holds for this process from then on. Workers take
    code only with `--accept-code`.
    """
    from leveret.cluster import ClusterBackend

    given = settings()
    if url is None:
        if given.url is None:
            raise SettingError("no broker to connect to: pass its URL, or set LEVERET_URL")
        url = given.url.get_secret_value()
    _ship(ship if ship is not None else (given.ship or "").split(","))
    return Client(
        ClusterBackend(
            url,
            project=checked_project(project, given.project),
            keys=given.keyring(key),
            timeout=timeout if timeout is not None else given.connect_timeout,
            payloads=given.payloads(payload_store),
        )
    )


def local(
    project: str | None = None,
    *,
    slots: int | None = None,
    processes: int | None = None,
    state: str | Path | None = None,
) -> Client:
    """A client with coordinator and worker in this process; `async with local(...) as client`.

    `slots` is the number of tasks executed at a time, `processes` the number of child processes
    for sync tasks (by default one a processor core). With `state`, a folder, runs and definitions
    are kept there, and what was under way when the process ended goes on at the next start.
    """
    from leveret.embedded import EmbeddedBackend

    given = settings()
    folder = state if state is not None else given.state
    return Client(
        EmbeddedBackend(
            project=checked_project(project, given.project),
            slots=_count("slots", slots, given.slots),
            processes=_count("processes", processes, given.processes),
            state=Path(folder) if folder is not None else None,
            keys=given.keys(),
            encrypts=given.encrypt,
            payloads=given.payloads(),
        )
    )


def _ship(modules: Iterable[str | ModuleType]) -> None:
    """Have the code of modules travel. Raises `SettingError` for one that can't be imported."""
    for module in modules:
        if isinstance(module, str) and not module.strip():
            continue
        from leveret import pickles

        try:
            pickles.ship(import_module(module.strip()) if isinstance(module, str) else module)
        except ImportError as error:
            raise SettingError(f"ship: {module!r} can't be imported: {error}") from error


def checked_project(given: str | None, setting: str | None = None) -> str | None:
    """The project that is known, if any. Raises `SettingError` if it can't be one."""
    project = given if given is not None else setting
    try:
        return None if project is None else identifiers.check("project", project)
    except InvalidName as error:
        raise SettingError(str(error)) from error


def _count(name: str, given: int | None, setting: int | None) -> int | None:
    count = given if given is not None else setting
    if count is not None and count < 1:
        raise SettingError(f"{name} is {count}, at least 1 is needed")
    return count


# -- the client of programs that don't open one ---------------------------------------------------


class _Default:
    """A process's own client, opened by its first await: a cluster if `LEVERET_URL` names one."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._process = 0
        self._opening = threading.Lock()

    async def connection(self) -> Connection:
        if not self._is_open():
            await asyncio.to_thread(self._open)
        assert self._client is not None
        return self._client.connection

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._process == os.getpid():
            asyncio.run(client.close())

    def _is_open(self) -> bool:
        """A forked child has a copy of the client, but not its threads."""
        return self._client is not None and self._process == os.getpid()

    def _open(self) -> None:
        with self._opening:
            if self._is_open():
                return
            client = from_settings()
            asyncio.run(client.open())
            self._client, self._process = client, os.getpid()
            threading.Thread(target=self._close_at_exit, name="leveret-exit").start()

    def _close_at_exit(self) -> None:
        """Close once the main thread has ended.

        `atexit` comes too late: the interpreter waits for the catalog's thread before.
        """
        threading.main_thread().join()
        self.close()


_default = _Default()


async def default_connection() -> Connection:
    """What calls go through outside of any `connect` or `local` block."""
    return await _default.connection()


def from_settings() -> Client:
    """A client as the settings say: of a cluster if `LEVERET_URL` is set, else embedded."""
    return connect() if settings().url is not None else local()
