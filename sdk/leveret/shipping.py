"""Carries code to the cluster, when it is first called there and nobody serves it with code of
their own.

A notebook's code may have changed since the last call, in a function that the one called refers to
as much as in itself, so it is looked at for every call. That of a script or a module is looked at
once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from leveret import bundles, scripts
from leveret.bundles import AnyDefinition, Packed
from leveret.errors import NotDeployedError
from leveret_broker import logs, messages

if TYPE_CHECKING:
    from leveret.connection import Connection
    from leveret.keys import Keyring

log = logs.get_logger("leveret.shipping")

T = TypeVar("T")


class Shipper:
    """What one connection has shipped. Usable from any thread and any event loop."""

    def __init__(self, connection: "Connection", loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is the connection's own."""
        self._connection = connection
        self._loop = loop
        self._standings: WeakKeyDictionary[AnyDefinition, Future[messages.Standing]]
        self._standings = WeakKeyDictionary()
        self._shipped: dict[str, Future[messages.CodeRef | None]] = {}
        """By the code's digest: what stands for the definition that it was made for."""
        self._settled: WeakKeyDictionary[AnyDefinition, messages.CodeRef | None]
        self._settled = WeakKeyDictionary()
        self._packed: WeakKeyDictionary[AnyDefinition, Packed] = WeakKeyDictionary()
        """In this turn of the loop."""

    async def ship(self, definition: AnyDefinition) -> messages.CodeRef | None:
        """The code to call it by; `None` where it means what is deployed.

        Raises `NotDeployedError` where it is not deployed and there is no key to sign its code,
        `PayloadError` if its code can't travel, and `DefinitionError` if its name is taken.
        """
        if not scripts.travels(definition.module):
            return None
        if definition in self._settled:
            return self._settled[definition]
        standing = await self._standing(definition)
        keys = self._connection.keys
        if standing == "deployed" or (standing == "known" and keys is None):
            self._settled[definition] = None
            return None
        if keys is None:
            raise NotDeployedError(self._unsigned(definition))
        packed = self._pack(definition)
        code = await self._ship(packed, keys)
        if not _may_change(definition):
            self._settled[definition] = code
        return code

    def _unsigned(self, definition: AnyDefinition) -> str:
        project = self._connection.project
        return (
            f"{definition!r} isn't deployed in the project {project!r}, and its code can be "
            "carried there only signed: make a key with `leveret key new`, set LEVERET_KEY to it "
            f"here and for a worker that accepts code (`leveret worker --project {project} "
            f"--accept-code`). Or start a worker with this code (`leveret worker APP --project "
            f"{project}`)"
        )

    async def _standing(self, definition: AnyDefinition) -> messages.Standing:
        return await self._once(self._standings, definition, lambda: self._offer(definition))

    async def _offer(self, definition: AnyDefinition) -> messages.Standing:
        answer = await self._connection.ask(
            messages.Offered,
            messages.Offer,
            project=self._connection.project,
            definitions=(definition.spec,),
        )
        return answer.standings[0]

    def _pack(self, definition: AnyDefinition) -> Packed:
        """Once in a turn of the loop: calls that are gathered are of the same code."""
        packed = self._packed.get(definition)
        if packed is None:
            packed = self._packed[definition] = bundles.pack(definition)
            asyncio.get_running_loop().call_soon(self._packed.pop, definition, None)
        return packed

    async def _ship(self, packed: Packed, keys: "Keyring") -> messages.CodeRef | None:
        return await self._once(self._shipped, packed.digest, lambda: self._register(packed, keys))

    async def _register(self, packed: Packed, keys: "Keyring") -> messages.CodeRef | None:
        project = self._connection.project
        answer = await self._connection.ask(
            messages.Registered,
            messages.Ship,
            project=project,
            digest=packed.digest,
            body=bundles.seal(packed, keys=keys, project=project),
            definitions=tuple(map(bundles.spec_of, packed.definitions)),
        )
        called = answer.definitions[0]
        log.info("code shipped", definition=called.queue, digest=packed.digest)
        return called.code

    async def _once(self, made: Any, name: object, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What is asked once for all who want it; asked again after it failed."""
        future: Future[T] | None = made.get(name)
        if future is None or (future.done() and future.exception() is not None):
            future = made[name] = asyncio.run_coroutine_threadsafe(make(), self._loop)
        return await _shared(future)


def _may_change(definition: AnyDefinition) -> bool:
    """Whether its code may be another one at the next call: in a notebook, or at a prompt."""
    return definition.module in scripts.MAIN and scripts.script_name() is None


def _shared(future: "Future[T]") -> Awaitable[T]:
    """Wait for it. Cancelling who waits cancels nothing for others."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[T] = loop.create_future()

    def settle() -> None:
        if waiter.done():
            return
        error = future.exception()
        if error is None:
            waiter.set_result(future.result())
        else:
            waiter.set_exception(error)

    def done(_: "Future[T]") -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle)

    future.add_done_callback(done)
    return waiter
