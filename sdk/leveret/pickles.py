"""The pickles inside a payload: the only place that makes or loads them.

`payload` imports this module when it meets the first pickle, and calls `Unpickling` only after it
has verified the payload's signature. A test finds all call sites and holds them to that.

A class that a script defines travels by its name and, beside it, by value: who has loaded the same
script takes its own class, so that `isinstance` holds there, and who has not takes the one that
came along. So does a class of a module that is shipped; it is known to those who ship it, and what
others may have of that name is another one. What a notebook defines, lambdas and local classes
travel by value alone.
"""

import io
import pickle
import sys
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import CodeType, CoroutineType
from typing import Any, TypedDict, cast, is_typeddict

import cloudpickle

from leveret import scripts
from leveret.buffers import View
from leveret.errors import PayloadError
from leveret.origin import PYTHON
from leveret.values import Content, Mark, is_call, marked

VERSION = cloudpickle.__version__

Definitions = dict[tuple[str, str], bytes]
"""Classes of a script, by module and qualified name, pickled by value."""

Reducer = Callable[[object], Any]
"""What stands for an object in a pickle, as `__reduce__` gives it, or `NotImplemented`."""

_reducer: ContextVar[Reducer | None] = ContextVar("leveret_reducer", default=None)


@contextmanager
def reducing(reducer: Reducer) -> Generator[None, None, None]:
    """Ask a function first for what stands for an object, in all pickles that are made within."""
    token = _reducer.set(reducer)
    try:
        yield
    finally:
        _reducer.reset(token)


def ship(module: Any) -> None:
    """From now on what a module defines travels by value."""
    cloudpickle.register_pickle_by_value(module)
    scripts.ship(module.__name__)


_by_value: "weakref.WeakKeyDictionary[type, bytes | None]" = weakref.WeakKeyDictionary()


class Pickling:
    """Writes the pickles of one payload and gathers the classes that must come along."""

    def __init__(self) -> None:
        self.definitions: Definitions = {}
        self.first_type: str | None = None
        """The type of the first value that needed a pickle."""

    def dump(self, value: object, content: Content) -> list[object]:
        """The fields of a pickle: its bytes, whether it holds code, its buffers.

        Raises whatever the objects in it raise.
        """
        buffers: list[pickle.PickleBuffer] = []
        file = io.BytesIO()
        pickler = _Pickler(file, buffers, self.definitions)
        pickler.dump(value)
        if self.first_type is None:
            self.first_type = type(value).__qualname__
        pickled = content(file.getvalue(), Mark.VIEW)
        return [pickled, pickler.holds_code, *(_field(buffer, content) for buffer in buffers)]


class CodePickler(cloudpickle.Pickler):
    """cloudpickle, and classes made by `TypedDict`, which it can't put together again on 3.11."""

    def reducer_override(self, obj: Any) -> Any:
        if is_typeddict(obj) and not _is_importable(obj):
            fields = dict(getattr(obj, "__annotations__", {}))
            return _typed_dict, (obj.__name__, fields, getattr(obj, "__total__", True))
        return super().reducer_override(obj)


def _is_importable(cls: type) -> bool:
    module = None if cls.__module__ in scripts.MAIN else sys.modules.get(cls.__module__)
    return getattr(module, cls.__qualname__, None) is cls


def _typed_dict(name: str, fields: dict[str, Any], total: bool) -> Any:
    return cast(Any, TypedDict)(name, fields, total=total)


def dumps_code(function: object) -> bytes:
    """A function by value, with what it refers to."""
    buffer = io.BytesIO()
    CodePickler(buffer, protocol=5).dump(function)
    return buffer.getvalue()


class _Pickler(CodePickler):
    def __init__(
        self, file: io.BytesIO, buffers: list[pickle.PickleBuffer], definitions: Definitions
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffers.append)
        self._definitions = definitions
        self._reducer = _reducer.get()
        self.holds_code = False

    def reducer_override(self, obj: Any) -> Any:
        if self._reducer is not None:
            reduced = self._reducer(obj)
            if reduced is not NotImplemented:
                return reduced
        _refuse(obj)
        if isinstance(obj, CodeType):
            self.holds_code = True
        if isinstance(obj, type):
            if (module := _shipped_home(obj)) is not None:
                return self._named(find_shipped_class, module, obj)
            if (module := _script_home(obj)) is not None:
                return self._named(find_script_class, module, obj)
        return super().reducer_override(obj)

    def _named(self, find: Callable[[str, str], type], module: str, script_class: type) -> Any:
        name = (module, script_class.__qualname__)
        if script_class not in _by_value:
            try:
                _by_value[script_class] = dumps_code(script_class)
            except Exception:  # its methods hold what can't travel: then it goes by name only
                _by_value[script_class] = None
        by_value = _by_value[script_class]
        if by_value is not None:
            self._definitions[name] = by_value
        return find, name


def _refuse(obj: object) -> None:
    """Raises `TypeError` for what would arrive as something else, or never."""
    if is_call(obj):
        raise TypeError(
            "it holds a call, whose result can't be put in there: await it first, or pass the "
            "call in an argument of its own, a list, a tuple, a set or a dict"
        )
    if isinstance(obj, CoroutineType):
        raise TypeError("it was not awaited: await it first and pass its result")
    if isinstance(obj, memoryview):
        raise TypeError("a memoryview would arrive as bytes: pass bytes(view) or its array")
    if isinstance(obj, io.TextIOWrapper) and obj not in (sys.stdout, sys.stderr):
        raise TypeError("an open file stays in its process: pass its path or what it holds")


def _script_home(kind: type) -> str | None:
    """The script that a class is of, by name; `None` for all other classes."""
    if kind.__module__ not in scripts.MAIN:
        return None
    if scripts.has_arrived(kind):
        return scripts.home(kind)
    name = scripts.script_name()
    return name if name is not None and scripts.find(name, kind.__qualname__) is kind else None


def _shipped_home(kind: type) -> str | None:
    """The module, shipped from here or to here, that a class is of; `None` for all others."""
    module = kind.__module__
    if module in scripts.MAIN:
        return None
    if scripts.has_arrived(kind):
        return module
    is_mine = scripts.is_shipped(module) and scripts.find(module, kind.__qualname__) is kind
    return module if is_mine else None


def find_script_class(module: str, qualname: str) -> type:
    """What a pickle names in place of a script's class; `_Unpickler` puts its own there."""
    raise pickle.UnpicklingError(f"{module}.{qualname} can be found by leveret only")


def find_shipped_class(module: str, qualname: str) -> type:
    """The same for a class of a module that is shipped."""
    return find_script_class(module, qualname)


def _field(buffer: pickle.PickleBuffer, content: Content) -> object:
    """What is written for a buffer; one that was writable is so on arrival."""
    raw = buffer.raw()
    if raw.readonly:
        return content(raw, Mark.VIEW)
    written = content(raw, Mark.CHANGEABLE_VIEW)
    return marked(Mark.BYTEARRAY, raw) if written is raw else written


_FINDERS = {find_script_class.__name__: False, find_shipped_class.__name__: True}


class Unpickling:
    """Loads the pickles of one payload whose signature was verified."""

    def __init__(self, *, python: str, cloudpickle_version: str, definitions: Definitions) -> None:
        self._python = python
        self._cloudpickle = cloudpickle_version
        self._definitions = definitions

    def load(self, fields: list[Any]) -> object:
        """The value of one pickle. Raises `PayloadError` saying what this process lacks."""
        pickled, holds_code, *others = fields
        buffers = [each.as_it_was() if type(each) is View else each for each in others]
        if holds_code and self._python != PYTHON:
            raise PayloadError(
                f"it holds a function or class by value, compiled by Python {self._python}, and "
                f"this is Python {PYTHON}: put that code into a module, or use one version"
            )
        try:
            return _Unpickler(pickled, buffers, self._class).load()
        except PayloadError:
            raise
        except Exception as error:
            raise PayloadError(
                f"a pickled value can't be loaded here: {type(error).__name__}: {error}"
                f"{self._difference()}"
            ) from error

    def _class(self, module: str, qualname: str, *, is_shipped: bool) -> type:
        by_value = self._definitions.get((module, qualname))
        found = scripts.find(module, qualname)
        # What is installed here under the name of a shipped module may be another version of it.
        is_mine = not is_shipped or scripts.is_shipped(module) or by_value is None
        if isinstance(found, type) and is_mine:
            return found
        if by_value is None:
            raise PayloadError(
                f"it holds a {module}.{qualname}, a class of a script that this process hasn't "
                "loaded: put the class into a module that both sides can import"
            )
        if self._python != PYTHON:
            raise PayloadError(
                f"it holds a {module}.{qualname}, a class of a script that ran with Python "
                f"{self._python}, and this is Python {PYTHON}: put the class into a module"
            )
        made = cast(type, cloudpickle.loads(by_value))
        scripts.arrived(made, module)
        _by_value.setdefault(made, by_value)
        return made

    def _difference(self) -> str:
        if (self._python, self._cloudpickle) == (PYTHON, VERSION):
            return ""
        return (
            f" (written with Python {self._python} and cloudpickle {self._cloudpickle}, "
            f"read with Python {PYTHON} and cloudpickle {VERSION})"
        )


class _ViewFile:
    """A large pickle where it lies: `BytesIO` would copy it as a whole."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        end = len(self._view) if size < 0 else self._position + size
        part = self._view[self._position : end]
        self._position += len(part)
        return bytes(part)

    def readinto(self, target: Any, /) -> int:
        into = memoryview(target).cast("B")
        part = self._view[self._position : self._position + len(into)]
        into[: len(part)] = part
        self._position += len(part)
        return len(part)

    def readline(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return bytes(line)


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, pickled: bytes | View, buffers: list[Any], find: Callable[..., type]
    ) -> None:
        file = _ViewFile(pickled.data) if isinstance(pickled, View) else io.BytesIO(pickled)
        super().__init__(file, buffers=buffers)
        self._find = find

    def find_class(self, module: str, name: str, /) -> Any:
        if module == __name__ and name in _FINDERS:
            return partial(self._find, is_shipped=_FINDERS[name])
        if module == scripts.script_name():
            found = scripts.find(module, name)
            if found is not None:
                return found
        return super().find_class(module, name)
