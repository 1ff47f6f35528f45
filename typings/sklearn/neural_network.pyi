from typing import Any

from numpy import ndarray

Array = ndarray[Any, Any]

class MLPClassifier:
    coefs_: list[Array]
    intercepts_: list[Array]
    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = ...,
        *,
        learning_rate_init: float = ...,
        max_iter: int = ...,
        random_state: int | None = ...,
    ) -> None: ...
    def fit(self, X: Array, y: Array) -> MLPClassifier: ...
