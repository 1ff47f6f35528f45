"""How payloads leave a process and enter it: in the message if they are small, else by the store.

What is large, an array say, is stored as an object of its own, once, whoever sends it, to however
many runs and beside whatever else. What travels is the rest, with references. The signature that
binds a payload to its run covers these and vouches for the objects by their digests: so nothing
is unpickled but what a holder of the key has sent for that run.

Storing and fetching block. Their awaitable twins do it on a thread, and don't even change the loop
for what is small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from leveret import payload
from leveret.errors import PayloadError
from leveret.keys import Keyring
from leveret.payload import Context, Encoded, Opened, Result, Unsealed
from leveret.signatures import Vouched
from leveret.sizes import shown
from leveret.weighing import heaviest
from leveret_broker.blocking import in_thread
from leveret_broker.errors import MalformedReference
from leveret_broker.references import FRONT, Reference, is_reference, parse

if TYPE_CHECKING:
    from leveret.store import PayloadStore

DEFAULT_THRESHOLD = 256 * 1024
MOST_STORED = 4 << 30
MOST_IN_A_MESSAGE = 15 << 20
"""Bytes: RabbitMQ takes messages of 16 MiB unless it is told otherwise."""
DEFAULT_CACHE_SIZE = 20 << 30
RENEW_AFTER = 600.0
"""Seconds after which an object that is stored once more is made young again. Much less than any
janitor's grace, within which what was stored has to be submitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadOptions:
    """Where large payloads go. Sizes are bytes."""

    store: str | None = None
    """The URL of the payload store; without one everything travels in messages."""
    threshold: int = DEFAULT_THRESHOLD
    """What is larger is stored."""
    most: int | None = None
    """What is larger can't be sent; `None` for what the way allows."""
    cache: str | None = None
    """The folder with this host's copies; `None` for the usual one."""
    cache_size: int = DEFAULT_CACHE_SIZE
    durable: bool = True
    """Whether what is stored survives a power failure."""

    @property
    def limit(self) -> int:
        """The most bytes that a payload may have."""
        if self.most is not None:
            return self.most
        return MOST_IN_A_MESSAGE if self.store is None else MOST_STORED


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A value whose large parts lie in the payload store, not sealed for anything yet."""

    objects: tuple[Reference, ...]
    front: bytes
    """The rest; empty if it is large, and an object as well."""


class Sealer:
    """Seals and opens the payloads of one process, with its keys and its store."""

    def __init__(self, keys: Keyring | None, options: PayloadOptions | None = None) -> None:
        self.keys = keys
        self.options = options or PayloadOptions()
        self._store: PayloadStore | None = None

    # -- sealing ----------------------------------------------------------------------------------

    def seal(self, value: Encoded | Stored, *, context: Context) -> bytes:
        """The bytes that travel; stores what is large. Raises `PayloadError`."""
        if isinstance(value, Stored):
            return payload.seal_stored(value.objects, value.front, keys=self.keys, context=context)
        self._check(value)
        if self._is_large(value):
            return self.seal(self._put(value), context=context)
        return payload.seal(value, keys=self.keys, context=context)

    async def stored(self, value: Encoded) -> Encoded | Stored:
        """The value, stored if it is large: what can be sealed without blocking.

        Raises `PayloadError`.
        """
        self._check(value)
        return await in_thread(partial(self._put, value)) if self._is_large(value) else value

    async def seal_soon(self, value: Encoded, *, context: Context) -> bytes:
        """`seal`, without blocking."""
        return self.seal(await self.stored(value), context=context)

    def _is_large(self, value: Encoded) -> bool:
        return self.options.store is not None and value.size > self.options.threshold

    def _check(self, value: Encoded) -> None:
        """Refuse what can't be sent, before anything is."""
        payload.check_signable(value, self.keys)
        if value.size <= self.options.limit:
            return
        advice = (
            "set LEVERET_PAYLOAD_STORE, for callers and workers alike, to a folder or a bucket "
            "that all of them reach"
            if self.options.store is None
            else "LEVERET_PAYLOAD_MAX is the limit"
        )
        raise PayloadError(
            f"too large: {shown(value.size)}{heaviest(value)}, and at most "
            f"{shown(self.options.limit)} can be sent: {advice}"
        )

    def _put(self, value: Encoded) -> Stored:
        store, threshold = self._opened_store(), self.options.threshold
        wrapped = payload.wrap(value, self.keys)
        large = {
            number: store.put([buffer], digest=wrapped.digests[number], part=number)
            for number, buffer in enumerate(wrapped.buffers)
            if buffer.nbytes > threshold
        }
        front = payload.front_parts(wrapped, large)
        if sum(map(len, front)) <= threshold:
            return Stored(objects=tuple(large.values()), front=b"".join(front))
        return Stored(objects=(*large.values(), store.put(front)), front=b"")

    # -- opening ----------------------------------------------------------------------------------

    def open(self, data: bytes, *, context: Context, result: Result | None = None) -> Opened:
        """The value that was sealed, fetched if it was stored. Raises `PayloadError` only."""
        return self.unseal(data, context=context).read(result)

    async def open_soon(
        self, data: bytes, *, context: Context, result: Result | None = None
    ) -> Opened:
        """`open`, without blocking; what is fetched is decoded here, as what came in a message."""
        return (await self.unseal_soon(data, context=context)).read(result)

    def unseal(self, data: bytes, *, context: Context) -> Unsealed:
        """What was sealed, verified and not read yet. Raises `PayloadError` only."""
        if not is_reference(data):
            return payload.verify_sealed(data, keys=self.keys, context=context)
        with payload.told(context):
            arrived = self._verified(data, context)
            fetched = self._fetch_all(arrived.objects)
        return arrived.unsealed(fetched, context)

    async def unseal_soon(self, data: bytes, *, context: Context) -> Unsealed:
        """`unseal`, without blocking."""
        if not is_reference(data):
            return payload.verify_sealed(data, keys=self.keys, context=context)
        with payload.told(context):
            arrived = self._verified(data, context)
            fetched = await in_thread(partial(self._fetch_all, arrived.objects))
        return arrived.unsealed(fetched, context)

    def _verified(self, data: bytes, context: Context) -> "_Arrived":
        try:
            parts = parse(data)
        except MalformedReference as error:
            raise PayloadError(str(error)) from error
        front, vouched = payload.verify_stored(parts, keys=self.keys, context=context)
        return _Arrived(
            objects=parts.objects, front=front, vouched=vouched, signed=bool(parts.flags)
        )

    def _fetch_all(self, objects: Sequence[Reference]) -> dict[int, memoryview]:
        """The objects, by what they are."""
        if self.options.store is None:
            size, place = sum(each.size for each in objects), objects[0].place if objects else ""
            raise PayloadError(
                f"{shown(size)} of it lie in the payload store {place}, and this process has "
                "none: set LEVERET_PAYLOAD_STORE"
            )
        store = self._opened_store()
        return {each.part: store.fetch(each) for each in objects}

    def _opened_store(self) -> "PayloadStore":
        if self._store is None:
            from leveret.cache import Cache, usual_folder  # late: most programs send little
            from leveret.store import PayloadStore

            options = self.options
            assert options.store is not None, "there is a store"
            folder = Path(options.cache) if options.cache is not None else usual_folder()
            self._store = PayloadStore(
                options.store,
                cache=Cache(folder, bound=options.cache_size),
                durable=options.durable,
            )
        return self._store


@dataclass(frozen=True, kw_only=True, slots=True)
class _Arrived:
    """A stored payload before its objects are fetched. Its signature is verified, if it has one."""

    objects: tuple[Reference, ...]
    front: memoryview
    vouched: Vouched | None
    signed: bool

    def unsealed(self, fetched: dict[int, memoryview], context: Context) -> Unsealed:
        front = fetched.pop(FRONT, self.front)
        return payload.unseal_stored(
            front, fetched, self.vouched, signed=self.signed, context=context
        )
