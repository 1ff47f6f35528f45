"""What travels in place of a stored payload, and what the coordinator reads of it."""

import pytest

from leveret_broker import references
from leveret_broker.errors import MalformedReference
from leveret_broker.references import Reference

REFERENCE = Reference(digest=bytes(range(32)), size=800_000_000, place="s3://bucket/payloads")


def test_a_reference_arrives_as_it_was_with_its_seal() -> None:
    parts = references.parse(references.head(REFERENCE, 1) + b"seal")

    assert parts.reference == REFERENCE
    assert (parts.flags, parts.seal) == (1, b"seal")
    assert parts.head == references.head(REFERENCE, 1)


def test_the_digest_is_read_without_any_key() -> None:
    sealed = references.head(REFERENCE) + b"whatever the seal is"

    assert references.digest_of(sealed) == REFERENCE.digest
    assert references.digest_of(b"LV\x01\x00 a payload in the message") is None
    assert references.digest_of(None) is None


@pytest.mark.parametrize("length", range(48))
def test_a_reference_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(MalformedReference):
        references.parse(references.head(REFERENCE)[:length])


def test_a_reference_of_another_version_is_refused() -> None:
    newer = bytearray(references.head(REFERENCE))
    newer[2] = 9

    with pytest.raises(MalformedReference, match="format 9, this one reads 1"):
        references.parse(bytes(newer))


def test_a_long_place_is_shortened() -> None:
    long = Reference(digest=bytes(32), size=1, place="é" * 1000)

    parts = references.parse(references.head(long))

    assert len(parts.reference.place) == 150
