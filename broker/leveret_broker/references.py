"""References to stored payloads: what travels in place of a large one. Pure.

    b"LR"  version  flags  digest, 32 bytes  size, 8 bytes  length, 2 bytes  place  [seal]

Everything up to the seal is the *head*; it can be read without any key. The seal is what callers
and workers sign the head with. The catalog's indexes find the digest by its place in the bytes
(`0005_stored_payloads.sql`), so that stands where it is for ever.
"""

import struct
from dataclasses import dataclass

from leveret_broker.errors import MalformedReference

MAGIC = b"LR"
VERSION = 1
DIGEST = 32
"""Bytes of the hash, BLAKE2b, that names an object."""
DIGEST_AT = 4
"""Where it begins."""
_FIXED = struct.Struct(f">2sBB{DIGEST}sQH")
_LONGEST_PLACE = 300
"""Bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """An object in a payload store."""

    digest: bytes
    """Of its bytes."""
    size: int
    """Bytes."""
    place: str = ""
    """The store that it was put into, for errors only: who reads goes to the store it was given."""

    @property
    def name(self) -> str:
        """The object's name in the store."""
        return self.digest.hex()


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A reference that has arrived, taken apart."""

    reference: Reference
    flags: int
    """Whoever seals says with them how."""
    head: bytes
    """What is sealed."""
    seal: bytes


def head(reference: Reference, flags: int = 0) -> bytes:
    """The bytes that say where a payload is; the seal follows them."""
    place = reference.place.encode("utf-8", "replace")[:_LONGEST_PLACE]
    fixed = _FIXED.pack(MAGIC, VERSION, flags, reference.digest, reference.size, len(place))
    return fixed + place


def is_reference(data: bytes | memoryview) -> bool:
    """Whether these bytes stand for a stored payload."""
    return bytes(data[:2]) == MAGIC


def digest_of(data: bytes | None) -> bytes | None:
    """The digest of the object that these bytes refer to, if they are a reference."""
    if data is None or not is_reference(data) or len(data) < _FIXED.size:
        return None
    return data[DIGEST_AT : DIGEST_AT + DIGEST]


def parse(data: bytes) -> Parts:
    """Take a reference apart. Raises `MalformedReference`."""
    if not is_reference(data) or len(data) < _FIXED.size:
        raise MalformedReference("these bytes are no reference to a stored payload")
    _, version, flags, digest, size, length = _FIXED.unpack_from(data)
    end = _FIXED.size + length
    if version != VERSION:
        raise MalformedReference(
            f"a reference written by another version of leveret (format {version}, this one reads "
            f"{VERSION})"
        )
    if length > _LONGEST_PLACE or len(data) < end:
        raise MalformedReference("a reference to a stored payload that was cut off")
    place = data[_FIXED.size : end].decode("utf-8", "replace")
    return Parts(
        reference=Reference(digest=digest, size=size, place=place),
        flags=flags,
        head=data[:end],
        seal=data[end:],
    )
