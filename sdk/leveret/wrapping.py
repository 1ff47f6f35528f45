"""What an encoded value goes through before it is signed: it is packed, and encrypted if wished.

Buffers are not packed: they can be used where they lie then, and are stored once by their content.
On arrival nothing is decrypted or unpacked before the signature was verified, if there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgpack

from leveret import compression, encryption
from leveret.buffers import digest
from leveret.errors import PayloadError
from leveret.keys import Keyring
from leveret.layout import Flag, Parts


@dataclass(frozen=True)
class Wrapped:
    """What is laid out, and signed."""

    flags: Flag
    prelude: bytes
    body: bytes
    unpacked: int
    """The body's size before it was packed, 0 if it isn't."""
    buffers: tuple[memoryview, ...] = field(repr=False)
    known_digests: tuple[bytes, ...] | None = field(default=None, repr=False)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """Those of the buffers, as they are here."""
        return (
            tuple(map(digest, self.buffers)) if self.known_digests is None else self.known_digests
        )


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What was wrapped."""

    prelude: bytes | memoryview
    body: bytes | memoryview
    buffers: tuple[memoryview, ...]


def wrap(
    prelude: bytes,
    body: bytes,
    buffers: tuple[memoryview, ...],
    digests: tuple[bytes, ...] | None,
    *,
    pickled: bool,
    keys: Keyring | None,
) -> Wrapped:
    """Ready to be signed with these keys. The digests are the buffers', if they are known."""
    flags = Flag.PICKLED if pickled else Flag(0)
    packed, unpacked = compression.packed(body), len(body)
    if packed is None or (keys is None and not compression.is_modest(len(packed), unpacked)):
        packed, unpacked = body, 0
    if keys is None or not keys.encrypts:
        return Wrapped(flags, prelude, packed, unpacked, buffers, digests)
    if digests is None:
        digests = tuple(map(digest, buffers))
    front, packed, buffers = _encrypted(prelude, packed, buffers, digests, keys.signing)
    return Wrapped(flags | Flag.ENCRYPTED, front, packed, unpacked, buffers)


def unwrap(parts: Parts, key: bytes | None) -> Unwrapped:
    """What was wrapped; `key` is the one by which it was verified. Raises `PayloadError`."""
    prelude: bytes | memoryview = parts.prelude
    body: bytes | memoryview = parts.body
    buffers = parts.buffers
    if Flag.ENCRYPTED in parts.flags:
        if key is None:
            raise PayloadError("it is encrypted, and nobody verified it")
        prelude, body, buffers = _decrypted(parts, key)
    if parts.unpacked:
        if key is None and not compression.is_modest(len(body), parts.unpacked):
            raise PayloadError(
                f"its {len(body)} bytes would unpack to {parts.unpacked}, and nobody verified that "
                "they are from a member of this project"
            )
        body = compression.unpacked(body, parts.unpacked)
    return Unwrapped(prelude, body, buffers)


def _encrypted(
    prelude: bytes,
    body: bytes,
    buffers: Sequence[memoryview],
    digests: Sequence[bytes],
    key: bytes,
) -> tuple[bytes, bytes, tuple[memoryview, ...]]:
    """The salt, the prelude and the digests as one; the body; the buffers."""
    plain = msgpack.packb([prelude, digests])
    salt, (first, second) = encryption.encrypted((plain, body), key=key)
    return (
        salt + first,
        second,
        tuple(
            encryption.encrypted_buffer(buffer, key=key, digest=known)
            for buffer, known in zip(buffers, digests, strict=True)
        ),
    )


def _decrypted(parts: Parts, key: bytes) -> tuple[bytes, bytes, tuple[memoryview, ...]]:
    salt, first = bytes(parts.prelude[: encryption.SALT]), parts.prelude[encryption.SALT :]
    plain, body = encryption.decrypted((first, parts.body), key=key, salt=salt)
    prelude, digests = msgpack.unpackb(plain)
    buffers = tuple(
        encryption.decrypted_buffer(data, key=key, digest=known)
        for data, known in zip(parts.buffers, digests, strict=True)
    )
    return prelude, body, buffers
