"""Values of every type that travels, nested; `python -m tests.sdk.everything` prints their hashes.

Two processes with different hash seeds draw the same values, and have to print the same.
"""

import collections
import dataclasses
import datetime as dt
import enum
import pathlib
from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pydantic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from leveret import identity, payload

EXAMPLES = 300
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


class Colour(enum.Enum):
    RED = "r"
    GREEN = ("g", 1)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Sample:
    value: Any
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    x: Any
    tags: frozenset[Any] = frozenset()


class Pair(NamedTuple):
    first: Any
    second: Any = None


class Shape(pydantic.BaseModel):
    sides: int
    names: list[str] = []
    inner: "Shape | None" = None


class Row(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)

    number: int


texts = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too
zones = st.none() | st.sampled_from(
    [
        dt.UTC,
        dt.timezone(dt.timedelta(hours=-3, minutes=-30)),
        dt.timezone(dt.timedelta(hours=2), "Sommerzeit"),
        ZoneInfo("Europe/Berlin"),
    ]
)
numpy_dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?")
    | hnp.complex_number_dtypes(endianness="?")
    | hnp.unicode_string_dtypes(endianness="?")
    | hnp.byte_string_dtypes()
    | hnp.datetime64_dtypes(endianness="?")
    | hnp.timedelta64_dtypes(endianness="?")
)
numpy_scalars = (
    hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="=") | hnp.floating_dtypes(endianness="=")
).flatmap(hnp.from_dtype)

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**300), max_value=2**300)
    | st.floats()
    | st.complex_numbers()
    | texts
    | st.binary(max_size=8)
    | st.integers(0, 3).map(lambda n: bytes((n,)) * 70_000)
    | st.datetimes(timezones=zones, allow_imaginary=True)
    | st.dates()
    | st.times(timezones=st.sampled_from([None, dt.UTC]))
    | st.timedeltas()
    | st.decimals()
    | st.fractions()
    | st.uuids()
    | texts.map(lambda text: pathlib.Path("a", text.replace("\0", "")))
    | st.sampled_from([pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("C:\\a")])
    | st.builds(range, st.integers(), st.integers(), st.integers(min_value=1))
    | st.sampled_from([*Colour, *Level, Access.READ, Access.READ | Access.WRITE])
    | st.builds(Row, number=st.integers())
    | numpy_scalars
)


def is_hashable(value: object) -> bool:
    """Signalling NaNs, and whatever holds one, are not."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


hashables = st.recursive(
    atoms.filter(is_hashable),
    lambda inner: (
        st.tuples(inner, inner)
        | st.frozensets(inner, max_size=3)
        | st.builds(Pair, inner, inner)
        | st.builds(Place, inner, st.frozensets(inner, max_size=2))
    ),
    max_leaves=4,
)


def constant(number: int) -> "np.ndarray[Any, Any]":
    """An array large enough to stand beside the body."""
    return np.full(20_000, number)


arrays = hnp.arrays(
    numpy_dtypes, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)
) | st.integers(0, 9).map(constant)
everything: st.SearchStrategy[Any] = st.recursive(
    hashables | st.binary(max_size=8).map(bytearray) | st.sets(hashables, max_size=4) | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashables, inner, max_size=4)
        | st.builds(Sample, inner, texts)
        | st.builds(Pair, inner, inner)
        | st.builds(
            collections.OrderedDict[Any, Any], st.dictionaries(hashables, inner, max_size=2)
        )
        | st.builds(Shape, sides=st.integers(), names=st.lists(st.text(max_size=4), max_size=3))
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and of equal types, all through."""
    if type(one) is not type(other):
        return False
    compare = next((compare for kinds, compare in _COMPARED if isinstance(one, kinds)), None)
    if compare is not None:
        return compare(one, other)
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


def _same_arrays(one: Any, other: Any) -> bool:
    """numpy's own pickles put some arrays into the machine's order of bytes."""
    one, other = (np.asarray(each, each.dtype.newbyteorder("=")) for each in (one, other))
    return (one.dtype, one.shape) == (other.dtype, other.shape) and bool(
        one.tobytes() == other.tobytes()
    )


def _same_sequences(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(map(same, one, other))


def _same_times(one: Any, other: Any) -> bool:
    naive = one.replace(tzinfo=None) == other.replace(tzinfo=None)
    return bool(naive and one.fold == other.fold and str(one.tzinfo) == str(other.tzinfo))


def _same_sets(one: list[Hashable], other: list[Hashable]) -> bool:
    if len(one) != len(other):
        return False
    for element in one:
        found = next((i for i, each in enumerate(other) if same(element, each)), None)
        if found is None:
            return False
        del other[found]
    return True


_COMPARED: list[tuple[Any, Callable[[Any, Any], bool]]] = [
    ((np.ndarray, np.generic), _same_arrays),
    ((list, tuple), _same_sequences),
    (dict, lambda one, other: same(list(one.items()), list(other.items()))),
    ((set, frozenset), lambda one, other: _same_sets(list(one), list(other))),
    # what is not a number is the same as itself here
    ((float, complex, Decimal), lambda one, other: repr(one) == repr(other)),
    ((dt.datetime, dt.time), _same_times),
    (pydantic.BaseModel, lambda one, other: same(one.__dict__, other.__dict__)),
]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=SLOW,
)
@given(everything)
def _print_hashes(value: object) -> None:
    encoded = payload.encode_arguments((value,), {})
    content = identity.of_arguments(encoded, (value,), {})
    print(content.text, content.is_stable, encoded.content_hash if encoded.canonical else "")


if __name__ == "__main__":
    _print_hashes()
