"""Large payloads: stored once, referred to, vouched for by the signature of what refers to them."""

import asyncio
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leveret import buffers, payload, sealing
from leveret.errors import PayloadError
from leveret.keys import Keyring
from leveret.payload import Context, encode, encode_arguments
from leveret.sealing import PayloadOptions, Sealer
from leveret_broker import objects, references

KEYS = Keyring(keys=(b"k" * 32,))
CONTEXT = Context(project="vision", run="run_1", definition="train", direction="result")
THRESHOLD = 100_000
ARRAY = np.arange(100_000.0)


class Bomb:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, path: Path, content: Any = None) -> None:
        self.path = path
        self.content = content

    def __reduce__(self) -> Any:
        return _explode, (str(self.path), self.content)


def _explode(path: str, _: object) -> str:
    Path(path).touch()
    return path


def sealer(folder: Path, keys: Keyring | None = KEYS, **options: Any) -> Sealer:
    cache = str(folder / "cache")
    given: dict[str, Any] = {"store": str(folder), "threshold": THRESHOLD, "cache": cache}
    return Sealer(keys, PayloadOptions(**{**given, **options}))


def stored(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if objects.is_name(path.name)]


def opened(sealer: Sealer, data: bytes, context: Context = CONTEXT) -> Any:
    return sealer.open(data, context=context).value


# -- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [KEYS, None])
@pytest.mark.parametrize(
    ("value", "count"),
    [
        ({"a": ARRAY, "b": "small"}, 1),
        ([ARRAY, ARRAY + 1], 2),
        ([b"x" * 70_000, b"y" * 70_000], 1),  # neither is large, both together are
        (list(range(100_000)), 1),
        ([ARRAY, list(range(100_000))], 2),
        (b"x" * (THRESHOLD + 1), 1),
    ],
    ids=["array", "arrays", "parts", "list", "array and list", "bytes"],
)
def test_a_large_value_is_stored_and_what_travels_is_small(
    value: Any, count: int, keys: Keyring | None, tmp_path: Path
) -> None:
    data = sealer(tmp_path, keys).seal(encode(value), context=CONTEXT)

    found = sealer(tmp_path, keys).open(data, context=CONTEXT)

    np.testing.assert_equal(found.value, value)
    assert found.trusted == (keys is not None)
    assert len(data) < 1000
    assert len(stored(tmp_path)) == count
    assert len(references.names_in(data)) == count


def test_a_small_value_is_not_stored(tmp_path: Path) -> None:
    data = sealer(tmp_path).seal(encode(b"x" * 1000), context=CONTEXT)

    assert opened(sealer(tmp_path), data) == b"x" * 1000
    assert stored(tmp_path) == []


def test_a_pickle_with_large_arrays_is_stored_in_parts(tmp_path: Path) -> None:
    value = {complex(1): ARRAY, "other": np.ma.masked_array(ARRAY)}
    data = sealer(tmp_path).seal(encode(value), context=CONTEXT)

    found = opened(sealer(tmp_path), data)

    np.testing.assert_equal(found[complex(1)], ARRAY)
    np.testing.assert_equal(found["other"].data, ARRAY)
    assert len(stored(tmp_path)) <= 2


def test_an_array_is_used_where_it_lies_and_can_be_written(tmp_path: Path) -> None:
    data = sealer(tmp_path).seal(encode(ARRAY), context=CONTEXT)

    one, two = opened(sealer(tmp_path), data), opened(sealer(tmp_path), data)
    one[0] = 7

    assert not one.flags.owndata
    assert two[0] == 0
    assert opened(sealer(tmp_path), data)[0] == 0


def test_an_array_that_goes_to_many_runs_beside_other_arguments_is_stored_once(
    tmp_path: Path,
) -> None:
    for number in range(100):
        arguments = encode_arguments((), {"data": ARRAY, "rate": number / 100})
        run = f"run_{number}"
        context = Context(project="vision", run=run, definition="train", direction="arguments")
        data = sealer(tmp_path).seal(arguments, context=context)
        assert opened(sealer(tmp_path), data, context)[1]["rate"] == number / 100

    assert len(stored(tmp_path)) == 1


def test_calls_that_wait_share_one_copy_of_what_is_large() -> None:
    array = np.arange(1_000_000.0)
    one, two = (encode_arguments((), {"data": array, "rate": rate}) for rate in (1, 2))
    array[0] = 7
    three = encode_arguments((array,), {})

    assert one.buffers[0] is two.buffers[0]
    assert one.buffers[0] is not three.buffers[0]
    assert np.frombuffer(one.buffers[0])[0] == 0
    assert one.digests == two.digests == (buffers.digest(one.buffers[0]),)


def test_a_copy_goes_at_once_with_the_last_call_that_needs_it() -> None:
    gc.collect()
    gc.disable()
    try:
        encoded = encode_arguments((np.arange(1_000_000.0),), {})
        copy = weakref.ref(encoded.buffers[0])
        del encoded
        assert copy() is None
    finally:
        gc.enable()


async def test_a_loop_goes_on_while_a_value_is_stored_and_fetched(tmp_path: Path) -> None:
    threads: set[int] = set()

    class Watched(Sealer):
        def _opened_store(self) -> Any:
            threads.add(threading.get_ident())
            return super()._opened_store()

    watched = Watched(KEYS, PayloadOptions(store=str(tmp_path), threshold=THRESHOLD))
    data = await watched.seal_soon(encode(ARRAY), context=CONTEXT)
    found = await watched.open_soon(data, context=CONTEXT)

    np.testing.assert_equal(found.value, ARRAY)
    assert threads
    assert threading.get_ident() not in threads


async def test_what_is_small_is_sealed_without_a_turn_of_the_loop(tmp_path: Path) -> None:
    turns: list[str] = []
    asyncio.get_running_loop().call_soon(turns.append, "turn")

    data = await sealer(tmp_path).seal_soon(encode(1), context=CONTEXT)
    await sealer(tmp_path).open_soon(data, context=CONTEXT)

    assert turns == []


# -- trust ----------------------------------------------------------------------------------------


@pytest.fixture
def bomb(tmp_path: Path) -> Bomb:
    return Bomb(tmp_path / "exploded", b"x" * (2 * THRESHOLD))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def refused(store: Path, data: bytes, reason: str, bomb: Bomb, **options: Any) -> None:
    options = {"keys": KEYS, "context": CONTEXT, **options}
    with pytest.raises(PayloadError, match=reason):
        sealer(store, options["keys"]).open(data, context=options["context"])
    assert not bomb.path.exists()


def test_a_pickle_that_is_vouched_for_is_loaded(bomb: Bomb, store: Path) -> None:
    data = sealer(store).seal(encode(bomb), context=CONTEXT)

    assert opened(sealer(store), data) == str(bomb.path)
    assert bomb.path.exists()


@pytest.mark.parametrize(
    "context",
    [
        Context(project="vision", run="run_2", definition="train", direction="result"),
        Context(project="audio", run="run_1", definition="train", direction="result"),
        Context(project="vision", run="run_1", definition="train", direction="arguments"),
        Context(project="vision", run="run_1", definition="other", direction="result"),
    ],
)
def test_a_reference_is_worth_nothing_elsewhere(context: Context, bomb: Bomb, store: Path) -> None:
    data = sealer(store).seal(encode(bomb), context=CONTEXT)

    refused(store, data, "its signature doesn't fit", bomb, context=context)


def test_a_reference_of_another_key_is_refused(bomb: Bomb, store: Path) -> None:
    other = Keyring(keys=(b"o" * 32,))
    data = sealer(store, other).seal(encode(bomb), context=CONTEXT)

    refused(store, data, "which this process doesn't have", bomb)


def test_a_pickle_in_a_store_is_not_loaded_without_a_signature(bomb: Bomb, store: Path) -> None:
    data = sealer(store).seal(encode(bomb), context=CONTEXT)
    parts = references.parse(data)
    unsigned = references.head(parts.objects) + bytes(parts.rest[36:])

    refused(store, unsigned, "isn't signed, and this process has a key", bomb)
    accepting = Keyring(keys=KEYS.keys, accepts_unsigned=True)
    for keys in (accepting, None):
        refused(store, unsigned, "isn't signed, so it is not loaded", bomb, keys=keys)
    refused(store, data, "no key to verify it: set LEVERET_KEY", bomb, keys=None)


def test_no_bit_of_a_reference_can_be_changed(bomb: Bomb, store: Path) -> None:
    data = sealer(store).seal(encode(bomb), context=CONTEXT)

    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        refused(store, bytes(changed), "can't be read", bomb)


def test_no_part_of_a_reference_is_enough(bomb: Bomb, store: Path) -> None:
    data = sealer(store).seal(encode(bomb), context=CONTEXT)

    for length in range(len(data)):
        refused(store, data[:length], "can't be read", bomb)


def test_an_object_that_was_swapped_is_not_used(bomb: Bomb, store: Path) -> None:
    innocent = sealer(store).seal(encode(list(range(THRESHOLD))), context=CONTEXT)
    (victim,) = stored(store)
    sealer(store).seal(encode([bomb, list(range(THRESHOLD))]), context=CONTEXT)
    dangerous = max(stored(store), key=lambda path: path.stat().st_size)

    victim.write_bytes(dangerous.read_bytes())

    refused(store, innocent, "is damaged, and not used", bomb)


def test_an_object_that_is_missing_is_told_plainly(bomb: Bomb, store: Path) -> None:
    data = sealer(store).seal(encode(ARRAY), context=CONTEXT)
    (path,) = stored(store)
    path.unlink()

    refused(store, data, r"the result of run run_1 can't be read: .* is missing from", bomb)


def test_a_process_without_a_store_says_which_one_it_needs(store: Path) -> None:
    data = sealer(store).seal(encode(ARRAY), context=CONTEXT)

    with pytest.raises(PayloadError, match=r"781\.2 KiB of it lie in .*/store.*LEVERET_PAYLOAD_ST"):
        Sealer(KEYS).open(data, context=CONTEXT)


# -- limits ---------------------------------------------------------------------------------------


async def test_what_is_too_large_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    arguments = encode_arguments((1, ARRAY), {"rate": b"x" * 1000}, ("epochs", "data"))
    limited = sealer(tmp_path, most=500_000)

    with pytest.raises(
        PayloadError,
        match=r"too large: 782\.\d KiB, of which 781\.\d KiB are the argument 'data', and at most "
        r"488\.3 KiB can be sent: LEVERET_PAYLOAD_MAX is the limit",
    ):
        await limited.stored(arguments)

    assert stored(tmp_path) == []


def test_without_a_store_the_limit_is_what_a_broker_takes() -> None:
    large = encode(bytes(sealing.MOST_IN_A_MESSAGE + 1))

    with pytest.raises(PayloadError, match="at most 15 MiB can be sent: set LEVERET_PAYLOAD_STORE"):
        Sealer(KEYS).seal(large, context=CONTEXT)


def test_the_largest_argument_is_found_wherever_it_is() -> None:
    from leveret.weighing import heaviest

    for name, args, kwargs in (
        ("a", ([1] * 1000, 2), {}),
        ("b", (1, {"deep": [b"x" * 1000, ARRAY]}), {"c": ARRAY[:10]}),
        ("c", (1, 2), {"c": (ARRAY, ARRAY)}),
        ("3", (1, 2, "x" * 1000), {}),
        ("pickled", (), {"pickled": Bomb(Path(), ARRAY)}),
    ):
        assert f"are the argument {name!r}" in heaviest(encode_arguments(args, kwargs, ("a", "b")))
    assert heaviest(encode(ARRAY)) == ""


def test_the_plain_functions_read_no_reference(tmp_path: Path) -> None:
    data = sealer(tmp_path).seal(encode(ARRAY), context=CONTEXT)

    with pytest.raises(PayloadError, match="no payload of leveret"):
        payload.unseal(data, keys=KEYS, context=CONTEXT)
