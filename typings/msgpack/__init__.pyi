from collections.abc import Callable
from typing import Any

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
