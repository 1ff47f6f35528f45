"""What stands around a value: who wrote it, packed, encrypted, signed; and what is refused."""

import dataclasses
import os
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zstandard

from leveret import compression, encryption, failures, origin, payload
from leveret.errors import KeyFileWarning, PayloadError, SettingError
from leveret.keys import Keyring, key_id, load_key, load_key_file, load_keyring, new_key
from leveret.layout import Flag
from leveret.payload import Context
from leveret.sealing import PayloadOptions, Sealer
from leveret.settings import Settings
from leveret.values import pack
from tests.sdk.forging import laid_out

OLD, NEW = new_key(), new_key()
KEYS = load_keyring(NEW)
ENCRYPTING = dataclasses.replace(KEYS, encrypts=True)
CONTEXT = Context(project="vision", run="run_1", definition="train", direction="arguments")


@dataclasses.dataclass
class Model:
    weights: Any


def sealed(value: object, keys: Keyring | None = KEYS, context: Context = CONTEXT) -> bytes:
    return payload.seal(payload.encode(value), keys=keys, context=context)


def unsealed(
    data: bytes | bytearray, keys: Keyring | None = KEYS, context: Context = CONTEXT
) -> Any:
    return payload.unseal(data, keys=keys, context=context)


# -- who wrote it ---------------------------------------------------------------------------------


def test_an_error_names_who_wrote_the_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = origin.Origin("lab-7", 4711, "0.0.9", "3.9", "1.2")

    def here(*, pickles: bool) -> origin.Origin:
        return elsewhere

    monkeypatch.setattr(origin.Origin, "here", here)
    data = sealed(lambda: 1)
    monkeypatch.undo()
    with pytest.raises(PayloadError, match=r"process 4711 on lab-7, with leveret 0\.0\.9 and"):
        unsealed(data)
    with pytest.raises(PayloadError, match=r"the key .* process 4711 on lab-7"):
        unsealed(data, load_keyring(OLD))
    assert unsealed(sealed(1)) == 1


STRANGE: list[object] = ["h\x1b[2J" * 99, "\n", ["list"], {"a": 1}, 1]


@pytest.mark.parametrize(
    "prelude", [b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb([STRANGE, 2])]
)
def test_what_a_stranger_says_of_itself_is_shown_without_effect(prelude: bytes) -> None:
    with pytest.raises(PayloadError) as caught:
        unsealed(laid_out(b"\xc1", prelude=prelude))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 900


# -- packed ---------------------------------------------------------------------------------------

TEXTS = [f"line {n % 50} of a text that repeats itself" for n in range(3000)]


@pytest.mark.parametrize("keys", [None, KEYS, ENCRYPTING], ids=["no key", "key", "encrypted"])
def test_what_repeats_itself_takes_less_space_and_comes_back(keys: Keyring | None) -> None:
    data = sealed(TEXTS, keys)
    assert len(data) < 0.3 * len("".join(TEXTS))
    assert unsealed(data, keys) == TEXTS


def test_what_does_not_get_smaller_or_is_small_or_is_large_data_stays_as_it_is() -> None:
    for content in (os.urandom(10_000), os.urandom(400_000), bytes(4000), bytes(70_000)):
        assert content in sealed(content)
    assert compression.packed(bytes(compression.AT_MOST + 1)) is None


def peak_of_reading(data: bytes, keys: Keyring | None = None) -> float:
    """Megabytes that it takes to refuse these bytes."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        with pytest.raises(PayloadError):
            unsealed(data, keys)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(content)


def endless() -> bytes:
    """Many frames' worth of zeros that don't say how many they are."""
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(bytes(2**26)) + compressor.flush()


GIGABYTE = 2**30


@pytest.mark.parametrize(
    "data",
    [
        laid_out(zstd(bytes(2**26)), unpacked=2**26),
        laid_out(zstd(bytes(2**26)), unpacked=5),
        laid_out(zstd(bytes(2**26)), unpacked=2**63),
        laid_out(endless(), unpacked=1000),
        laid_out(endless(), unpacked=2**26),
        laid_out(zstd(bytes(10)), unpacked=2**20),
        laid_out(b"not zstd", unpacked=1000),
        laid_out(zstd(pack([1, 2]))[:-2], unpacked=3),
        laid_out(zstd(bytes(GIGABYTE)), unpacked=GIGABYTE),
    ],
    ids=[
        "a bomb", "a bomb that lies", "more than there is", "of no size", "of no size, large",
        "less than it says", "no zstd", "cut", "a gigabyte",
    ],
)  # fmt: skip
def test_bombs_are_refused_before_they_unpack(data: bytes) -> None:
    for keys in (None, KEYS):
        assert peak_of_reading(data, keys) < 3


def test_what_unpacks_to_another_size_than_it_says_is_refused() -> None:
    packed = zstandard.ZstdCompressor().compress(b"\xc0\xc0")
    for size in (1, 3):
        with pytest.raises(PayloadError, match="unpack to another size than it says"):
            unsealed(laid_out(packed, unpacked=size), None)


@pytest.mark.parametrize("keys", [KEYS, ENCRYPTING, None], ids=["signed", "encrypted", "unsigned"])
def test_nothing_can_be_hidden_between_or_behind_the_parts(keys: Keyring | None) -> None:
    data = sealed([b"a" * 70_001, b"b" * 70_001], keys)
    assert unsealed(data, keys) == [b"a" * 70_001, b"b" * 70_001]
    second = len(data) - 70_001 - (encryption.TAG if keys is ENCRYPTING else 0)
    for hidden in (data + b"\0", data[: second - 1] + b"x" + data[second:]):
        with pytest.raises(PayloadError, match="its parts don't fill it"):
            unsealed(hidden, keys)


def test_what_somebody_without_a_key_packs_is_what_somebody_without_a_key_unpacks() -> None:
    for size in (100_000, compression.MOST_UNVERIFIED - 99, compression.MOST_UNVERIFIED + 64_000):
        assert unsealed(sealed("0" * size, None), None) == "0" * size
    zeros = "0" * (compression.MOST_UNVERIFIED * 2)
    assert len(sealed(zeros)) < 100_000
    assert unsealed(sealed(zeros)) == zeros
    with pytest.raises(PayloadError, match=r"would unpack to \d+, and nobody verified"):
        unsealed(sealed(zeros), None)


# -- signed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["arguments", "result", "error"])
def test_a_payload_is_worth_nothing_for_another_definition(direction: Any) -> None:
    context = dataclasses.replace(CONTEXT, direction=direction)
    for value in (1, Model(1)):
        data = sealed(value, context=context)
        with pytest.raises(PayloadError, match="another run, project or definition"):
            unsealed(data, context=dataclasses.replace(context, definition="other"))


def test_the_first_key_signs_and_all_verify() -> None:
    before, during, after = (load_keyring(text) for text in (OLD, f"{NEW}, {OLD}", NEW))
    by_old, by_new = sealed(Model(1), before), sealed(Model(1), during)
    assert unsealed(by_old, during) == unsealed(by_new, during) == unsealed(by_new, after)
    for data, keys in ((by_old, after), (by_new, before)):
        with pytest.raises(PayloadError, match="which this process doesn't have"):
            unsealed(data, keys)
    id_ = key_id(load_key(NEW)).hex()
    with pytest.raises(PayloadError, match=f"signed with the key {id_}"):
        unsealed(by_new, before)


# -- keys in a file -------------------------------------------------------------------------------


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_keys_come_from_a_file_one_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_file(tmp_path, f"# since May\n{NEW}\n\n  # until June\n{OLD}  \n")
    monkeypatch.setenv("LEVERET_KEY_FILE", str(path))
    monkeypatch.delenv("LEVERET_KEY", raising=False)
    assert Settings().keyring() == Keyring(keys=(load_key(NEW), load_key(OLD)))
    monkeypatch.setenv("LEVERET_KEY", NEW)
    with pytest.raises(SettingError, match="LEVERET_KEY and LEVERET_KEY_FILE are both set"):
        Settings().keyring()
    assert Settings().keyring(OLD) == load_keyring(OLD)


def test_a_key_file_that_others_may_change_is_refused_and_one_they_may_read_is_warned_of(
    tmp_path: Path,
) -> None:
    with pytest.raises(SettingError, match="can be changed by everybody"):
        load_key_file(key_file(tmp_path, NEW, 0o602))
    for mode in (0o640, 0o604):
        with pytest.warns(KeyFileWarning, match="can be read by others"):
            assert load_key_file(key_file(tmp_path, NEW, mode)) == KEYS


@pytest.mark.parametrize("text", ["", "# nothing\n", "secret", "{NEW}\nsecret\n"])
def test_a_key_file_without_keys_is_refused_and_never_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises((SettingError, PayloadError), match="`leveret key new`") as caught:
        load_key_file(key_file(tmp_path, text.replace("{NEW}", NEW)))
    assert NEW not in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(SettingError, match="can't be read"):
        load_key_file(tmp_path / "none")


# -- encrypted ------------------------------------------------------------------------------------

SECRET = b"the content that nobody shall read "
CONTENT = {
    "text": SECRET.decode(),
    "bytes": SECRET * 4000,
    "noise": SECRET + os.urandom(300_000),
    "array": np.frombuffer(SECRET * 32_000, dtype=np.uint8),
    "model": Model(SECRET),
}


def same(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(one[name], other[name]) for name in ("text", "bytes", "noise", "array")
    )


def test_an_encrypted_payload_shows_nothing_and_is_read_by_all_who_have_the_key() -> None:
    data = sealed(CONTENT, ENCRYPTING)
    assert SECRET not in data
    assert b"Model" not in data
    assert b"0.1.0" not in sealed(1, ENCRYPTING)  # nor who wrote it
    assert b"0.1.0" in sealed(1)
    for keys in (ENCRYPTING, KEYS, load_keyring(f"{OLD},{NEW}")):
        arrived = unsealed(data, keys)
        assert same(arrived, CONTENT)
        assert arrived["model"] == CONTENT["model"]
        arrived["array"][0] = 1


def test_who_has_no_key_or_another_one_is_told_so() -> None:
    for value in (1, CONTENT):
        data = sealed(value, ENCRYPTING)
        with pytest.raises(PayloadError, match="this process has no key"):
            unsealed(data, None)
        with pytest.raises(PayloadError, match="which this process doesn't have"):
            unsealed(data, load_keyring(OLD))
        for context in (
            dataclasses.replace(CONTEXT, run="run_2"),
            dataclasses.replace(CONTEXT, definition="other"),
            dataclasses.replace(CONTEXT, direction="error"),
        ):
            with pytest.raises(PayloadError, match="signature doesn't fit"):
                unsealed(data, context=context)


def test_no_two_encrypted_payloads_are_alike_but_their_buffers_are() -> None:
    one, other = sealed(CONTENT, ENCRYPTING), sealed(CONTENT, ENCRYPTING)
    assert one[:2000] != other[:2000]
    assert one[-300_000:] == other[-300_000:]


def test_buffers_are_encrypted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_CHUNK", 1000)
    for size in (1, 999, 1000, 1001, 2000, 70_001):
        buffer = memoryview(os.urandom(size))
        whole = encryption.encrypted_buffer(buffer, key=KEYS.signing, digest=b"d" * 32)
        assert len(whole) == size + 16 * -(-size // 1000)
        opened = encryption.decrypted_buffer(whole, key=KEYS.signing, digest=b"d" * 32)
        assert opened == buffer
        for damaged in (whole[:-1], bytes(whole[:-1]) + bytes((whole[-1] ^ 1,))):
            with pytest.raises(PayloadError, match="can't be decrypted"):
                encryption.decrypted_buffer(memoryview(damaged), key=KEYS.signing, digest=b"d" * 32)


def test_every_flipped_bit_of_an_encrypted_payload_is_noticed() -> None:
    data = bytearray(sealed(["some text", Model(1)], ENCRYPTING))
    for position in range(len(data) * 8):
        data[position // 8] ^= 1 << position % 8
        with pytest.raises(PayloadError):
            unsealed(data)
        data[position // 8] ^= 1 << position % 8
    unsealed(data)


def test_nobody_without_the_key_passes_for_encrypted() -> None:
    with pytest.raises(PayloadError, match="is encrypted and isn't signed"):
        unsealed(laid_out(pack(1), flags=Flag.ENCRYPTED, prelude=bytes(48)))
    with pytest.raises(PayloadError, match="this process doesn't have"):
        unsealed(laid_out(pack(1), flags=Flag.ENCRYPTED | Flag.SIGNED, prelude=bytes(48)))


def test_where_all_is_encrypted_a_failure_tells_its_type_alone() -> None:
    error = ValueError(SECRET.decode())
    described = failures.describe(error, keys=ENCRYPTING)
    assert SECRET.decode() not in str(described)
    assert described.type == "ValueError"
    assert "ValueError" in described.kinds
    data = failures.encode_failure(error, sealer=Sealer(ENCRYPTING), context=CONTEXT)
    assert SECRET not in data
    arrived = failures.decode_failure(data, described, sealer=Sealer(KEYS), context=CONTEXT)
    assert repr(arrived) == repr(error)
    stranger = failures.decode_failure(data, described, sealer=Sealer(None), context=CONTEXT)
    assert "encrypted" in str(stranger)
    assert SECRET.decode() in str(failures.describe(error, keys=KEYS))


def test_encrypting_without_a_key_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVERET_ENCRYPT", "1")
    monkeypatch.delenv("LEVERET_KEY", raising=False)
    with pytest.raises(SettingError, match="LEVERET_ENCRYPT is set and there is no key"):
        Settings().keyring()
    assert Settings().keyring(NEW) == ENCRYPTING
    assert Settings().keys() is None
    monkeypatch.setenv("LEVERET_KEY", NEW)
    assert Settings().keyring() == ENCRYPTING


def test_what_is_unsigned_is_accepted_on_request_and_never_where_all_is_encrypted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEVERET_KEY", NEW)
    assert Settings().keyring() == KEYS
    monkeypatch.setenv("LEVERET_ACCEPT_UNSIGNED", "1")
    assert Settings().keyring() == dataclasses.replace(KEYS, accepts_unsigned=True)
    monkeypatch.setenv("LEVERET_ENCRYPT", "1")
    with pytest.raises(SettingError, match="contradict each other"):
        Settings().keyring()


def test_what_is_stored_is_encrypted_and_stored_once(tmp_path: Path) -> None:
    def sealer(keys: Keyring | None) -> Sealer:
        store, cache = str(tmp_path / "store"), str(tmp_path / "cache")
        return Sealer(keys, PayloadOptions(store=store, cache=cache, threshold=10_000))

    def objects() -> list[Path]:
        return [path for path in (tmp_path / "store").rglob("*") if path.is_file()]

    contexts = [dataclasses.replace(CONTEXT, run=f"run_{number}") for number in range(2)]
    references = [
        sealer(ENCRYPTING).seal(payload.encode(CONTENT), context=context) for context in contexts
    ]
    stored = objects()
    assert len([path for path in stored if path.stat().st_size > 100_000]) == 3
    for written in (*references, *(path.read_bytes() for path in stored)):
        assert SECRET not in written
        assert b"Model" not in written
    for reference, context in zip(references, contexts, strict=True):
        assert same(sealer(KEYS).open(reference, context=context).value, CONTENT)
        for keys in (None, load_keyring(OLD)):
            with pytest.raises(PayloadError):
                sealer(keys).open(reference, context=context)


def test_where_all_is_encrypted_nothing_unsigned_is_accepted(tmp_path: Path) -> None:
    options = PayloadOptions(store=str(tmp_path), cache=str(tmp_path / "cache"), threshold=1000)
    for value in (1, os.urandom(2000)):
        data = Sealer(None, options).seal(payload.encode(value), context=CONTEXT)
        accepting = dataclasses.replace(KEYS, accepts_unsigned=True)
        assert Sealer(accepting, options).open(data, context=CONTEXT).value == value
        with pytest.raises(PayloadError, match="isn't signed, and with LEVERET_ENCRYPT"):
            Sealer(ENCRYPTING, options).open(data, context=CONTEXT)
