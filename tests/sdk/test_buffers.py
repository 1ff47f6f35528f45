"""Large bytes and arrays stand beside the body: not copied more than needed, and never trusted."""

import dataclasses
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np
import pytest

from leveret import identity, layout, payload, pickles
from leveret.buffers import AT_LEAST, View
from leveret.errors import PayloadError
from leveret.keys import Keyring, load_keyring, new_key
from leveret.layout import Flag
from leveret.payload import Context
from leveret.values import Mark, marked, pack
from tests.sdk.forging import laid_out

KEYS = load_keyring(new_key())
CONTEXT = Context(project="vision", run="run_1", definition="train", direction="result")
LARGE = 3 * AT_LEAST


@dataclasses.dataclass
class Model:
    weights: "np.ndarray[Any, Any]"
    notes: bytes = b""


SMALL = Model(np.zeros(1))


def array(size: int = LARGE) -> "np.ndarray[Any, Any]":
    """Numbers that no compression makes smaller."""
    return np.random.default_rng(1).integers(2**62, size=size // 8)


def sealed(value: object, keys: Keyring | None = KEYS) -> bytes:
    return payload.seal(payload.encode(value), keys=keys, context=CONTEXT)


def unsealed(data: bytes | bytearray | memoryview, keys: Keyring | None = KEYS) -> Any:
    return payload.unseal(data, keys=keys, context=CONTEXT)


def address(view: "np.ndarray[Any, Any] | memoryview") -> int:
    return int(np.asarray(view).__array_interface__["data"][0])


# -- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        bytes(LARGE),
        bytearray(LARGE),
        [b"a" * LARGE, b"", (b"b" * LARGE, {"k": b"c" * LARGE})],
        {b"k" * LARGE: b"v" * LARGE},
        {b"s" * LARGE, b"t" * LARGE, (b"u" * LARGE, 1)},
    ],
    ids=["bytes", "bytearray", "nested", "dict", "set"],
)
@pytest.mark.parametrize("keys", [None, KEYS], ids=["no key", "key"])
def test_large_bytes_come_back_equal_and_of_equal_type(value: Any, keys: Keyring | None) -> None:
    arrived = unsealed(sealed(value, keys), keys)
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize("size", [AT_LEAST - 8, AT_LEAST])
def test_only_what_is_large_stands_beside_the_body(size: int) -> None:
    for value in (array(size), bytes(size), bytearray(size), [bytes(size)], {"a": bytes(size)}):
        encoded = payload.encode(value)
        assert len(encoded.buffers) == (size >= AT_LEAST)
        assert (len(encoded.body) < 100) == (size >= AT_LEAST)


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_a_large_array_comes_back_writable_with_its_order(order: str) -> None:
    given = array(LARGE * 2).reshape(64, -1)
    given = (
        given[::2] if order == "strided" else np.asfortranarray(given) if order == "F" else given
    )
    for data in (sealed(given), bytearray(sealed(given))):
        arrived = unsealed(data)
        assert np.array_equal(arrived, given)
        assert arrived.flags.writeable
        assert arrived.flags.f_contiguous == (order == "F")


def test_a_large_array_inside_an_object_is_as_writable_as_it_was() -> None:
    for writeable in (True, False):
        given = array()
        given.flags.writeable = writeable
        for data in (sealed(Model(given)), bytearray(sealed(Model(given)))):
            arrived = unsealed(data)
            assert np.array_equal(arrived.weights, given)
            assert arrived.weights.flags.writeable == writeable


def test_a_large_pickle_comes_back() -> None:
    for notes in (os.urandom(LARGE), os.urandom(AT_LEAST + 1)):
        assert unsealed(sealed(Model(array(), notes))).notes == notes
    many = [dataclasses.replace(SMALL, notes=str(n).encode()) for n in range(20_000)]
    arrived = unsealed(sealed({"many": np.array(many, dtype=object)}))["many"]
    assert [each.notes for each in arrived] == [each.notes for each in many]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_large_pickle_of_any_protocol_is_read_where_it_lies(protocol: int) -> None:
    value = {"lines": "x\n" * AT_LEAST, "numbers": list(range(1000)), "type": Model}
    view = View(memoryview(pickle.dumps(value, protocol)), is_changeable=False)
    unpickling = pickles.Unpickling(python="3", cloudpickle_version="3", definitions={})
    assert unpickling.load([view, False]) == value


# -- copies ---------------------------------------------------------------------------------------


def test_arrays_lie_in_the_sealed_bytes_if_these_can_be_written() -> None:
    data = bytearray(sealed([array(), Model(array()), array(AT_LEAST + 8)]))
    start = address(memoryview(data))
    first, model, last = unsealed(data)
    for arrived in (first, model.weights, last):
        assert start <= address(arrived) < start + len(data)
        assert (address(arrived) - start) % layout.ALIGNED == 0
    assert np.array_equal(last, array(AT_LEAST + 8))


def test_the_pieces_of_a_sealed_payload_are_the_values_own_memory() -> None:
    given = array()
    parts = payload.seal_parts(payload.encode([given]), keys=KEYS, context=CONTEXT)
    assert any(address(np.frombuffer(part, np.uint8)) == address(given) for part in parts if part)
    assert b"".join(parts) == sealed([given])


def test_what_is_changed_after_the_call_changes_nothing() -> None:
    changing, frozen, content = array(), bytearray(b"a" * LARGE), b"b" * LARGE
    encoded = payload.encode_arguments((changing, content), {"frozen": frozen})
    changing[:] = 0
    frozen.clear()
    data = payload.seal(encoded, keys=KEYS, context=CONTEXT)
    given, named = payload.unseal_arguments(data, keys=KEYS, context=CONTEXT)
    assert np.array_equal(np.asarray(given[0]), array())
    assert given[1] == content
    assert named == {"frozen": bytearray(b"a" * LARGE)}
    assert encoded.buffers[1].obj is content


def peak(function: Callable[[], object]) -> float:
    """The most memory that it took above what there was, in megabytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        kept = function()
        return (tracemalloc.get_traced_memory()[1] - before + 0 * id(kept)) / 2**20
    finally:
        tracemalloc.stop()


def test_large_values_are_not_copied_on_their_way() -> None:
    given = np.random.default_rng(1).random(50 * 2**17)  # 50 MiB
    content = given.tobytes()
    data = bytearray(sealed({"a": given, "m": Model(given), "b": content}))

    def parts(value: object) -> Sequence[object]:
        return payload.seal_parts(payload.encode(value), keys=KEYS, context=CONTEXT)

    assert peak(lambda: parts([given, Model(given), content])) < 1
    assert peak(lambda: payload.encode_arguments((given,), {})) < 51
    assert peak(lambda: payload.encode_arguments((content,), {})) < 1
    assert peak(lambda: sealed(content)) < 51
    named = {"b": content, "c": [given]}
    encoded = payload.encode_arguments((given,), named)
    assert peak(lambda: identity.of_arguments(encoded, (given,), named)) < 1
    assert peak(lambda: unsealed(data)) < 51  # the bytes alone: they can't lie anywhere else
    data = bytearray(sealed(Model(np.zeros(1), content)))
    assert peak(lambda: unsealed(data)) < 51


# -- equal values ---------------------------------------------------------------------------------

EQUAL = """
import sys
import numpy as np
from leveret import identity, payload
words = ["zero", "one", "two", "three", "four", "five"]
arrays = {word: np.full(20_000, len(word)) for word in set(words)}
value = {
    "set": {(word * 20_000).encode() for word in words},
    "frozen": frozenset((bytes(70_000), word) for word in words),
}
for args, kwargs in (((value["set"], value["frozen"]), {}), ((arrays,), {"a": arrays["one"]})):
    encoded = payload.encode_arguments(args, kwargs)
    print(identity.of_arguments(encoded, args, kwargs).digest)
    if encoded.canonical:
        print(encoded.content_hash, [digest.hex() for digest in encoded.digests])
"""


def test_equal_large_values_have_equal_identities_in_every_process() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", EQUAL],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1
    assert "None" not in printed.pop()


def test_different_large_values_have_different_hashes() -> None:
    one, other = bytes(LARGE), bytes(LARGE - 1) + b"1"
    different: list[object] = [one, other, bytearray(one), bytearray(other), array(), -array()]
    different += [[one, other], [other, one], [one + other], (one, other), array().astype("u8")]
    assert len({payload.encode(value).content_hash for value in different}) == len(different)


# -- hostile bytes --------------------------------------------------------------------------------


def forged(body: object, *buffers: bytes) -> bytes:
    """What somebody without a key can make of a body and buffers."""
    return laid_out(pack(body), *buffers)


def reference(mark: Mark, number: int) -> Any:
    return msgpack.ExtType(mark, number.to_bytes(4, "big"))


LIST_OF_ONE = ["<i8", [1], "C"]


@pytest.mark.parametrize(
    "data",
    [
        forged([reference(Mark.BYTES, 0)]),
        forged([reference(Mark.BYTES, 1)], b"a"),
        forged([reference(Mark.BYTES, 0), reference(Mark.BYTES, 0)], b"a"),
        forged([reference(Mark.BYTES, 1), reference(Mark.BYTES, 0)], b"a", b"b"),
        forged([1], b"a"),
        forged([reference(Mark.VIEW, 0)], b"a"),
        forged({"a": reference(Mark.VIEW, 0)}, b"a"),
        forged(reference(Mark.CHANGEABLE_VIEW, 0), b"a"),
        forged(marked(Mark.TUPLE, reference(Mark.VIEW, 0)), b"a"),
        forged(marked(Mark.DECIMAL, reference(Mark.VIEW, 0)), b"1"),
        forged(marked(Mark.NUMPY_ARRAY, *LIST_OF_ONE, reference(Mark.VIEW, 0)), b"1234567"),
        forged(marked(Mark.NUMPY_ARRAY, *LIST_OF_ONE, [reference(Mark.VIEW, 0)]), b"12345678"),
        forged(marked(Mark.BYTEARRAY, reference(Mark.VIEW, 0), 1), b"1"),
        forged(marked(Mark.BYTEARRAY, "a")),
        forged(reference(Mark.BYTES, 0), b"a") + b"b",
        forged(reference(Mark.BYTES, 0), b"ab")[:-1],
        forged(reference(Mark.BYTES, 0), b"ab")[:-3] + b"\1ab",
        layout.head(Flag(0)) + b"\0" * 4 + b"\xff" * 4 + b"\0" * 16,
        layout.head(Flag(0)) + b"\0" * 8 + b"\xff" * 8 + b"\0" * 8,
        layout.head(Flag.SIGNED) + b"\0" * 20,
    ],
)
def test_references_that_nobody_wrote_are_refused(data: bytes) -> None:
    with pytest.raises(PayloadError, match="damaged"):
        unsealed(data, dataclasses.replace(KEYS, accepts_unsigned=True))


def test_every_buffer_is_covered_by_the_signature() -> None:
    data = bytearray(sealed([os.urandom(LARGE), array()]))
    for position in (len(data) - 1, len(data) - LARGE, len(data) - LARGE - 1):
        data[position] ^= 1
        with pytest.raises(PayloadError, match=r"signature doesn't fit|damaged"):
            unsealed(data)
        data[position] ^= 1
    unsealed(data)
    one, other = os.urandom(LARGE), os.urandom(LARGE)
    good, middle = sealed([one, other]), b"-" * LARGE
    swapped = good.replace(one, middle).replace(other, one).replace(middle, other)
    with pytest.raises(PayloadError, match="signature doesn't fit"):
        unsealed(swapped)
