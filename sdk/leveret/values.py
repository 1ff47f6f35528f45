"""Values to msgpack: the types that travel without a pickle. `readers` has the way back.

msgpack itself carries None, bool, int, float, str, bytes, list and dict. Every other type in this
file is written as an array whose first element is a *mark*, an empty msgpack extension that says
how to read the rest: a tuple is `[mark, *elements]`. No value of a program can look like that,
since nothing but this file writes extensions. Rules:

- Types are compared exactly. A subclass is another type, and goes to the pickle.
- Equal values of one type have equal bytes in every process, so sets are sorted by their bytes.
- Large bytes and arrays stay beside the body, and are referred to by number (`buffers`).
"""

import datetime as dt
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from itertools import chain
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from leveret.buffers import AT_LEAST, Buffers, BytesLike

DEEPEST = 100
"""Containers inside containers that a value may have; each takes three frames of the stack."""


class NotEncodable(Exception):
    """A value, or something inside it, can't be written; `path` says where, outermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []


class Mark(IntEnum):
    """What an array that begins with this extension stands for. Numbers are never used again."""

    INTEGER = 1
    """Not a mark: the only extension with content, an integer that 64 bits can't hold."""
    TUPLE = 2
    SET = 3
    FROZENSET = 4
    BYTEARRAY = 5
    COMPLEX = 6
    RANGE = 7
    DATETIME = 8
    DATE = 9
    TIME = 10
    TIMEDELTA = 11
    TIMEZONE = 12
    ZONEINFO = 13
    DECIMAL = 14
    FRACTION = 15
    UUID = 16
    PATH = 17
    NUMPY_ARRAY = 18
    NUMPY_SCALAR = 19
    PICKLE = 20
    DICT = 21
    """Only if a key is something else than an atom: `[mark, key, value, key, value, …]`."""
    BYTES = 22
    """Not a mark: bytes that stand in a buffer beside the body, whose number it holds."""
    VIEW = 23
    """The same for what the mark around it reads."""
    CHANGEABLE_VIEW = 24
    """The same for what was writable."""
    INPUTS = 64
    """The runs whose results are the inputs: `[mark, run, …]`, before all arguments."""
    INPUT = 65
    """The result of one of these runs, whose number it holds."""


def is_call(value: object) -> bool:
    """Whether this is what calling a task or workflow returns."""
    return hasattr(type(value), "__leveret_call__")


def marked(mark: Mark, *fields: object) -> list[object]:
    """What stands for a value of the mark's type; the fields are written already."""
    return [_MARKS[mark], *fields]


_MARKS = {mark: msgpack.ExtType(mark, b"") for mark in Mark}
_ATOMS = frozenset({type(None), bool, int, float, str, bytes})
_COPIED = _ATOMS - {bytes}
"""What is copied into the body, whatever its size."""


# -- writing --------------------------------------------------------------------------------------


Content = Callable[[BytesLike, "Mark"], object]
"""Takes bytes and how they are to be referred to; returns them, or the reference."""


class Writer:
    """Writes values; what no table here knows is handed to `pickle`, which returns its fields.

    A dict's entries are written as they come, or, if what is written only identifies the value,
    `by_key`: equal dicts may have been filled in another order.
    """

    def __init__(
        self,
        pickle: Callable[[object, Content], list[object]],
        buffers: Buffers | None = None,
        *,
        by_key: bool = False,
        call: Callable[[Any], list[object]] | None = None,
    ) -> None:
        """Without `buffers` everything is copied into the body.

        `call` returns what stands for the result of a call; without it no call can be written.
        """
        self._pickle = pickle
        self._call = call
        self._buffers = buffers
        self._by_key = by_key
        self.met_order = False
        """Whether it has written a dict whose entries could stand in another order."""

    def write(self, value: object, depth: int = 0) -> object:
        """A tree of what msgpack carries. Raises `NotEncodable`."""
        kind: Any = type(value)
        if kind in _ATOMS:
            return self.content(value, Mark.BYTES) if kind is bytes else value
        if depth >= DEEPEST:
            raise NotEncodable(f"nested more than {DEEPEST} deep, or it contains itself")
        container = _CONTAINERS.get(kind)
        if container is not None:
            return container(self, value, depth + 1)
        entry = _FIELDS.get(kind)
        if entry is not None:
            mark, fields_of = entry
            fields = [self.write(field, depth + 1) for field in fields_of(value)]
            return marked(mark, *fields)
        if is_call(value):
            return self._written_call(value)
        if "numpy" in sys.modules:
            from leveret import arrays

            found = arrays.fields(value, self.content)
            if found is not None:
                return marked(found[0], *found[1])
        return marked(Mark.PICKLE, *self._pickle(value, self.content))

    def _written_call(self, value: object) -> list[object]:
        if self._call is None:
            raise NotEncodable("a call was not awaited: await it first and pass its result")
        return self._call(value)

    def content(self, data: Any, mark: Mark) -> object:
        """Bytes as they stand in the body: themselves, or what refers to their buffer."""
        if self._buffers is None or len(data) < AT_LEAST:
            return data
        return msgpack.ExtType(mark, self._buffers.add(data).to_bytes(4, "big"))

    def write_list(self, value: list[object], depth: int) -> list[object]:
        if _COPIED.issuperset(map(type, value)):
            return value
        return self._elements(value, depth)

    def write_tuple(self, value: tuple[object, ...], depth: int) -> list[object]:
        return marked(Mark.TUPLE, *self._elements(value, depth))

    def write_dict(self, value: dict[object, object], depth: int) -> object:
        if len(value) > 1:
            self.met_order = True
            if self._by_key:
                value = self._ordered(value, depth)
                return marked(Mark.DICT, *chain.from_iterable(self._entries(value, depth)))
        if not _ATOMS.issuperset(map(type, value)):
            return marked(Mark.DICT, *chain.from_iterable(self._entries(value, depth)))
        if _COPIED.issuperset(map(type, value.values())):
            return value
        return dict(self._entries(value, depth))

    def write_bytearray(self, value: bytearray, depth: int) -> list[object]:
        return marked(Mark.BYTEARRAY, self.content(value, Mark.VIEW))

    def write_set(self, value: set[object], depth: int) -> list[object]:
        return marked(Mark.SET, *self._sorted(value, depth))

    def write_frozenset(self, value: frozenset[object], depth: int) -> list[object]:
        return marked(Mark.FROZENSET, *self._sorted(value, depth))

    def _elements(self, value: Iterable[object], depth: int) -> list[object]:
        written: list[object] = []
        for index, item in enumerate(value):  # a plain loop: each frame is taken once a level
            try:
                written.append(self.write(item, depth))
            except NotEncodable as error:
                error.path.insert(0, f"[{index}]")
                raise
        return written

    def _entries(self, value: dict[object, object], depth: int) -> Iterator[tuple[object, object]]:
        for key, item in value.items():
            try:
                written = key if type(key) in _ATOMS else self._inline(key, depth)
                yield written, self.write(item, depth)
            except NotEncodable as error:
                error.path.insert(0, f"[{_brief(key)}]")
                raise

    def _sorted(self, value: Iterable[object], depth: int) -> list[object]:
        return sorted((self._inline(item, depth) for item in value), key=pack)

    def _ordered(self, value: dict[object, object], depth: int) -> dict[object, object]:
        """The entries by what their keys are written as, before any value takes a number."""
        keys = sorted(value, key=lambda key: pack(self._inline(key, depth)))
        return {key: value[key] for key in keys}

    def _inline(self, value: object, depth: int) -> object:
        """Written without buffers: what is put in order can't hold the numbers of an order."""
        buffers, self._buffers = self._buffers, None
        try:
            return self.write(value, depth)
        finally:
            self._buffers = buffers


def pack(written: object) -> bytes:
    """The bytes of what `Writer.write` returned, the same in every process."""
    return msgpack.packb(
        written, default=_large_integer, strict_types=True, unicode_errors="surrogatepass"
    )


def _large_integer(value: object) -> object:
    """msgpack asks for this when an integer has more than 64 bits."""
    if type(value) is not int:
        raise TypeError(f"a {type(value).__name__} was not written")
    size = value.bit_length() // 8 + 1
    return msgpack.ExtType(Mark.INTEGER, value.to_bytes(size, "little", signed=True))


def _brief(key: object) -> str:
    """A dict's key or a list's index as an error shows it."""
    if type(key) in _ATOMS:
        text = repr(key)
        return text if len(text) <= 40 else f"{text[:37]}…"
    return f"<{type(key).__name__}>"


_CONTAINERS: dict[type, Callable[[Writer, Any, int], object]] = {
    list: Writer.write_list,
    dict: Writer.write_dict,
    tuple: Writer.write_tuple,
    set: Writer.write_set,
    frozenset: Writer.write_frozenset,
    bytearray: Writer.write_bytearray,
}


def _datetime_fields(value: dt.datetime) -> list[object]:
    day = [value.year, value.month, value.day]
    return [*day, *_time_fields(value)]


def _time_fields(value: dt.time | dt.datetime) -> list[object]:
    clock = [value.hour, value.minute, value.second, value.microsecond]
    return [*clock, value.fold, value.tzinfo]


def _timezone_fields(value: dt.timezone) -> list[object]:
    offset = value.utcoffset(None)
    name = value.tzname(None)
    return [offset, None if name == dt.timezone(offset).tzname(None) else name]


def _zoneinfo_fields(value: ZoneInfo) -> list[object]:
    key = cast("str | None", value.key)  # None for one read from a file, whatever its stub says
    if key is None:
        raise NotEncodable("a time zone that was read from a file has no name to travel by")
    return [key]


def _path_fields(value: pathlib.PurePath) -> list[object]:
    name = "Path" if isinstance(value, pathlib.Path) else type(value).__name__
    return [name, str(value)]


_FIELDS: dict[type, tuple[Mark, Callable[[Any], list[object]]]] = {
    complex: (Mark.COMPLEX, lambda v: [v.real, v.imag]),
    range: (Mark.RANGE, lambda v: [v.start, v.stop, v.step]),
    dt.datetime: (Mark.DATETIME, _datetime_fields),
    dt.date: (Mark.DATE, lambda v: [v.year, v.month, v.day]),
    dt.time: (Mark.TIME, _time_fields),
    dt.timedelta: (Mark.TIMEDELTA, lambda v: [v.days, v.seconds, v.microseconds]),
    dt.timezone: (Mark.TIMEZONE, _timezone_fields),
    Decimal: (Mark.DECIMAL, lambda v: [str(v)]),
    Fraction: (Mark.FRACTION, lambda v: [v.numerator, v.denominator]),
    UUID: (Mark.UUID, lambda v: [v.bytes]),
    pathlib.PurePosixPath: (Mark.PATH, _path_fields),
    pathlib.PureWindowsPath: (Mark.PATH, _path_fields),
    type(pathlib.Path()): (Mark.PATH, _path_fields),
    ZoneInfo: (Mark.ZONEINFO, _zoneinfo_fields),
}


def is_constant(value: object) -> bool:
    """Whether it is immutable and travels without a pickle."""
    if type(value) in (tuple, frozenset):
        return all(map(is_constant, cast("Iterable[object]", value)))
    return type(value) in _ATOMS or type(value) in _FIELDS
