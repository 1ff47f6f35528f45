"""Names that another process can find: a script's own is `__main__` only where it was started.

A worker loads the same file as a module named by the file's stem, so what a script defines is
known everywhere by that name. In the script's own process it is looked up in `__main__`.

A worker to which code is shipped has neither the script nor the module that it comes from. A class
that came by value keeps the name that it had at home, and what it makes goes back under that.
"""

import sys
import weakref
from pathlib import Path
from types import ModuleType

MAIN = ("__main__", "__mp_main__")
"""What a program's first module is called, and what `multiprocessing` calls its copy of it."""


_OURS = ("leveret", "leveret_broker", "leveret_coordinator", "leveret_worker")
"""Programs in which `__main__` is nobody's script."""
_shipped: set[str] = set()
_homes: "weakref.WeakKeyDictionary[type, str]" = weakref.WeakKeyDictionary()
"""Where classes are at home that came by value."""


def script_name() -> str | None:
    """The name by which other processes know `__main__`.

    `None` for a notebook or a prompt, and for leveret's own programs.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and isinstance(spec.name, str) and spec.name not in MAIN:
        return _unless_ours(spec.name)
    file = getattr(main, "__file__", None)
    stem = Path(file).stem if isinstance(file, str) else "__main__"
    return None if stem in MAIN else _unless_ours(stem)


def _unless_ours(name: str) -> str | None:
    return None if name.partition(".")[0] in _OURS else name


def public_module(module: str) -> str:
    """The name by which other processes know a module."""
    return (script_name() or module) if module in MAIN else module


def ship(module: str) -> None:
    """From now on what a module, or a package, defines goes to clusters by value."""
    _shipped.add(module)


def is_shipped(module: str) -> bool:
    """Whether the module, or a package that it is in, was named so."""
    return any(f"{module}.".startswith(f"{shipped}.") for shipped in _shipped)


def travels(module: str) -> bool:
    """Whether other processes may lack this module, so that what it defines goes to them."""
    return module in MAIN or is_shipped(module)


def arrived(kind: type, home: str) -> None:
    """A class came by value; `home` is the module that it is known by."""
    _homes[kind] = home


def has_arrived(kind: type) -> bool:
    return kind in _homes


def home(kind: type) -> str:
    """The name by which other processes know the module of a class."""
    return _homes.get(kind) or public_module(kind.__module__)


def find(module: str, qualname: str) -> object:
    """What has this name in a module that is imported here, else `None`.

    Nothing is imported and no code runs: only the dictionaries of modules and classes are read.
    """
    if module == script_name():
        found = _within(sys.modules.get("__main__"), qualname)
        if found is not None:
            return found
    return _within(sys.modules.get(module), qualname)


def _within(module: ModuleType | None, qualname: str) -> object:
    found: object = module
    for part in qualname.split("."):
        if not isinstance(found, (ModuleType, type)):
            return None
        found = vars(found).get(part)
    return found
