"""Functions in other processes: by reference where an import finds them again, else by value.

A child process never runs the user's script again, as `multiprocessing` does: a script needs no
`if __name__ == "__main__"`, and what it defines travels by value.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from leveret.errors import PayloadError

if TYPE_CHECKING:
    from leveret_worker.code import SealedCode


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionRef:
    """A function as another process of the same machine can find it."""

    module: str
    qualname: str
    file: str | None
    """The module's file, which the other process holds against what it imports."""
    pickled: bytes | None
    """The function itself, if no import finds it."""
    code: "SealedCode | None" = None
    """The function as it was shipped: all there is of it, then."""

    @classmethod
    def to_shipped(cls, code: "SealedCode") -> "FunctionRef":
        return cls(module="", qualname=code.name, file=None, pickled=None, code=code)


def refer(fn: Callable[..., Any]) -> FunctionRef:
    """A reference to a function.

    What goes by value is pickled each time: in a notebook the helpers and data that it refers to
    may have changed since. Raises `PayloadError` if what it refers to can't be pickled.
    """
    return _by_reference(fn) or _pickled(fn)


def find(ref: FunctionRef) -> Callable[..., Any]:
    """The function, if it was not shipped. Raises what the import of its module raises."""
    if ref.pickled is not None:
        import cloudpickle  # late: most children never need it

        pickled: Callable[..., Any] = cloudpickle.loads(ref.pickled)
        return pickled
    found = _attribute(_module(ref), ref.qualname)
    if not callable(found):
        raise ImportError(
            f"module {ref.module!r} ({ref.file}) has no function {ref.qualname!r} any more: "
            "it was changed after the worker had loaded it; start the worker again",
            name=ref.module,
        )
    return found


def module_at(name: str, file: str) -> ModuleType:
    """Load a file as the module of this name, into `sys.modules`."""
    package = [str(Path(file).parent)] if Path(file).name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=package)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file", name=name, path=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return sys.modules[name]


def is_file_of(module: ModuleType, file: str) -> bool:
    """Whether the module was loaded from this file."""
    return _same(getattr(module, "__file__", None), file)


def _by_reference(fn: Callable[..., Any]) -> FunctionRef | None:
    name, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if name is None or qualname is None or name == "__main__":
        return None
    module = sys.modules.get(name)
    if module is None or _attribute(module, qualname) is not fn:
        return None
    file = getattr(module, "__file__", None)
    return FunctionRef(module=name, qualname=qualname, file=file, pickled=None)


def _pickled(fn: Callable[..., Any]) -> FunctionRef:
    name, qualname = str(fn.__module__), getattr(fn, "__qualname__", repr(fn))

    from leveret.pickles import dumps_code  # late, for the sake of the children

    try:
        pickled = dumps_code(fn)
    except Exception as error:  # whatever the objects that it refers to raise
        raise PayloadError(
            f"the function {name}.{qualname} can't be handed to a child process, because something "
            f"that it refers to can't be pickled ({type(error).__name__}: {error}). Create that "
            'inside the function, put the function into a module, or give it runs_in="thread"'
        ) from error
    return FunctionRef(module=name, qualname=qualname, file=None, pickled=pickled)


def _attribute(module: ModuleType, qualname: str) -> object:
    """What stands there, undecorated if it is a definition; `None` if nothing does."""
    found: object = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return getattr(found, "fn", found)


def _module(ref: FunctionRef) -> ModuleType:
    imported = sys.modules.get(ref.module)
    if ref.file is None:
        return imported or importlib.import_module(ref.module)
    if imported is not None and is_file_of(imported, ref.file):
        return imported
    # Looked up before it is imported: importing the wrong module would already run it.
    if imported is None and _same(_origin(ref.module), ref.file):
        return importlib.import_module(ref.module)
    return module_at(ref.module, ref.file)


def _origin(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # no such parent package, or no package
        return None
    return None if spec is None else spec.origin


def _same(one: str | None, other: str) -> bool:
    return one is not None and Path(one).resolve() == Path(other).resolve()
