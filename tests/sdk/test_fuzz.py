"""Ten thousand and more damaged payloads: a `PayloadError` each, at most, and little memory."""

import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zstandard

from leveret import payload
from leveret.errors import PayloadError
from leveret.keys import Keyring, load_keyring, new_key
from leveret.layout import Flag
from leveret.values import Mark
from tests.sdk.forging import laid_out

KEYS = load_keyring(new_key())
ENCRYPTING = Keyring(keys=KEYS.keys, encrypts=True)
CONTEXT = payload.Context(project="p", run="r", definition="f", direction="arguments")
EXAMPLES = 30_000
MOST_MEGABYTES = 200
"""More than that many nobody needs to refuse a few kilobytes."""

VALUE: dict[Any, Any] = {
    "list": [1, -1, 2**70, 1.5, None, True, "text", b"bytes", (1, (2,)), {3}, frozenset({4})],
    "array": np.arange(20.0),
    "large": np.arange(9000),
    "bytes": bytes(70_000),
    "text": "a text that is packed " * 400,
    (1, "key"): {"deep": [[[[[]]]]]},
}


class Bomb:
    """Leaves a file behind wherever it is unpickled."""

    file: Path

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return self.file.touch, ()


def seeds() -> list[bytes]:
    def sealed(value: object, keys: Keyring | None) -> bytes:
        return payload.seal(payload.encode(value), keys=keys, context=CONTEXT)

    return [
        sealed(VALUE, None),
        sealed(VALUE, KEYS),
        sealed(VALUE, ENCRYPTING),
        sealed([Bomb(), VALUE], KEYS),
        sealed([Bomb(), VALUE], ENCRYPTING),
        sealed([1, "two"], None),
    ]


def mutated(data: bytes, random: random.Random) -> bytes:
    """The data with one to four of the things that happen to bytes."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        # The first bytes say how the rest is read, so most changes are made there.
        near = min(len(changed), random.choice((5, 60, 300, len(changed) + 1)))
        at = random.randrange(near) if near else 0
        match random.randrange(7):
            case 0:
                del changed[at:]
            case 1 if changed:
                changed[at] ^= 1 << random.randrange(8)
            case 2 if changed:
                changed[at] = random.choice((0, 1, 2, 0x7F, 0x80, 0xC7, 0xDD, 0xFE, 0xFF))
            case 3:
                del changed[at : at + random.randrange(9)]
            case 4:
                changed[at:at] = random.randbytes(random.randrange(9))
            case 5:
                changed[at : at + 8] = b"\xff" * 8
            case _:
                changed[at : at + 8] = random.randrange(2**40).to_bytes(8, "big")
    return bytes(changed)


def made_up(random: random.Random) -> bytes:
    """A payload whose frame is right and whose content nobody wrote."""
    body = b"".join(random.choice(PIECES) for _ in range(random.randint(1, 12)))
    buffers = [random.randbytes(random.randrange(64)) for _ in range(random.randrange(3))]
    unpacked = random.choice((0, 0, 0, 1, 99, 2**20, 2**62))
    if random.random() < 0.2:
        body = zstandard.compress(body * random.choice((1, 1, 1000)))
    flags = Flag(random.choice((0, 0, 0, 1, 2, 4, 7)))
    return laid_out(body, *buffers, flags=flags, unpacked=unpacked)


PIECES = [
    *(bytes((0xC7, 0, mark)) for mark in Mark),
    *(bytes((0xD6, mark, 0, 0, 0, number)) for mark in (22, 23, 24) for number in (0, 1)),
    *(bytes((0x90 + size,)) for size in range(8)),
    *(bytes((0x80 + size,)) for size in range(3)),
    b"\xdd\x00\x0f\xff\xff",
    b"\xdf\x00\x0f\xff\xff",
    b"\xdc\xff\xff",
    b"\x91" * 600,
    b"\x81\xa1a" * 400,
    msgpack.packb("<f8"),
    msgpack.packb([2**30, 2**30]),
    msgpack.packb([2]),
    msgpack.packb("C"),
    msgpack.packb(b"x" * 16),
    msgpack.packb(1),
    msgpack.packb(-(2**63)),
    msgpack.packb("1e999999999"),
    msgpack.packb("Europe/Berlin"),
    msgpack.packb(None),
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
]


@pytest.mark.timeout(120)
def test_damaged_payloads_are_refused_in_words_in_little_memory_and_run_nothing(
    tmp_path: Path,
) -> None:
    Bomb.file = tmp_path / "exploded"
    chosen, originals = random.Random(4), seeds()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused: set[str] = set()
    count = 0
    for number in range(EXAMPLES):
        data = made_up(chosen) if number % 3 == 0 else mutated(chosen.choice(originals), chosen)
        if data in originals:
            continue
        for keys in (KEYS, None):
            try:
                payload.unseal(data, keys=keys, context=CONTEXT)
            except PayloadError as error:
                count += 1
                refused.add(str(error))
    assert count > EXAMPLES * 1.5
    assert [text for text in refused if not text.isprintable()] == []
    assert not Bomb.file.exists()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MOST_MEGABYTES * 1024


def test_the_bomb_explodes_if_its_payload_is_whole(tmp_path: Path) -> None:
    Bomb.file = tmp_path / "exploded"
    payload.unseal(seeds()[4], keys=KEYS, context=CONTEXT)
    assert Bomb.file.exists()
