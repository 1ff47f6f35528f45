"""A hash of what only a pickle carries: models, dataclasses, arrays of objects.

joblib's hasher walks an object as a pickle does, and hashes arrays by what they hold. This one adds
what else may differ between processes: the order of frozensets, of sets and dicts whose keys can be
compared and yet not sorted, and the name of a script, which is `__main__` where it was started.
"""

import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from joblib import hashing

from leveret import scripts

_ALGORITHM = "sha1"
"""The stronger one of the two that joblib uses."""


def digest(value: object) -> str | None:
    """The hash, equal for equal values in any process; `None` for what has none.

    That is code by value: lambdas, local functions and classes, and whatever holds one.
    """
    try:
        return _hash(value)
    except Exception:  # joblib's, pickle's, and whatever the objects in it raise
        return None


def _hash(value: object) -> str:
    hasher = _NumpyHasher if "numpy" in sys.modules else _Hasher
    return hasher(_ALGORITHM).hash(value)


class _Hasher(hashing.Hasher):
    """joblib's, with the additions of this module."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(hashing.Hasher.dispatch)

    def save_global(self, obj: Any, name: str | None = None, pack: Any = None) -> None:
        """A class or function by its name, which is the same in every process."""
        qualname: str = name or str(getattr(obj, "__qualname__", ""))
        module = scripts.public_module(getattr(obj, "__module__", None) or "")
        if isinstance(obj, type) and _came_by_value(obj):
            module = scripts.home(obj)
            self.write(pickle.GLOBAL + f"{module}\n{qualname}\n".encode())
            self.memoize(obj)
        elif scripts.find(module, qualname) is obj:
            self.write(pickle.GLOBAL + f"{module}\n{qualname}\n".encode())
            self.memoize(obj)
        elif isinstance(obj, type):
            hashing.Pickler.save_type(self, obj)  # that of None has no name
        else:
            hashing.Pickler.save_global(self, obj, name)

    def save_unordered(self, value: Iterable[object]) -> None:
        """A set by its elements' hashes."""
        self.save((type(value), sorted(map(_hash, value))))

    def _batch_setitems(self, items: Iterable[tuple[object, object]], *rest: Any) -> None:
        ordered = sorted(items, key=lambda item: _place(item[0]))
        hashing.Pickler._batch_setitems(self, iter(ordered), *rest)

    for kind, method in hashing.Hasher.dispatch.items():
        if method is hashing.Hasher.save_global:
            dispatch[kind] = save_global
    dispatch[set] = dispatch[frozenset] = save_unordered


class _NumpyHasher(_Hasher, hashing.NumpyHasher):
    """The same where numpy is imported."""


def _came_by_value(kind: type) -> bool:
    """A class of a script or notebook that is not this process's: its name is all that stays."""
    if scripts.has_arrived(kind):
        return True
    is_elsewhere = scripts.script_name() is None and kind.__module__ in scripts.MAIN
    return is_elsewhere and "<" not in kind.__qualname__


def _place(key: object) -> str:
    """Where an entry stands among a dict's others."""
    return f"str {key}" if type(key) is str else _hash(key)
