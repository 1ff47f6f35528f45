from collections.abc import Callable
from typing import Any, Protocol

class ExtType:
    code: int
    data: bytes
    def __init__(self, code: int, data: bytes) -> None: ...

def packb(
    o: object,
    *,
    default: Callable[[Any], object] | None = ...,
    use_bin_type: bool = ...,
    strict_types: bool = ...,
    unicode_errors: str | None = ...,
) -> bytes: ...
def unpackb(
    packed: bytes | memoryview,
    *,
    ext_hook: Callable[[int, bytes], object] = ...,
    object_hook: Callable[[dict[Any, Any]], object] | None = ...,
    list_hook: Callable[[list[Any]], object] | None = ...,
    use_list: bool = ...,
    raw: bool = ...,
    strict_map_key: bool = ...,
    unicode_errors: str | None = ...,
    timestamp: int = ...,
    max_buffer_size: int = ...,
) -> Any: ...

class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

class Unpacker:
    def __init__(
        self,
        file_like: _Readable | None = ...,
        *,
        ext_hook: Callable[[int, bytes], object] = ...,
        object_pairs_hook: Callable[[list[Any]], object] = ...,
        strict_map_key: bool = ...,
        unicode_errors: str | None = ...,
        max_buffer_size: int = ...,
    ) -> None: ...
    def feed(self, next_bytes: bytes) -> None: ...
    def read_array_header(self) -> int: ...
    def read_map_header(self) -> int: ...
    def tell(self) -> int: ...
    def unpack(self) -> Any: ...
