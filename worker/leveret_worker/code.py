"""Code that was shipped to this worker's project: fetched, verified, loaded, each once.

It is fetched by the connection's thread, and is bytes there. It is verified and loaded where it is
executed: in a child process, in a thread, or for the event loop in a thread beside it.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from leveret.errors import PayloadError

if TYPE_CHECKING:
    from leveret.definitions import Definition
    from leveret.keys import Keyring
    from leveret_broker.messages import CodeRef, DefinitionRecord

MOST_FETCHED = 64 * 1024 * 1024
"""Bytes of code that a worker keeps."""
MOST_LOADED = 100
"""Codes whose functions a process keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipped:
    """A definition that this worker serves without having it: each run names its code."""

    id: str
    kind: Literal["task", "workflow"]
    name: str
    queue: str
    code: "CodeRef"
    """What was shipped last: it executes runs that name none."""

    @classmethod
    def of(cls, record: "DefinitionRecord") -> "Shipped":
        """Raises `ValueError` for a record of something else."""
        if record.code is None or record.kind == "step":
            raise ValueError(f"{record.queue} was not shipped")
        return cls(
            id=record.id, kind=record.kind, name=record.name, queue=record.queue, code=record.code
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedCode:
    """A shipped function as it arrived, neither verified nor loaded."""

    project: str
    kind: str
    name: str
    """Of the definition that the code is said to be of."""
    digest: str
    index: int
    place: str
    """Where it is about to be executed."""
    body: bytes = field(repr=False)


class Shelf:
    """Code as bytes, fetched when it is first needed. Belongs to the connection's loop."""

    def __init__(self, fetch: Callable[[str], Awaitable[bytes]]) -> None:
        """`fetch` asks the coordinator for the code with a digest."""
        self._fetch = fetch
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._fetching: dict[str, asyncio.Task[bytes]] = {}

    async def get(self, digest: str) -> bytes:
        """The code. Raises what fetching raises."""
        if digest in self._kept:
            self._kept.move_to_end(digest)
            return self._kept[digest]
        task = self._fetching.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetched(digest))
            self._fetching[digest] = task
            task.add_done_callback(lambda _: self._fetching.pop(digest, None))
        return await asyncio.shield(task)

    def stop(self) -> None:
        """Fetch no more."""
        for task in self._fetching.values():
            task.cancel()

    async def _fetched(self, digest: str) -> bytes:
        body = await self._fetch(digest)
        self._kept[digest] = body
        self._size += len(body)
        while self._size > MOST_FETCHED and len(self._kept) > 1:
            self._size -= len(self._kept.popitem(last=False)[1])
        return body


class Loaded:
    """Code whose functions this process has loaded. Usable from any thread but the connection's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Sequence[Definition[..., Any]]] = OrderedDict()

    def function(self, code: SealedCode, keys: "Keyring | None") -> Callable[..., Any]:
        """The function, verified and loaded, which executes what its code imports.

        Raises `PayloadError` for code that is not of this definition or not signed for it, and
        `MissingModuleError` for what this host lacks.
        """
        with self._lock:
            definitions = self._definitions(code, keys)
        found = definitions[code.index] if code.index < len(definitions) else None
        said = code.kind, code.name, code.place
        if found is None or (found.kind, found.name, found.place) != said:
            raise PayloadError(
                f"the code {code.digest} is not that of a {code.kind} {code.name!r} for the place "
                f"{code.place!r}, which it is said to be: it is not executed"
            )
        function: Callable[..., Any] = found.fn
        return function

    def _definitions(
        self, code: SealedCode, keys: "Keyring | None"
    ) -> "Sequence[Definition[..., Any]]":
        name = code.project, code.digest
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        from leveret import bundles  # late: most children never need it

        found = bundles.unpack(code.body, keys=keys, project=code.project, digest=code.digest)
        self._kept[name] = found
        if len(self._kept) > MOST_LOADED:
            self._kept.popitem(last=False)
        return found
