"""How large the arguments of a call are, each by itself: for the error that some are too large."""

from collections.abc import Callable
from typing import Any

import msgpack

from leveret.payload import Encoded
from leveret.sizes import shown
from leveret.values import Mark


def heaviest(encoded: Encoded) -> str:
    """The largest argument, as the rest of a sentence; nothing for what is no call's."""
    if encoded.arguments is None:
        return ""
    sizes = _sizes(encoded, encoded.arguments)
    name = max(sizes, key=lambda name: sizes[name])
    return f", of which {shown(sizes[name])} are the argument {name!r}"


def _sizes(encoded: Encoded, names: tuple[str, ...]) -> dict[str, int]:
    """Bytes of each argument, with the buffers that it refers to."""
    referred: list[int] = []

    def note(code: int, data: bytes) -> None:
        if code >= Mark.BYTES:
            referred.append(encoded.buffers[int.from_bytes(data, "big")].nbytes)

    unpacker = msgpack.Unpacker(
        ext_hook=note,
        object_pairs_hook=len,  # keys may be of any type
        strict_map_key=False,
        unicode_errors="surrogatepass",
        max_buffer_size=0,
    )
    unpacker.feed(encoded.body)
    unpacker.read_array_header()
    weigh = _weighing(unpacker, referred)
    sizes = {names[index]: weigh() for index in range(unpacker.read_array_header())}
    for _ in range(unpacker.read_map_header()):
        name = unpacker.unpack()
        sizes[name] = weigh()
    return sizes


def _weighing(unpacker: Any, referred: list[int]) -> Callable[[], int]:
    def weigh() -> int:
        """The size of what comes next."""
        start = unpacker.tell()
        unpacker.unpack()
        size: int = unpacker.tell() - start + sum(referred)
        referred.clear()
        return size

    return weigh
