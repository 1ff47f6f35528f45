from typing import Any, Literal

from numpy import ndarray

Array = ndarray[Any, Any]

def load_digits(*, n_class: int = ..., return_X_y: Literal[True]) -> tuple[Array, Array]: ...
