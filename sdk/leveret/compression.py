"""Parts of a payload in less space: zstd, where it helps."""

from typing import Any

from leveret.buffers import BytesLike
from leveret.errors import PayloadError

AT_LEAST = 4 * 1024
"""Bytes below which nothing is tried."""
AT_MOST = 64 * 1024 * 1024
"""Bytes above which nothing is tried: all of it would be in memory twice."""
MOST_UNVERIFIED = 16 * 1024 * 1024
"""Bytes that anybody's payload may unpack to."""
HIGHEST_RATIO = 100
"""How many times its own size anybody's payload may unpack to, if that is more."""

_LEVEL = 1
_WORTHWHILE = 0.75
"""The share of its size that must not be exceeded."""
_SAMPLE = 64 * 1024
_LARGEST_WINDOW = 8 * 1024 * 1024
"""Bytes that unpacking may take beside the result; ours need half a megabyte."""


def packed(data: bytes) -> bytes | None:
    """The data in less space, `None` if that takes nearly as much."""
    if not AT_LEAST <= len(data) <= AT_MOST:
        return None
    import zstandard

    compressor: Any = zstandard.ZstdCompressor(level=_LEVEL)
    if len(data) > 4 * _SAMPLE:
        middle = len(data) // 2
        sample = memoryview(data)[middle : middle + _SAMPLE]
        if len(compressor.compress(sample)) > _WORTHWHILE * _SAMPLE:
            return None
    smaller: bytes = compressor.compress(data)
    return smaller if len(smaller) <= _WORTHWHILE * len(data) else None


def unpacked(data: BytesLike, size: int) -> memoryview:
    """What was packed, `size` bytes, writable. Raises `PayloadError` if it isn't that large."""
    import zstandard

    if zstandard.frame_content_size(data) != size:
        raise PayloadError("damaged (a part of it would unpack to another size than it says)")
    decompressor: Any = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    reader = decompressor.stream_reader(data)
    target = memoryview(bytearray(size))
    filled = 0
    while filled < size:
        count: int = reader.readinto(target[filled:])
        if not count:
            raise PayloadError("damaged (a part of it ends too early)")
        filled += count
    return target


def is_modest(stored: int, plain: int) -> bool:
    """Whether anybody may make us unpack so much from so little."""
    return plain <= max(MOST_UNVERIFIED, HIGHEST_RATIO * stored)
