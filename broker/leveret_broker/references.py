"""References to stored payloads: what travels in place of a large one. Pure.

    "LR"  version  flags  number of objects, u32  length of place, u16
    each object: what it is, u32  digest, 32 bytes  size, u64
    place
    [seal]  [front]

Numbers are big-endian. Everything up to the seal is the *head*; it can be read without any key, so
that the coordinator knows what a run needs. An object is a *buffer* of the payload, known by its
number there, or the *front*, all that is not in such a buffer; the front comes along unless it is
large itself. The seal is what callers and workers sign head and front with.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from leveret_broker.errors import MalformedReference

MAGIC = b"LR"
VERSION = 1
DIGEST = 32
"""Bytes of the hash that names an object."""
FRONT = 0xFFFFFFFF
"""What the front is, among objects that are buffers by their number."""
MOST_OBJECTS = 1_000_000
_FIXED = struct.Struct("!2sBBIH")
_OBJECT = struct.Struct(f"!I{DIGEST}sQ")
_LONGEST_PLACE = 300
"""Bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """An object in a payload store."""

    digest: bytes
    """Of its bytes."""
    size: int
    """Bytes."""
    part: int = FRONT
    """Which part of its payload it is."""
    place: str = ""
    """The store that it was put into, for errors only: who reads goes to the store it was given."""

    @property
    def name(self) -> str:
        """The object's name in the store."""
        return self.digest.hex()


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What has arrived in place of a payload, taken apart."""

    objects: tuple[Reference, ...]
    flags: int
    """Whoever seals says with them how."""
    head: memoryview
    rest: memoryview
    """Seal and front."""


def hasher() -> blake2b:
    """What makes the digest of an object."""
    return blake2b(digest_size=DIGEST, person=b"leveret buffer")


def head(objects: Sequence[Reference], flags: int = 0) -> bytes:
    """The bytes that say where a payload is; seal and front follow them."""
    place = objects[0].place.encode("utf-8", "replace")[:_LONGEST_PLACE] if objects else b""
    fixed = _FIXED.pack(MAGIC, VERSION, flags, len(objects), len(place))
    entries = (_OBJECT.pack(each.part, each.digest, each.size) for each in objects)
    return b"".join((fixed, *entries, place))


def is_reference(data: bytes | memoryview) -> bool:
    """Whether these bytes stand for a stored payload."""
    return bytes(data[:2]) == MAGIC


def names_in(data: bytes | None) -> tuple[str, ...]:
    """The names of the objects that these bytes refer to, if they are a reference."""
    if data is None or not is_reference(data):
        return ()
    try:
        return tuple(each.name for each in parse(data).objects)
    except MalformedReference:
        return ()


def parse(data: bytes | memoryview) -> Parts:
    """Take a reference apart. Raises `MalformedReference`."""
    view = memoryview(data)
    if not is_reference(view) or len(view) < _FIXED.size:
        raise MalformedReference("these bytes are no reference to a stored payload")
    _, version, flags, count, length = _FIXED.unpack_from(view)
    if version != VERSION:
        raise MalformedReference(
            f"a reference written by another version of leveret (format {version}, this one reads "
            f"{VERSION})"
        )
    start = _FIXED.size + count * _OBJECT.size
    end = start + length
    if count > MOST_OBJECTS or length > _LONGEST_PLACE or len(view) < end:
        raise MalformedReference("a reference to a stored payload that was cut off")
    place = bytes(view[start:end]).decode("utf-8", "replace")
    return Parts(
        objects=tuple(
            Reference(digest=digest, size=size, part=part, place=place)
            for part, digest, size in _OBJECT.iter_unpack(view[_FIXED.size : start])
        ),
        flags=flags,
        head=view[:end],
        rest=view[end:],
    )
