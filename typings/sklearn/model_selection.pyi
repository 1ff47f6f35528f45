from typing import Any

from numpy import ndarray

Array = ndarray[Any, Any]

def train_test_split(
    *arrays: Array,
    test_size: float | None = ...,
    random_state: int | None = ...,
    stratify: Array | None = ...,
) -> list[Array]: ...
