"""Where the parts of a sealed payload stand.

    "LV"  version  flags
    [key id, 4 bytes  signature, 32 bytes]     if it is signed
    length of the prelude, u32
    length of the body, u64  length of the body when unpacked, u64, 0 if it isn't packed
    number of buffers, u32
    length of each buffer, u64 …
    prelude  body
    [zeros up to a multiple of 64  buffer] …

Numbers are big-endian. Buffers begin at multiples of 64 bytes from the start, so that arrays can be
used where they lie, in a file that is mapped into memory as well. Nothing here trusts a length: the
parts have to fill the bytes that there are, exactly.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag

from leveret.buffers import BytesLike
from leveret.errors import PayloadError

VERSION = 2
ALIGNED = 64
SIGNATURE = 32
_MAGIC = b"LV"
_HEAD = struct.Struct("!2sBB")
_SEAL = struct.Struct(f"!4s{SIGNATURE}s")
_SIZES = struct.Struct("!IQQI")
MOST_BUFFERS = 1_000_000


class Flag(IntFlag):
    """What there is to know before anything is read."""

    PICKLED = 1
    SIGNED = 2
    ENCRYPTED = 4
    """Prelude, body and buffers."""


_KNOWN = int(Flag.PICKLED | Flag.SIGNED | Flag.ENCRYPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A sealed payload, cut up. Nothing in it is verified."""

    flags: Flag
    key_id: bytes
    """Which key signed it; empty if none did, as the signature is."""
    signature: bytes
    covered: tuple[BytesLike, ...]
    """What the signature covers as it is; of each buffer it covers the digest."""
    prelude: memoryview
    body: memoryview
    unpacked: int
    """How large the body is when unpacked, 0 if it isn't packed."""
    buffers: tuple[memoryview, ...]


def head(flags: Flag) -> bytes:
    """The first bytes."""
    return _HEAD.pack(_MAGIC, VERSION, flags)


def seal(key_id: bytes, signature: bytes) -> bytes:
    """What stands behind the head of a signed payload."""
    return _SEAL.pack(key_id, signature)


def unseal(data: memoryview) -> tuple[bytes, bytes, memoryview]:
    """The key's id, the signature, and the rest. Raises `PayloadError` if there are none."""
    _check(len(data) >= _SEAL.size)
    key_id, signature = _SEAL.unpack_from(data)
    return key_id, signature, data[_SEAL.size :]


def sizes(
    prelude: BytesLike, body: BytesLike, buffers: Sequence[memoryview], unpacked: int = 0
) -> bytes:
    """The lengths of all that follows, and that of the body when unpacked, if it is packed."""
    count = len(buffers)
    lengths = struct.pack(f"!{count}Q", *(buffer.nbytes for buffer in buffers))
    return _SIZES.pack(len(prelude), len(body), unpacked, count) + lengths


def padding(position: int) -> bytes:
    """The zeros in front of a buffer that would else begin here."""
    return bytes(-position % ALIGNED)


def cut(data: BytesLike, outside: Mapping[int, memoryview] | None = None) -> Parts:
    """The parts of sealed bytes. Raises `PayloadError` if they can't be what was sealed.

    `outside` are the buffers, by their numbers, that are not in these bytes.
    """
    view = memoryview(data).cast("B")
    if view.nbytes < _HEAD.size or bytes(view[:2]) != _MAGIC:
        raise PayloadError("these bytes are no payload of leveret")
    _, version, flags = _HEAD.unpack_from(view)
    if version != VERSION or flags & ~_KNOWN:
        raise PayloadError(
            f"written by another version of leveret (format {version}, this one reads {VERSION})"
        )
    position = _HEAD.size
    key_id = signature = b""
    if flags & Flag.SIGNED:
        _check(position + _SEAL.size <= view.nbytes)
        key_id, signature = _SEAL.unpack_from(view, position)
        position += _SEAL.size
    start = position
    _check(position + _SIZES.size <= view.nbytes)
    prelude_size, body_size, unpacked, count = _SIZES.unpack_from(view, position)
    position += _SIZES.size
    _check(count <= MOST_BUFFERS and position + 8 * count <= view.nbytes)
    lengths = struct.unpack_from(f"!{count}Q", view, position)
    position += 8 * count
    body = position + prelude_size
    end = body + body_size
    _check(end <= view.nbytes)
    return Parts(
        flags=Flag(flags),
        key_id=key_id,
        signature=signature,
        covered=(view[: _HEAD.size], view[start:end]),
        prelude=view[position:body],
        body=view[body:end],
        unpacked=unpacked,
        buffers=_buffers(view, end, lengths, outside or {}),
    )


def _buffers(
    view: memoryview,
    position: int,
    lengths: Sequence[int],
    outside: Mapping[int, memoryview],
) -> tuple[memoryview, ...]:
    found: list[memoryview] = []
    for number, length in enumerate(lengths):
        if number in outside:
            _check(outside[number].nbytes == length)
            found.append(outside[number])
            continue
        gap = -position % ALIGNED
        _check(position + gap + length <= view.nbytes)
        _check(not any(view[position : position + gap]))
        position += gap
        found.append(view[position : position + length])
        position += length
    _check(position == view.nbytes and all(number < len(lengths) for number in outside))
    return tuple(found)


def _check(fits: bool) -> None:
    if not fits:
        raise PayloadError("damaged (its parts don't fill it: it was cut off, or put together)")
