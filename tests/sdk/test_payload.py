"""Values travel and come back equal and of equal type; hostile bytes come to nothing."""

import collections
import dataclasses
import datetime as dt
import enum
import importlib
import inspect
import math
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from leveret import payload, values
from leveret.errors import PayloadError
from leveret.keys import Keyring, load_key, load_keyring, new_key
from leveret.layout import Flag
from leveret.origin import Origin
from leveret.payload import Context
from tests.sdk.everything import numpy_dtypes, texts, zones
from tests.sdk.forging import laid_out

KEYS = load_keyring(new_key())
CONTEXT = Context(project="vision", run="run_1", definition="train", direction="arguments")


def sealed(value: object, keys: Keyring | None = KEYS) -> bytes:
    return payload.seal(payload.encode(value), keys=keys, context=CONTEXT)


def unsealed(data: bytes, keys: Keyring | None = KEYS, context: Context = CONTEXT) -> Any:
    return payload.unseal(data, keys=keys, context=context)


def there_and_back(value: object, keys: Keyring | None = KEYS) -> Any:
    return unsealed(sealed(value, keys), keys)


def plain(value: object) -> Any:
    """There and back without a key, so without a pickle."""
    return there_and_back(value, keys=None)


def looks(value: Any) -> object:
    """A form that tells apart whatever differs in value, type or order."""
    kind = type(value).__qualname__
    if kind in ("list", "tuple"):
        return kind, [looks(item) for item in value]
    if kind in ("set", "frozenset"):
        return kind, sorted(repr(looks(item)) for item in value)
    if kind == "dict":
        return kind, [(looks(key), looks(item)) for key, item in value.items()]
    return kind, repr(value)


hashables = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**200), max_value=2**200)
    | st.floats()
    | texts
    | st.binary(max_size=8)
    | st.complex_numbers()
    | st.datetimes(timezones=zones, allow_imaginary=True)
    | st.dates()
    | st.times(timezones=st.sampled_from([None, dt.UTC]))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
    | texts.map(lambda text: pathlib.Path("a", text.replace("\0", "")))
    | st.sampled_from([pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("C:\\a")])
    | st.builds(range, st.integers(), st.integers(), st.integers(min_value=1))
)
keys = st.recursive(
    hashables,
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
anything = st.recursive(
    hashables | st.binary(max_size=8).map(bytearray) | st.sets(keys, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


# -- round trips ----------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None, derandomize=True)
@given(anything)
def test_values_come_back_equal_and_of_equal_type_without_a_key(value: object) -> None:
    assert looks(plain(value)) == looks(value)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        -math.inf,
        -0.0,
        2**64,
        -(2**63) - 1,
        "lone \ud800 surrogate",
        Decimal("NaN"),
        Decimal("1.10"),
        Fraction(-1, 3),
        UUID(int=7),
        dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        {1: "a", 1.5: "b", None: "c", (1, ("x",)): "d", frozenset({2}): "e", b"f": "f"},
        {"z": 1, "a": 2},
        [(), [], {}, set[int](), frozenset[int](), ((),)],
    ],
    ids=repr,
)
def test_awkward_values_come_back_as_they_were(value: object) -> None:
    assert looks(plain(value)) == looks(value)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(hnp.arrays(numpy_dtypes, hnp.array_shapes(min_dims=0, min_side=0)), st.sampled_from("CFS"))
def test_arrays_keep_type_shape_and_order_and_are_writable(
    array: "np.ndarray[Any, Any]", order: str
) -> None:
    if order == "F":
        array = np.asfortranarray(array) if array.ndim else array
    elif array.ndim:
        array = array[::2] if order == "S" else array
    arrived = plain({"array": array})["array"]
    assert (arrived.dtype, arrived.shape) == (array.dtype, array.shape)
    assert arrived.tobytes() == array.tobytes()
    assert arrived.flags.writeable
    if array.flags.f_contiguous:
        assert arrived.flags.f_contiguous
    assert payload.encode(arrived) == payload.encode(array)


@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(1.5),
        np.float32("nan"),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.complex64(1 + 2j),
        np.datetime64("2024-01-01T00:00:01"),
        np.datetime64("NaT", "s"),
        np.timedelta64(3, "D"),
        np.str_("text\0"),
        np.bytes_(b"bytes"),
    ],
    ids=repr,
)
def test_numpy_scalars_stay_numpy_scalars(scalar: object) -> None:
    assert looks(there_and_back(scalar)) == looks(scalar)


def test_arrays_of_objects_and_records_go_by_pickle() -> None:
    for array in (
        np.array([1, "a", None], dtype=object),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    ):
        assert payload.encode(array).pickled
        arrived = there_and_back(array)
        assert arrived.dtype == array.dtype
        assert arrived.tolist() == array.tolist()


@dataclasses.dataclass
class Model:
    weights: "np.ndarray[Any, Any]"
    name: str = "m"


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int


class Shout(str):
    __slots__ = ()


class Settings(pydantic.BaseModel):
    rate: float


@pytest.mark.parametrize(
    "value",
    [
        collections.OrderedDict[str, int](b=1, a=2),
        Colour.RED,
        Point(1, 2),
        Shout("hey"),
        Settings(rate=0.5),
        collections.deque([1, 2]),
        Exception("a", 1).args,
        int,
        ...,
    ],
    ids=repr,
)
def test_values_of_other_types_come_back_by_a_signed_pickle(value: object) -> None:
    arrived = there_and_back({"deep": [value]})["deep"][0]
    assert arrived == value
    assert type(arrived) is type(value)


def test_functions_and_local_classes_travel() -> None:
    class Local:
        pass

    step = 1

    def add(number: int) -> int:
        return number + step

    assert there_and_back(add)(2) == 3
    assert type(there_and_back(Local())).__qualname__ == Local.__qualname__


def test_an_array_inside_an_object_is_writable_on_arrival() -> None:
    arrived = there_and_back(Model(np.zeros(3)))
    arrived.weights[0] = 1
    assert arrived.weights.tolist() == [1, 0, 0]


def test_arguments_come_back_as_positions_and_names() -> None:
    encoded = payload.encode_arguments((1, (2,)), {"a": {3}})
    data = payload.seal(encoded, keys=None, context=CONTEXT)
    arrived = payload.unseal_arguments(data, keys=None, context=CONTEXT)
    assert arrived == ([1, (2,)], {"a": {3}})


@pytest.mark.parametrize("value", [1, [], [[], {}, 1], [[], {1: 2}], [{}, []], [(), {}]])
def test_what_are_no_arguments_is_refused_as_such(value: object) -> None:
    with pytest.raises(PayloadError, match="those of no call"):
        payload.unseal_arguments(sealed(value), keys=KEYS, context=CONTEXT)


# -- equal values ---------------------------------------------------------------------------------

SETS = """
import sys
from leveret import payload
letters = [chr(97 + i) * 3 for i in range(20)]
value = {
    "sets": [set(letters), frozenset(letters), {frozenset(letters[:9]), frozenset(letters[9:])}],
    "mixed": {1, "a", None, (2, "b"), 2.5, b"c"},
    frozenset(letters): tuple(letters),
}
encoded = payload.encode_arguments((value,), {"x": set(letters)})
sys.stdout.write(encoded.body.hex())
"""


def python(code: str, *arguments: str, cwd: pathlib.Path | None = None, seed: str = "0") -> str:
    """What a Python of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONHASHSEED": seed, "LEVERET_TEST_KEY": KEYS.signing.hex()},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_equal_arguments_have_equal_bytes_in_every_process() -> None:
    assert len({python(SETS, seed=seed) for seed in ("1", "2", "3")}) == 1


def test_different_arguments_have_different_bytes() -> None:
    different = [1, 1.0, True, "1", b"1", [1], (1,), {1}, frozenset({1}), {1: 1}, None, bytearray()]
    assert len({payload.encode(value).body for value in different}) == len(different)


# -- what can't travel ----------------------------------------------------------------------------


def some_generator() -> Generator[int, None, None]:
    yield 1


@dataclasses.dataclass
class Holder:
    held: object


class NotAwaited:
    __leveret_call__ = True


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (threading.Lock, r"a lock can't be pickled.*at \['deep'\]\[1\]"),
        (some_generator, r"a generator can't be pickled.*at \['deep'\]\[1\]"),
        (NotAwaited, "a call was not awaited: await it first"),
        (lambda: Holder(NotAwaited()), "a Holder can't be pickled.*await it first"),
        (lambda: memoryview(b"x"), "a memoryview.*would arrive as bytes"),
        (lambda: Holder(threading.Lock()), "a Holder can't be pickled.*lock"),
    ],
)
def test_what_cannot_travel_is_named_with_its_type_and_place(
    make: Callable[[], object], says: str
) -> None:
    with pytest.raises(PayloadError, match=says):
        payload.encode({"deep": (1, make())})


def test_the_argument_that_cannot_travel_is_named() -> None:
    names = ("data", "guard")
    with pytest.raises(PayloadError, match="the argument 'guard' can't be sent: a lock"):
        payload.encode_arguments((1, threading.Lock()), {}, names)
    with pytest.raises(PayloadError, match="the argument 3 can't be sent: a lock"):
        payload.encode_arguments((1, 2, threading.Lock()), {}, names)
    with pytest.raises(PayloadError, match=r"the argument 'by_name' can't be sent.*at \[0\]"):
        payload.encode_arguments((), {"by_name": [threading.Lock()]}, names)


def test_open_files_and_sockets_stay_where_they_are(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    with path.open() as text, path.open("rb") as binary, socket.socket() as connection:
        for value in (text, binary, connection):
            with pytest.raises(PayloadError, match=f"a {type(value).__qualname__} can't be"):
                payload.encode([value])


def nested(depth: int, wrap: Callable[[object], object] = lambda inner: [inner]) -> object:
    value: object = 1
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPS: list[Callable[[object], object]] = [
    lambda v: [v],
    lambda v: (v,),
    lambda v: {"a": v},
    lambda v: {(1,): v},
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_nesting_has_a_limit_that_is_an_error_in_words(wrap: Callable[[object], object]) -> None:
    with pytest.raises(PayloadError, match="nested more than 100 deep"):
        payload.encode(nested(5000, wrap))


def test_nesting_up_to_the_limit_travels() -> None:
    assert plain(nested(values.DEEPEST)) == nested(values.DEEPEST)


def test_a_list_that_contains_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(PayloadError, match="contains itself"):
        payload.encode(value)


def test_a_stack_that_is_nearly_full_is_an_error_in_words() -> None:
    def deeper(left: int) -> None:
        if left:
            deeper(left - 1)
        else:
            payload.encode(nested(90))

    frames = sys.getrecursionlimit() - len(inspect.stack()) - 60
    with pytest.raises(PayloadError, match="nested too deep for what the stack has left"):
        deeper(frames)


# -- trust ----------------------------------------------------------------------------------------


class Bomb:
    """Counts how often a pickle of it is loaded."""

    exploded = 0

    def __reduce__(self) -> tuple[Callable[[], "Bomb"], tuple[()]]:
        return explode, ()


def explode() -> Bomb:
    Bomb.exploded += 1
    return Bomb()


@pytest.fixture
def bomb() -> Bomb:
    Bomb.exploded = 0
    return Bomb()


def test_a_pickle_without_a_key_is_refused_in_the_caller_saying_how_to_get_one() -> None:
    with pytest.raises(
        PayloadError, match=r"a Point can travel only.*`leveret key new`.*LEVERET_KEY"
    ):
        sealed(Point(1, 2), keys=None)


def test_a_pickle_is_loaded_if_the_key_signed_it(bomb: Bomb) -> None:
    there_and_back(bomb)
    assert Bomb.exploded == 1


def other(**changes: Any) -> Context:
    return dataclasses.replace(CONTEXT, **changes)


@pytest.mark.parametrize(
    "context",
    [
        other(project="audio"),
        other(run="run_2"),
        other(direction="result"),
        other(project="visionr", run="un_1"),
    ],
    ids=["project", "run", "direction", "boundary"],
)
def test_a_payload_is_worth_nothing_in_another_context(context: Context, bomb: Bomb) -> None:
    for value in (bomb, 1):
        with pytest.raises(PayloadError, match="its signature doesn't fit"):
            unsealed(sealed(value), context=context)
    assert not Bomb.exploded


def test_another_key_opens_nothing(bomb: Bomb) -> None:
    for value in (bomb, 1):
        with pytest.raises(PayloadError, match=r"the key [0-9a-f]{8}, which this process doesn't"):
            unsealed(sealed(value), keys=Keyring(keys=(secrets.token_bytes(32),)))
    assert not Bomb.exploded


def test_a_pickle_is_refused_where_there_is_no_key(bomb: Bomb) -> None:
    with pytest.raises(PayloadError, match="no key to verify it: set LEVERET_KEY"):
        unsealed(sealed(bomb), keys=None)
    assert not Bomb.exploded


def test_a_pickle_that_lost_its_signature_is_not_loaded(bomb: Bomb) -> None:
    data = sealed(bomb)
    stripped = data[:3] + bytes((data[3] & ~Flag.SIGNED,)) + data[40:]
    for keys in (KEYS, None):
        with pytest.raises(PayloadError, match="isn't signed, so it is not loaded"):
            unsealed(stripped, keys=keys)
    assert not Bomb.exploded


def test_a_pickle_that_is_not_declared_is_not_loaded(bomb: Bomb) -> None:
    body = payload.encode(bomb).body
    for keys in (dataclasses.replace(KEYS, accepts_unsigned=True), None):
        with pytest.raises(PayloadError, match="doesn't declare"):
            unsealed(laid_out(body), keys=keys)
    assert not Bomb.exploded


def test_every_flipped_bit_and_every_cut_of_a_signed_payload_is_noticed(bomb: Bomb) -> None:
    data = sealed([bomb, "some text"])
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(PayloadError):
            unsealed(bytes(flipped))
    for length in range(len(data)):
        with pytest.raises(PayloadError):
            unsealed(data[:length])
    assert not Bomb.exploded


def test_an_unsigned_plain_payload_passes_where_there_is_no_key() -> None:
    data = sealed({"a": (1,)}, keys=None)
    assert unsealed(data, keys=None) == {"a": (1,)}
    with pytest.raises(PayloadError, match=r"isn't signed, and this process has a key.*_UNSIGNED"):
        unsealed(data, keys=KEYS)


def test_who_accepts_what_is_unsigned_accepts_plain_values_only(bomb: Bomb) -> None:
    accepting = dataclasses.replace(KEYS, accepts_unsigned=True)
    data = sealed({"a": (1,)}, keys=None)
    assert unsealed(data, keys=accepting) == {"a": (1,)}
    assert not payload.open_sealed(data, keys=accepting, context=CONTEXT).trusted
    signed = sealed(bomb)
    stripped = signed[:3] + bytes((signed[3] & ~Flag.SIGNED,)) + signed[40:]
    with pytest.raises(PayloadError, match="isn't signed, so it is not loaded"):
        unsealed(stripped, keys=accepting)
    with pytest.raises(PayloadError, match="its signature doesn't fit"):
        unsealed(signed, keys=accepting, context=other(run="run_2"))
    assert not Bomb.exploded


def test_only_a_verified_payload_is_trusted() -> None:
    data = sealed(1)
    assert payload.open_sealed(data, keys=KEYS, context=CONTEXT).trusted
    assert not payload.open_sealed(data, keys=None, context=CONTEXT).trusted


# -- hostile bytes --------------------------------------------------------------------------------


def damaged(value: object, position: int, byte: int) -> bytes:
    data = bytearray(sealed(value, None))
    data[position % len(data)] = byte
    return bytes(data)


def after_mark(mark: msgpack.ExtType, rest: list[Any]) -> list[Any]:
    return [mark, *rest]


def wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=6)
        | st.builds(after_mark, marks, st.lists(inner, max_size=8))
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    )


marks = st.integers(0, 30).map(lambda code: msgpack.ExtType(code, b""))
hostile_tree: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=9)
    | st.sampled_from(["<f8", "|V0", "<U0", "|O", "C", "1e999999999", "../x", "Path"])
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9))
    | marks,
    wider,
    max_leaves=12,
)
hostile = (
    st.binary(max_size=64)
    | st.binary(max_size=64).map(lambda rest: b"LV" + rest)
    | st.binary(max_size=64).map(lambda rest: b"LV\x02\x00" + rest)
    | st.binary(max_size=64).map(lambda body: laid_out(body))
    | hostile_tree.map(lambda tree: laid_out(msgpack.packb(tree)))
    | st.builds(damaged, anything, st.integers(0), st.integers(0, 255))
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(hostile)
def test_hostile_bytes_raise_payload_errors_only(data: bytes) -> None:
    for keys in (KEYS, None):
        try:
            value = unsealed(data, keys=keys)
        except PayloadError:
            continue
        assert "Mark" not in repr(looks(value))


def crafted(mark: values.Mark, *fields: object) -> bytes:
    return laid_out(values.pack(values.marked(mark, *fields)))


@pytest.mark.parametrize(
    "data",
    [
        crafted(values.Mark.NUMPY_ARRAY, "<f8", [2**40], "C", b"\0" * 8),
        crafted(values.Mark.NUMPY_ARRAY, "<f8", [1], "C", b"\0" * 9),
        crafted(values.Mark.NUMPY_ARRAY, "<f8", [-1, -1], "C", b"\0" * 8),
        crafted(values.Mark.NUMPY_ARRAY, "<U0", [2**40], "C", b""),
        crafted(values.Mark.NUMPY_ARRAY, "|O", [1], "C", b"\0" * 8),
        crafted(values.Mark.NUMPY_ARRAY, "<f8", [0, 2**70], "C", b""),
        crafted(values.Mark.NUMPY_SCALAR, "<f8", b"\0"),
        crafted(values.Mark.FRACTION, "1e999999999", 1),
        crafted(values.Mark.FRACTION, 1, 0),
        crafted(values.Mark.SET, [1]),
        crafted(values.Mark.DICT, 1),
        crafted(values.Mark.ZONEINFO, "../../etc/passwd"),
        crafted(values.Mark.DATETIME, 1, 1, 1, 0, 0, 0, 0, 0, "UTC"),
        crafted(values.Mark.INTEGER, 1),
        laid_out(b"\xdd\x00\x0f\x42\x40" * 1000 + b"\0" * 1_000_000),  # 8 GB of empty lists
        laid_out(b"\x91" * 100_000),
        laid_out(b"\xc7\x00\x02"),  # a mark alone
        laid_out(b"\x92\x01\xc7\x00\x02"),  # a mark that is not the first
    ],
)
def test_crafted_bytes_are_damaged_not_dangerous(data: bytes) -> None:
    with pytest.raises(PayloadError, match="can't be read: damaged"):
        unsealed(data, keys=None)


def test_other_versions_are_named() -> None:
    with pytest.raises(PayloadError, match="another version of leveret"):
        unsealed(b"LV\x01\x00\xc0")
    with pytest.raises(PayloadError, match="another version of leveret"):
        unsealed(b"LV\x02\x80\xc0")
    with pytest.raises(PayloadError, match="no payload of leveret"):
        unsealed(b"")


# -- versions -------------------------------------------------------------------------------------


def test_code_of_another_python_is_refused_and_plain_pickles_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = Origin("h", 1, "0", "3.9", "3")

    def here(*, pickles: bool) -> Origin:
        return elsewhere

    monkeypatch.setattr(Origin, "here", here)
    function, point = sealed(lambda: 1), sealed(Point(1, 2))
    monkeypatch.undo()
    with pytest.raises(PayloadError, match=r"compiled by Python 3\.9, and this is Python 3\.1"):
        unsealed(function)
    assert unsealed(point) == Point(1, 2)


def test_a_module_that_is_missing_here_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text("class Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)  # pyright: ignore[reportUnknownMemberType]
    data = sealed(importlib.import_module("elsewhere").Thing())
    monkeypatch.undo()
    del sys.modules["elsewhere"]
    with pytest.raises(PayloadError, match="No module named 'elsewhere'"):
        unsealed(data)


# -- classes of a script --------------------------------------------------------------------------

JOB = """
import dataclasses, importlib.util, os, pathlib, sys
from leveret import identity, payload
from leveret.keys import Keyring

@dataclasses.dataclass(frozen=True)
class Rates:
    first: float

def seal(value, direction):
    context = payload.Context(project="p", run="r", definition="train", direction=direction)
    encoded = payload.encode(value)
    keys = Keyring(keys=(bytes.fromhex(os.environ["LEVERET_TEST_KEY"]),))
    content = identity.of_arguments(payload.encode_arguments((value,), {}), (value,), {})
    return content.digest, payload.seal(encoded, keys=keys, context=context)

def unseal(file, direction):
    context = payload.Context(project="p", run="r", definition="train", direction=direction)
    keys = Keyring(keys=(bytes.fromhex(os.environ["LEVERET_TEST_KEY"]),))
    return payload.unseal(pathlib.Path(file).read_bytes(), keys=keys, context=context)

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["send", file]:
            identity, data = seal([Rates(0.5), Rates], "arguments")
            pathlib.Path(file).write_bytes(data)
            print(identity)
        case ["receive", file]:
            print(unseal(file, "result") == Rates(0.75))
"""
SERVE = """
import sys; sys.path.insert(0, ".")
import job, pathlib
rates, kind = job.unseal("arguments", "arguments")
assert type(rates) is kind is job.Rates and rates == job.Rates(0.5)
pathlib.Path("result").write_bytes(job.seal(job.Rates(0.75), "result")[1])
"""
STRANGER = """
import os, pathlib
from leveret import payload
from leveret.keys import Keyring
rates, kind = payload.unseal(
    pathlib.Path("arguments").read_bytes(),
    keys=Keyring(keys=(bytes.fromhex(os.environ["LEVERET_TEST_KEY"]),)),
    context=payload.Context(project="p", run="r", definition="train", direction="arguments"),
)
assert type(rates) is kind and rates.first == 0.5
"""


def run_job(folder: pathlib.Path, *arguments: str, seed: str = "0") -> str:
    done = subprocess.run(
        [sys.executable, "job.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": seed, "LEVERET_TEST_KEY": KEYS.signing.hex()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_scripts_class_is_the_same_class_to_whoever_has_loaded_the_script(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "job.py").write_text(JOB)
    identities = {run_job(tmp_path, "send", "arguments", seed=seed) for seed in ("1", "2")}
    assert len(identities) == 1
    python(SERVE, cwd=tmp_path)
    assert run_job(tmp_path, "receive", "result") == "True"
    (tmp_path / "job.py").unlink()
    python(STRANGER, cwd=tmp_path)


# -- keys and imports -----------------------------------------------------------------------------


def test_a_new_key_is_loaded_as_32_bytes_and_never_twice_the_same() -> None:
    one, two = new_key(), new_key()
    assert len(load_key(f" {one}\n")) == 32
    assert one != two


@pytest.mark.parametrize("text", ["", "secret", "secret" * 6, "a b" * 20, "é" * 43, "QUJD" * 40])
def test_a_bad_key_is_refused_and_never_shown(text: str) -> None:
    with pytest.raises(PayloadError, match="`leveret key new`") as caught:
        load_key(text)
    assert not text or text not in str(caught.value)


def test_importing_payload_and_plain_values_imports_nothing_heavy() -> None:
    code = (
        "import sys; from leveret import payload; payload.encode([1, {'a': (2,)}]); "
        "print({'cloudpickle', 'numpy', 'leveret.pickles', 'leveret.arrays'} & set(sys.modules))"
    )
    assert python(code).strip() == "set()"
