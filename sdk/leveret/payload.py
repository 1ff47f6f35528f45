"""Arguments, results and errors to bytes and back.

A sealed payload is

    b"LV"  version  flags  [signature, 32 bytes]  [prelude]  body

The body is msgpack (`values`), with a pickle for each object that msgpack can't carry (`pickles`).
The prelude, there only if a pickle is, says which Python and cloudpickle wrote it. The signature is
a keyed BLAKE2b over everything else and the context, so that a payload made for one run is worth
nothing in another. Whoever has a key signs everything; without one only what holds no pickle
travels, and no pickle is ever loaded before its signature was verified.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeGuard

import msgpack

from leveret import values
from leveret.errors import PayloadError

if TYPE_CHECKING:
    from leveret.pickles import Pickling, Unpickling

_MAGIC = b"LV"
_VERSION = 1
_PICKLED = 1
_SIGNED = 2
_SIGNATURE = 32
_SHORTEST_KEY, _LONGEST_KEY = 32, 64
"""Bytes: as many as the signature has, and as many as BLAKE2b takes."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as bytes that are not signed yet."""

    body: bytes
    pickled: bool
    """Whether it holds pickles, and so can travel only signed."""
    canonical: bool = field(default=True, compare=False)
    """Whether an equal value has the same bytes in any process."""
    pickled_type: str | None = None
    """The type of the first value in it that needed a pickle."""
    definitions: tuple[tuple[str, str, bytes], ...] = field(default=(), repr=False)
    """Classes of a script: module, qualified name, pickle. They don't count for the identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a payload is for; a signed payload is valid for nothing else."""

    project: str
    run: str
    direction: Literal["arguments", "result", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A value that arrived."""

    value: object
    trusted: bool
    """Whether a holder of the key made it for this context."""


# -- encoding -------------------------------------------------------------------------------------


def encode(value: object) -> Encoded:
    """A value as bytes. Raises `PayloadError` with the type and the place of what can't travel."""
    pickles = _Pickles()
    writer = values.Writer(pickles)
    return _encoded(_written(writer, value, ""), writer, pickles, "")


def encode_arguments(
    args: tuple[object, ...], kwargs: Mapping[str, object], names: Sequence[str] = ()
) -> Encoded:
    """A call's arguments as bytes. Raises `PayloadError` that names the argument.

    `names` are those of the positional parameters.
    """
    pickles = _Pickles()
    writer = values.Writer(pickles)
    given: list[object] = []
    for index, value in enumerate(args):
        name = repr(names[index]) if index < len(names) else str(index + 1)
        given.append(_written(writer, value, f"the argument {name} can't be sent: "))
    named = {
        name: _written(writer, value, f"the argument {name!r} can't be sent: ")
        for name, value in kwargs.items()
    }
    writer.met_order |= len(named) > 1
    return _encoded([given, named], writer, pickles, "the arguments can't be sent: ")


class _Pickles:
    """What the writer calls for a pickle: `pickles`, imported when the first one is needed."""

    def __init__(self) -> None:
        self.pickling: Pickling | None = None

    def __call__(self, value: object) -> list[object]:
        if self.pickling is None:
            from leveret.pickles import Pickling

            self.pickling = Pickling()
        try:
            return self.pickling.dump(value)
        except Exception as error:  # the objects in it may raise whatever they like
            raise values.NotEncodable(
                f"a {type(value).__qualname__} can't be pickled: {error}"
            ) from error


def _written(writer: values.Writer, value: object, subject: str) -> object:
    try:
        return writer.write(value)
    except values.NotEncodable as error:
        place = f", at {''.join(error.path[:8])}" if error.path else ""
        raise PayloadError(f"{subject}{error.reason}{place}") from error
    except RecursionError as error:
        raise PayloadError(f"{subject}nested too deep for what the stack has left") from error


def _encoded(written: object, writer: values.Writer, pickles: _Pickles, subject: str) -> Encoded:
    try:
        body = values.pack(written)
    except (ValueError, OverflowError) as error:  # 4 GiB of bytes or 2**32 elements in one piece
        raise PayloadError(f"{subject}too large for one payload: {error}") from error
    pickling = pickles.pickling
    if pickling is None:
        return Encoded(body, pickled=False, canonical=not writer.met_order)
    definitions = tuple((*name, pickle) for name, pickle in pickling.definitions.items())
    return Encoded(
        body,
        pickled=True,
        canonical=False,
        pickled_type=pickling.first_type,
        definitions=definitions,
    )


# -- sealing --------------------------------------------------------------------------------------


def seal(encoded: Encoded, *, key: bytes | None, context: Context) -> bytes:
    """The bytes that travel. Raises `PayloadError` for a pickle without a key to sign it."""
    if encoded.pickled and key is None:
        raise PayloadError(
            f"a {encoded.pickled_type or 'value'} can travel only as a pickle, and a pickle only "
            "signed: make a key with `leveret key new` and set LEVERET_KEY to it for callers and "
            "workers alike"
        )
    flags = (_PICKLED if encoded.pickled else 0) | (_SIGNED if key is not None else 0)
    head = _MAGIC + bytes((_VERSION, flags))
    prelude = _prelude(encoded) if encoded.pickled else b""
    signature = b"" if key is None else _sign(key, context, head, prelude, encoded.body)
    return b"".join((head, signature, prelude, encoded.body))


def unseal(data: bytes, *, key: bytes | None, context: Context) -> object:
    """The value that was sealed.

    Raises `PayloadError`, and nothing else, for bytes that are damaged, signed with another key
    or for another context, of another version, or pickled and not signed.
    """
    return open_sealed(data, key=key, context=context).value


def unseal_arguments(
    data: bytes, *, key: bytes | None, context: Context
) -> tuple[list[object], dict[str, object]]:
    """The arguments of a call. Raises what `unseal` raises."""
    value = open_sealed(data, key=key, context=context).value
    if _is_list(value) and [type(part) for part in value] == [list, dict]:
        args, kwargs = value
        if all(type(name) is str for name in kwargs):
            return args, kwargs
    raise PayloadError(f"the arguments of run {context.run} are those of no call")


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return type(value) is list


def open_sealed(data: bytes, *, key: bytes | None, context: Context) -> Opened:
    """The value, and whether it was signed. Raises what `unseal` raises."""
    subject = f"the {context.direction} of run {context.run} can't be read"
    try:
        return _opened(data, key, context)
    except PayloadError as error:
        raise PayloadError(f"{subject}: {error}") from error.__cause__
    except Exception as error:  # hostile bytes can make any constructor raise anything
        raise PayloadError(f"{subject}: damaged ({type(error).__name__}: {error})") from error


def _opened(data: bytes, key: bytes | None, context: Context) -> Opened:
    head, signature, rest = _parts(data)
    pickled, signed = bool(head[3] & _PICKLED), signature is not None
    if pickled and not signed:
        raise PayloadError("it holds a pickle and isn't signed, so it is not loaded")
    if pickled and key is None:
        raise PayloadError(
            "it holds a pickle, and this process has no key to verify it: set LEVERET_KEY"
        )
    trusted = key is not None and signature is not None
    if key is not None and signature is not None:
        _verify(signature, _sign(key, context, head, rest))
    if not pickled:
        return Opened(value=values.Reader(_no_pickle).read(rest), trusted=trusted)
    unpickling, body = _unpickling(rest)
    return Opened(value=values.Reader(unpickling.load).read(body), trusted=trusted)


def _parts(data: bytes) -> tuple[bytes, bytes | None, memoryview]:
    """Head, signature if there is one, and the rest."""
    head = data[:4]
    if len(head) < 4 or head[:2] != _MAGIC:
        raise PayloadError("these bytes are no payload of leveret")
    if head[2] != _VERSION or head[3] & ~(_PICKLED | _SIGNED):
        raise PayloadError(
            f"written by another version of leveret (format {head[2]}, this one reads {_VERSION})"
        )
    start = 4 + (_SIGNATURE if head[3] & _SIGNED else 0)
    return head, data[4:start] or None, memoryview(data)[start:]


def _sign(key: bytes, context: Context, *parts: bytes | memoryview) -> bytes:
    about = msgpack.packb([context.project, context.run, context.direction])
    signature = hashlib.blake2b(key=key, digest_size=_SIGNATURE, person=b"leveret payload")
    signature.update(len(about).to_bytes(4, "big") + about)
    for part in parts:
        signature.update(part)
    return signature.digest()


def _verify(signature: bytes, expected: bytes) -> None:
    if not hmac.compare_digest(signature, expected):
        raise PayloadError(
            "its signature doesn't fit: it is damaged, or was signed with another key or for "
            "another run. LEVERET_KEY must be the same for callers and workers"
        )


def _prelude(encoded: Encoded) -> bytes:
    from leveret import pickles

    prelude = msgpack.packb([pickles.PYTHON, pickles.VERSION, encoded.definitions])
    return len(prelude).to_bytes(4, "big") + prelude


def _unpickling(rest: memoryview) -> "tuple[Unpickling, memoryview]":
    """Called for a verified payload only: what loads its pickles, and its body."""
    from leveret import pickles

    end = 4 + int.from_bytes(rest[:4], "big")
    python, cloudpickle_version, definitions = msgpack.unpackb(rest[4:end])
    unpickling = pickles.Unpickling(
        python=python,
        cloudpickle_version=cloudpickle_version,
        definitions={(module, qualname): pickle for module, qualname, pickle in definitions},
    )
    return unpickling, rest[end:]


def _no_pickle(fields: list[Any]) -> NoReturn:
    raise PayloadError("it holds a pickle that it doesn't declare, so it is not loaded")


# -- keys -----------------------------------------------------------------------------------------


def new_key() -> str:
    """A new key as text for LEVERET_KEY."""
    return base64.urlsafe_b64encode(secrets.token_bytes(_SHORTEST_KEY)).decode().rstrip("=")


def load_key(text: str) -> bytes:
    """The key in a text that `new_key` made. Raises `PayloadError`, which never shows the text."""
    stripped = text.strip().rstrip("=")
    advice = "make one with `leveret key new`"
    try:
        key = base64.b64decode(stripped + "=" * (-len(stripped) % 4), b"-_", validate=True)
    except ValueError as error:  # binascii's, and that of letters beyond ASCII
        raise PayloadError(f"the key is malformed: {advice}") from error
    if not _SHORTEST_KEY <= len(key) <= _LONGEST_KEY:
        raise PayloadError(
            f"the key has {len(key)} bytes, and {_SHORTEST_KEY} to {_LONGEST_KEY} are allowed: "
            f"{advice}"
        )
    return key
