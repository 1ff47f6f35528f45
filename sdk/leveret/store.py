"""The payload store: large payloads by the hash of their content, each written once.

Everything here blocks, so callers use it on a thread (`leveret_broker.blocking`).
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from leveret.cache import Cache, Verified
from leveret.errors import PayloadError
from leveret.sealing import RENEW_AFTER
from leveret.sizes import shown
from leveret_broker.clock import Clock, SystemClock
from leveret_broker.errors import (
    ContentChanged,
    ContentDamaged,
    ObjectMissing,
    StoreDenied,
    StoreError,
)
from leveret_broker.objects import Bytes, Objects, open_objects
from leveret_broker.references import FRONT, Reference, hasher


class PayloadStore:
    """Objects of a URL, and this host's copies of them. Usable from any thread."""

    def __init__(
        self,
        url: str,
        *,
        cache: Cache,
        durable: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """`durable`: what is stored survives a power failure."""
        self._url = url
        self._durable = durable
        self._cache = cache
        self._clock = clock or SystemClock()
        self._verified = Verified(by_times=True)
        self._objects: Objects | None = None
        self._opening = threading.Lock()

    def put(
        self, chunks: Sequence[Bytes], *, digest: bytes | None = None, part: int = FRONT
    ) -> Reference:
        """Store what these chunks are together, unless it is there already.

        `digest` is theirs, if it is known. Raises `PayloadError` if that fails, or if somebody
        changes the chunks meanwhile.
        """
        size = sum(memoryview(chunk).nbytes for chunk in chunks)
        digest = _hashed(chunks) if digest is None else digest
        try:
            objects = self._opened()
            reference = Reference(digest=digest, size=size, part=part, place=objects.place)
            if not self._is_there(objects, reference):
                objects.write(reference.name, _unchanged(chunks, digest))
        except StoreError as error:
            raise PayloadError(_not_stored(error, size)) from error
        return reference

    def fetch(self, reference: Reference) -> memoryview:
        """The content of an object, verified, in memory that can be written without consequence.

        It is mapped from a file, so that only what is looked at takes memory. Raises
        `PayloadError`.
        """
        try:
            objects = self._opened()
            path = objects.file(reference.name)
            if path is not None:
                return self._mapped(path, reference)
            return self._cache.get(reference, lambda: _read(objects, reference))
        except StoreError as error:
            raise PayloadError(_not_fetched(error, reference, self._objects)) from error

    def _opened(self) -> Objects:
        with self._opening:
            if self._objects is None:
                self._objects = open_objects(self._url, durable=self._durable)
            return self._objects

    def _is_there(self, objects: Objects, reference: Reference) -> bool:
        found = objects.find(reference.name)
        if found is None or found.size != reference.size:
            return False
        return self._clock.now() - found.modified_at < RENEW_AFTER or objects.renew(reference.name)

    def _mapped(self, path: Path, reference: Reference) -> memoryview:
        try:
            return self._verified.open(path, reference)
        except FileNotFoundError as error:
            raise ObjectMissing(f"{path} is gone") from error
        except PermissionError as error:
            raise StoreDenied(f"{path} may not be read") from error
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error}") from error


def _read(objects: Objects, reference: Reference) -> Iterator[Bytes]:
    """The object's content, if it is as large as it should be."""
    found = objects.find(reference.name)
    if found is None:
        raise ObjectMissing(f"{objects.place} has no object {reference.name}")
    if found.size != reference.size:
        raise ContentDamaged(f"it has {found.size} bytes instead of {reference.size}")
    return objects.read(reference.name)


def _hashed(chunks: Sequence[Bytes]) -> bytes:
    digest = hasher()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def _unchanged(chunks: Sequence[Bytes], digest: bytes) -> Iterator[Bytes]:
    """The chunks. Raises `ContentChanged` in the end: under this name nothing else may stand."""
    if all(map(_is_immutable, chunks)):
        yield from chunks
        return
    again = hasher()
    for chunk in chunks:
        yield chunk
        again.update(chunk)
    if again.digest() != digest:
        raise ContentChanged("it was changed while it was stored")


def _is_immutable(chunk: Bytes) -> bool:
    return type(chunk.obj if isinstance(chunk, memoryview) else chunk) is bytes


def _not_stored(error: StoreError, size: int) -> str:
    subject = f"a payload of {shown(size)} can't be stored"
    match error:
        case ContentChanged():
            return (
                f"{subject}: the program changed it while it was. Arrays that are arguments or "
                "results have to stay as they are until they are sent; pass a copy"
            )
        case StoreDenied():
            return f"{subject}: {error}. Look at this process's credentials and permissions"
        case _:
            return f"{subject}: {error}"


def _not_fetched(error: StoreError, reference: Reference, objects: Objects | None) -> str:
    subject = f"the stored payload {reference.name[:16]}… ({shown(reference.size)})"
    match error:
        case ObjectMissing():
            here = objects.place if objects is not None else "the payload store"
            if reference.place and reference.place != here:
                return (
                    f"{subject} is not in {here}: it was put into {reference.place}. Give all "
                    "processes the same payload store"
                )
            return f"{subject} is missing from {here}: it was removed there"
        case ContentDamaged():
            return f"{subject} is damaged, and not used: {error}"
        case StoreDenied():
            return (
                f"{subject} can't be fetched: {error}. Look at this process's credentials and "
                "permissions"
            )
        case _:
            return f"{subject} can't be fetched: {error}"
