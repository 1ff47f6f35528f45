"""Large contiguous data: it stays beside a payload's body, which only refers to it.

Bytes and arrays of many megabytes would otherwise be copied into the body, from there into the
sealed payload, and out of it again. Whoever gathers them keeps views; a copy is taken only of what
somebody could still change.
"""

from weakref import WeakValueDictionary

from leveret_broker.references import hasher

AT_LEAST = 64 * 1024
"""Bytes from which data stays outside of the body."""
SHARED_FROM = 1024 * 1024
"""Bytes from which equal copies are one: a hundred calls may be given the same array."""

BytesLike = bytes | bytearray | memoryview


class Buffers:
    """Gathers the data that a body refers to, by number."""

    def __init__(self, *, copies: bool) -> None:
        """`copies`: what may be changed before it travels is copied now."""
        self.views: list[memoryview] = []
        self.digests: dict[int, bytes] = {}
        """Those that are known already."""
        self._copies = copies

    def add(self, data: BytesLike) -> int:
        """The number by which the body refers to it."""
        view = memoryview(data)
        view = view if view.format == "B" and view.ndim == 1 else view.cast("B")
        number = len(self.views)
        if self._copies and not isinstance(data, bytes):
            view = memoryview(bytes(view))
            if view.nbytes >= SHARED_FROM:
                self.digests[number], view = _shared(view)
        self.views.append(view)
        return number


_copies: WeakValueDictionary[bytes, memoryview] = WeakValueDictionary()
"""Copies that somebody still has, by their digests."""


def _shared(copy: memoryview) -> tuple[bytes, memoryview]:
    """The digest, and the first of the equal copies that there are. The data is immutable."""
    found = digest(copy)
    return found, _copies.setdefault(found, copy)


class View:
    """Where a body refers to a buffer: whoever reads the value around it takes its bytes."""

    def __init__(self, data: memoryview, *, is_changeable: bool) -> None:
        self.data = data
        self._is_changeable = is_changeable

    def as_it_was(self) -> memoryview | bytearray:
        """The buffer, writable if the one that was sent is; a copy only where that takes one."""
        return bytearray(self.data) if self._is_changeable and self.data.readonly else self.data


def digest(buffer: memoryview) -> bytes:
    """What stands for a buffer where its payload is signed or identified: 256 bits of BLAKE2b."""
    hashed = hasher()
    hashed.update(buffer)
    return hashed.digest()
