"""What travels in place of a stored payload, and what the coordinator reads of it."""

import pytest

from leveret_broker import references
from leveret_broker.errors import MalformedReference
from leveret_broker.references import Reference

ARRAY = Reference(digest=bytes(range(32)), size=800_000_000, part=0, place="s3://bucket/payloads")
FRONT = Reference(digest=bytes(reversed(range(32))), size=300_000, place="s3://bucket/payloads")
HEAD = references.head([ARRAY, FRONT], 1)


def test_references_arrive_as_they_were_with_seal_and_front() -> None:
    parts = references.parse(HEAD + b"seal and front")

    assert parts.objects == (ARRAY, FRONT)
    assert (parts.flags, bytes(parts.rest)) == (1, b"seal and front")
    assert parts.head == HEAD


def test_the_names_of_all_objects_are_read_without_any_key() -> None:
    assert references.names_in(HEAD + b"whatever the seal is") == (ARRAY.name, FRONT.name)
    assert references.names_in(b"LV\x01\x00 a payload in the message") == ()
    assert references.names_in(None) == ()


@pytest.mark.parametrize("length", range(len(HEAD)))
def test_a_reference_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(MalformedReference):
        references.parse(HEAD[:length])
    assert references.names_in(HEAD[:length]) == ()


def test_a_reference_of_another_version_is_refused() -> None:
    newer = bytearray(HEAD)
    newer[2] = 9

    with pytest.raises(MalformedReference, match="format 9, this one reads 1"):
        references.parse(bytes(newer))


def test_a_long_place_is_shortened() -> None:
    long = Reference(digest=bytes(32), size=1, place="é" * 1000)

    (reference,) = references.parse(references.head([long])).objects

    assert len(reference.place) == 150
