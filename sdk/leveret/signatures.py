"""What binds a payload to what it is for, by a key: made here, and verified here."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgpack

from leveret import layout
from leveret.buffers import BytesLike
from leveret.errors import PayloadError
from leveret.keys import Keyring

LACKS_KEY = "which this process doesn't have"
"""What an error says of a key, by which a worker knows such errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a payload is for; a signed payload is valid for nothing else."""

    project: str
    run: str
    """The run's id; of code, its digest."""
    definition: str
    """The name of the task or workflow, without a version: a run may be moved to another one. It
    doesn't count for code, which is known by its digest."""
    direction: Literal["arguments", "result", "error", "code"]

    def __str__(self) -> str:
        what = "code" if self.direction == "code" else f"{self.direction} of run"
        return f"the {what} {self.run}"


@dataclass(frozen=True, slots=True)
class Vouched:
    """The proof that a signature was verified. Only `verified` makes it."""

    by: bytes
    """The id of the key."""
    key: bytes = field(repr=False)


def sign(
    key: bytes, context: Context, parts: Sequence[BytesLike], digests: Sequence[bytes]
) -> bytes:
    """The digests stand for the buffers: so those are read once for identity and signature."""
    definition = "" if context.direction == "code" else context.definition
    about = msgpack.packb([context.project, context.run, definition, context.direction])
    signature = hashlib.blake2b(key=key, digest_size=layout.SIGNATURE, person=b"leveret payload")
    signature.update(len(about).to_bytes(4, "big") + about)
    for part in (*parts, *digests):
        signature.update(part)
    return signature.digest()


def verified(
    id_: bytes,
    signature: bytes,
    covered: Sequence[BytesLike],
    digests: Sequence[bytes],
    keys: Keyring | None,
    context: Context,
) -> Vouched | None:
    """The proof that a signature fits; `None` without keys. Raises `PayloadError` if it doesn't."""
    if keys is None:
        return None
    key = keys.find(id_)
    if key is None:
        raise PayloadError(
            f"it was signed with the key {id_.hex()}, {LACKS_KEY}: "
            "LEVERET_KEY must be the same for callers and workers"
        )
    if not hmac.compare_digest(signature, sign(key, context, covered, digests)):
        raise PayloadError(
            "its signature doesn't fit: it is damaged, or was signed for another run, project or "
            "definition, or for something else of this run"
        )
    return Vouched(id_, key)
