"""Large contiguous data: it stays beside a payload's body, which only refers to it.

Bytes and arrays of many megabytes would otherwise be copied into the body, from there into the
sealed payload, and out of it again. Whoever gathers them keeps views; a copy is taken only of what
somebody could still change.
"""

import hashlib

AT_LEAST = 64 * 1024
"""Bytes from which data stays outside of the body."""

BytesLike = bytes | bytearray | memoryview


class Buffers:
    """Gathers the data that a body refers to, by number."""

    def __init__(self, *, copies: bool) -> None:
        """`copies`: what may be changed before it travels is copied now."""
        self.views: list[memoryview] = []
        self._copies = copies

    def add(self, data: BytesLike) -> int:
        """The number by which the body refers to it."""
        if self._copies and not isinstance(data, bytes):
            data = bytes(data)
        view = memoryview(data)
        self.views.append(view if view.format == "B" and view.ndim == 1 else view.cast("B"))
        return len(self.views) - 1


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
    return hashlib.blake2b(buffer, digest_size=32, person=b"leveret buffer").digest()
