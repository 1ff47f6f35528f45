"""Sealed payloads as somebody without a key can make them."""

from leveret import layout
from leveret.layout import Flag

PLAIN = Flag(0)


def laid_out(
    body: bytes,
    *buffers: bytes,
    flags: Flag = PLAIN,
    prelude: bytes = b"",
    unpacked: int = 0,
) -> bytes:
    """A body and buffers; `unpacked` is the size that the body claims to have when unpacked."""
    data = layout.head(flags)
    if flags & Flag.SIGNED:
        data += layout.seal(bytes(4), bytes(layout.SIGNATURE))
    views = [memoryview(buffer) for buffer in buffers]
    data += layout.sizes(prelude, body, views, unpacked) + prelude + body
    for buffer in buffers:
        data += layout.padding(len(data)) + buffer
    return data
