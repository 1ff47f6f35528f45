"""Values from msgpack: the way back from what `values` writes.

Reading runs no code but the constructors named here, and checks the fields' types before it calls
them: `Fraction("1e999999999")` would keep a worker busy for a day.
"""

import datetime as dt
import pathlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgpack

from leveret.buffers import View
from leveret.errors import PayloadError
from leveret.values import Mark


class Malformed(Exception):
    """Bytes that are not what a `Writer` writes."""


class Reader:
    """Reads what a `Writer` wrote; `unpickle` is called with the fields of each pickle.

    `result` is called with the run of each input, and returns what stands in its place.
    """

    def __init__(
        self,
        unpickle: Callable[[list[Any]], object],
        buffers: Sequence[memoryview] = (),
        *,
        result: Callable[[str], object] | None = None,
    ) -> None:
        self._unpickle = unpickle
        self._result = result
        self._inputs: list[str] = []
        self._buffers = buffers
        self._taken = 0
        self._unclaimed = 0
        """Marks and views that nothing has read yet."""

    def read(self, body: bytes | memoryview) -> object:
        """The value. Whatever the bytes are, raises only subclasses of `Exception`."""
        value = msgpack.unpackb(
            body,
            list_hook=self._array,
            ext_hook=self._extension,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            timestamp=3,
        )
        if self._unclaimed:
            raise Malformed("a mark stands where none can be")
        if self._taken != len(self._buffers):
            raise Malformed("a buffer that nothing refers to")
        return value

    def _extension(self, code: int, data: bytes) -> object:
        if code == Mark.INTEGER and data:
            return int.from_bytes(data, "little", signed=True)
        if Mark.BYTES <= code < Mark.INPUTS:
            return self._referred(Mark(code), data)
        if code == Mark.INTEGER or data:
            raise Malformed(f"extension {code} with {len(data)} bytes")
        self._unclaimed += 1
        return Mark(code)

    def _referred(self, mark: Mark, number: bytes) -> bytes | View:
        """A buffer. Each is referred to once and in turn, so that none can be multiplied."""
        if number != self._taken.to_bytes(4, "big") or self._taken >= len(self._buffers):
            raise Malformed("a reference to a buffer that isn't there, or to one a second time")
        buffer = self._buffers[self._taken]
        self._taken += 1
        if mark is Mark.BYTES:
            return bytes(buffer)
        self._unclaimed += 1
        return View(buffer, is_changeable=mark is Mark.CHANGEABLE_VIEW)

    def _array(self, items: list[Any]) -> object:
        if not items or type(items[0]) is not Mark:
            return items
        self._unclaimed -= 1
        mark, fields = items[0], items[1:]
        if mark in _VIEWERS:
            self._unclaimed -= sum(type(field) is View for field in fields)
        if mark is Mark.PICKLE:
            return self._unpickle(fields)
        if mark is Mark.INPUTS:
            self._inputs = [run for run, _ in _pairs(fields)]
            return self._inputs
        if mark is Mark.INPUT:
            return self._input(*typed(fields, int))
        return _READERS[mark](fields)

    def _input(self, number: int) -> object:
        if self._result is None or not 0 <= number < len(self._inputs):
            raise Malformed("an input where none can be")
        return self._result(self._inputs[number])


def sources(body: bytes | memoryview) -> list[tuple[str, str]]:
    """What stands in front of arguments with inputs: for each its run, and what that executes.

    Nothing behind it is read. Whatever the bytes are, raises only subclasses of `Exception`.
    """
    if bytes(body[:1]) != _ARRAY_OF_THREE:
        return []
    unpacker = msgpack.Unpacker(_Stream(body[1:]), max_buffer_size=len(body))
    first: Any = unpacker.unpack()
    if type(first) is not list:
        return []
    mark, *fields = cast("list[Any]", first) or [None]
    return _pairs(fields) if mark == msgpack.ExtType(Mark.INPUTS, b"") else []


_ARRAY_OF_THREE = b"\x93"


class _Stream:
    """Bytes as a file to be read, without a copy of them all."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._rest = memoryview(data)

    def read(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)


def _pairs(fields: list[Any]) -> list[tuple[str, str]]:
    written: list[str] = typed(fields, *[str] * len(fields))
    return list(zip(written[::2], written[1::2], strict=True))


_VIEWERS = (Mark.NUMPY_ARRAY, Mark.BYTEARRAY, Mark.PICKLE)
"""The marks among whose fields a view may stand."""


def typed(fields: list[Any], *types: type) -> list[Any]:
    """The fields, if they have exactly these types. Raises `Malformed`."""
    if len(fields) != len(types) or any(
        type(field) is not kind for field, kind in zip(fields, types, strict=True)
    ):
        raise Malformed("fields of other types than the mark asks for")
    return fields


def _read_bytearray(fields: list[Any]) -> bytearray:
    (content,) = fields
    return bytearray(content.data if type(content) is View else typed(fields, bytes)[0])


def _read_dict(fields: list[Any]) -> dict[Any, Any]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _read_datetime(fields: list[Any]) -> dt.datetime:
    year, month, day, hour, minute, second, microsecond, fold = typed(fields[:-1], *[int] * 8)
    return dt.datetime(
        year, month, day, hour, minute, second, microsecond, _tzinfo(fields[-1]), fold=fold
    )


def _read_time(fields: list[Any]) -> dt.time:
    hour, minute, second, microsecond, fold = typed(fields[:-1], *[int] * 5)
    return dt.time(hour, minute, second, microsecond, _tzinfo(fields[-1]), fold=fold)


def _tzinfo(field: object) -> dt.tzinfo | None:
    if field is None or isinstance(field, dt.tzinfo):
        return field
    raise Malformed("a time zone is none")


def _read_timezone(fields: list[Any]) -> dt.timezone:
    offset, name = fields
    if name is None:
        return dt.timezone(*typed([offset], dt.timedelta))
    return dt.timezone(*typed(fields, dt.timedelta, str))


def _read_zoneinfo(fields: list[Any]) -> ZoneInfo:
    (key,) = typed(fields, str)
    try:
        return ZoneInfo(key)
    except ZoneInfoNotFoundError as error:
        raise PayloadError(
            f"this host knows no time zone {key!r}: install the package tzdata"
        ) from error


_PATHS: dict[str, type[pathlib.PurePath]] = {
    kind.__name__: kind for kind in (pathlib.Path, pathlib.PurePosixPath, pathlib.PureWindowsPath)
}


def _read_path(fields: list[Any]) -> pathlib.PurePath:
    name, text = typed(fields, str, str)
    return _PATHS[name](text)


def _read_numpy_array(fields: list[Any]) -> object:
    from leveret import arrays

    return arrays.read_array(fields)


def _read_numpy_scalar(fields: list[Any]) -> object:
    from leveret import arrays

    return arrays.read_scalar(fields)


_READERS: dict[Mark, Callable[[list[Any]], object]] = {
    Mark.TUPLE: tuple,
    Mark.SET: set,
    Mark.FROZENSET: frozenset,
    Mark.DICT: _read_dict,
    Mark.BYTEARRAY: _read_bytearray,
    Mark.COMPLEX: lambda f: complex(*typed(f, float, float)),
    Mark.RANGE: lambda f: range(*typed(f, int, int, int)),
    Mark.DATETIME: _read_datetime,
    Mark.DATE: lambda f: dt.date(*typed(f, int, int, int)),
    Mark.TIME: _read_time,
    Mark.TIMEDELTA: lambda f: dt.timedelta(*typed(f, int, int, int)),
    Mark.TIMEZONE: _read_timezone,
    Mark.ZONEINFO: _read_zoneinfo,
    Mark.DECIMAL: lambda f: Decimal(*typed(f, str)),
    Mark.FRACTION: lambda f: Fraction(*typed(f, int, int)),
    Mark.UUID: lambda f: UUID(bytes=typed(f, bytes)[0]),
    Mark.PATH: _read_path,
    Mark.NUMPY_ARRAY: _read_numpy_array,
    Mark.NUMPY_SCALAR: _read_numpy_scalar,
}
