"""Finding the tasks and workflows in the modules and files that a person names."""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import leveret
import leveret_broker
import leveret_worker
from leveret.definitions import Definition
from leveret.errors import AppError
from leveret_worker.functions import is_file_of, module_at

AnyDefinition = Definition[..., Any]

_NOT_THE_USERS = (
    "<frozen importlib",
    *(
        str(Path(folder).resolve()) + os.sep
        for package in (importlib, leveret, leveret_broker, leveret_worker)
        for folder in package.__path__
    ),
)
"""How the file names of frames begin that say nothing about an app."""


def load_apps(specs: Iterable[str]) -> tuple[AnyDefinition, ...]:
    """The definitions in several apps, each once.

    Raises `AppError` if one can't be loaded, or if two definitions contradict each other.
    """
    return _checked(definition for spec in specs for definition in load_app(spec))


def load_app(spec: str) -> tuple[AnyDefinition, ...]:
    """The definitions that a module's namespace holds, imported ones too, each once.

    An app is the name of a module (`package.module`), looked for in the current folder first, or
    the path of a file (`folder/app.py`), which finds the modules beside it as `python app.py` does.
    Raises `AppError` saying what is wrong with it.
    """
    is_path = spec.endswith(".py") or os.sep in spec or Path(spec).is_file()
    module = _load_file(spec) if is_path else _load_module(spec)
    found = _checked(filter(_is_definition, vars(module).values()))
    if not found:
        raise AppError(
            f"there is no task or workflow in {spec} ({getattr(module, '__file__', spec)}): "
            "decorate a function with @define.task or @define.workflow"
        )
    return found


def _load_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        hint = f" Did you mean the file {name}.py?" if Path(f"{name}.py").is_file() else ""
        raise AppError(
            f"{name!r} is no app: write a module's name (package.module) or a file's path "
            f"(app.py).{hint}"
        )
    with _first_on_path(Path.cwd()), _import_errors(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only the app itself: a module that the app misses is the app's own error.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise AppError(
                f"there is no module named {name!r} in {Path.cwd()} or on Python's path"
            ) from None


def _load_file(spec: str) -> ModuleType:
    file = Path(spec).absolute()
    if not file.is_file():
        raise AppError(f"there is no file {spec!r} in {Path.cwd()}")
    if file.suffix != ".py":
        raise AppError(f"{spec!r} is no Python file: its name does not end in .py")
    name = file.stem
    loaded = sys.modules.get(name)
    if loaded is not None and is_file_of(loaded, str(file)):
        return loaded
    _check_free(name, file, loaded)
    with _first_on_path(file.parent), _import_errors(spec):
        return module_at(name, str(file))


def _check_free(name: str, file: Path, loaded: ModuleType | None) -> None:
    if name == "__init__":
        raise AppError(
            f"{file} makes the package {file.parent.name!r}: give the package's name "
            f"({file.parent.name}) instead of the file"
        )
    if name in sys.stdlib_module_names:
        raise AppError(
            f"{file} has the name of the module {name!r} in Python's standard library, "
            "which other code could not import any more: rename the file"
        )
    if loaded is not None:
        where = getattr(loaded, "__file__", None) or "built in"
        raise AppError(
            f"{file} has the name of a module that is already imported, {name!r} ({where}): "
            "rename one of the two"
        )


@contextlib.contextmanager
def _first_on_path(folder: Path) -> Generator[None]:
    """Put a folder first on Python's path, for good if what is loaded within can be loaded."""
    before = list(sys.path)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        yield
    except BaseException:
        sys.path[:] = before
        raise


@contextlib.contextmanager
def _import_errors(spec: str) -> Generator[None]:
    """Turn what the app's code raises into an `AppError` that shows where."""
    try:
        yield
    except (AppError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: a script that ends itself
        raise AppError(f"{spec} can't be imported:\n{_trimmed(error)}") from error


def _trimmed(error: BaseException) -> str:
    """The traceback without the frames of leveret and of the import system."""
    formatted = traceback.TracebackException.from_exception(error)
    pending: list[traceback.TracebackException | None] = [formatted]
    while pending:
        part = pending.pop()
        if part is not None:
            kept = [frame for frame in part.stack if not frame.filename.startswith(_NOT_THE_USERS)]
            part.stack = traceback.StackSummary.from_list(kept)
            pending += (part.__cause__, part.__context__)
    return "".join(formatted.format()).rstrip()


def _is_definition(value: object) -> TypeGuard[AnyDefinition]:
    return isinstance(value, Definition)


def _checked(definitions: Iterable[AnyDefinition]) -> tuple[AnyDefinition, ...]:
    """Each definition once. Raises `AppError` for those that can't be told apart by name."""
    by_name: dict[str, AnyDefinition] = {}
    by_version: dict[tuple[str, str | None], AnyDefinition] = {}
    for definition in definitions:
        namesake = by_name.setdefault(definition.name, definition)
        if namesake.kind != definition.kind:
            raise AppError(
                f"{definition.name!r} is a {namesake.kind} at {_place(namesake)} and a "
                f"{definition.kind} at {_place(definition)}: a name means one of the two"
            )
        twin = by_version.setdefault((definition.name, definition.version), definition)
        if twin.fingerprint != definition.fingerprint:
            version = "" if definition.version is None else f" version {definition.version}"
            raise AppError(
                f"{definition.kind} {definition.name!r}{version} is defined twice, with different "
                f"code: at {_place(twin)} and at {_place(definition)}. Rename one, or give it "
                f"another {'version' if definition.kind == 'task' else 'revision'}"
            )
    return tuple(by_version.values())


def _place(definition: AnyDefinition) -> str:
    code = getattr(definition.fn, "__code__", None)
    line = f", line {code.co_firstlineno} of {code.co_filename}" if code is not None else ""
    return f"{definition.where}{line}"
