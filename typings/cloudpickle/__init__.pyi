import pickle
from collections.abc import Callable
from types import ModuleType
from typing import IO, Any

__version__: str

class Pickler(pickle.Pickler):
    def __init__(
        self,
        file: IO[bytes],
        protocol: int | None = ...,
        buffer_callback: Callable[[Any], object] | None = ...,
    ) -> None: ...
    def reducer_override(self, obj: Any) -> Any: ...

def dumps(
    obj: object,
    protocol: int | None = ...,
    buffer_callback: Callable[[Any], object] | None = ...,
) -> bytes: ...
def loads(data: bytes, /, *, buffers: Any = ...) -> Any: ...
def register_pickle_by_value(module: ModuleType) -> None: ...
def unregister_pickle_by_value(module: ModuleType) -> None: ...
