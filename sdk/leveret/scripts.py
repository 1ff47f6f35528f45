"""Names that another process can find: a script's own is `__main__` only where it was started.

A worker loads the same file as a module named by the file's stem, so what a script defines is
known everywhere by that name. In the script's own process it is looked up in `__main__`.
"""

import sys
from pathlib import Path
from types import ModuleType

MAIN = ("__main__", "__mp_main__")
"""What a program's first module is called, and what `multiprocessing` calls its copy of it."""


def script_name() -> str | None:
    """The name by which other processes know `__main__`; `None` for a notebook or a prompt."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and isinstance(spec.name, str) and spec.name not in MAIN:
        return spec.name
    file = getattr(main, "__file__", None)
    stem = Path(file).stem if isinstance(file, str) else "__main__"
    return None if stem in MAIN else stem


def public_module(module: str) -> str:
    """The name by which other processes know a module."""
    return (script_name() or module) if module in MAIN else module


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
