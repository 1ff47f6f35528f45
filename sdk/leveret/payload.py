"""Arguments, results and errors to bytes and back.

A value is encoded as a *body*, msgpack (`values`) with a pickle for each object that msgpack can't
carry (`pickles`), and *buffers*, the large bytes and arrays that the body refers to (`buffers`).
Sealed, both stand behind a head, a signature and a prelude (`layout`). The prelude says of pickles
which Python and cloudpickle wrote them. The signature is a keyed BLAKE2b over everything else and
the context, so that a payload made for one run is worth nothing in another. Whoever has a key signs
everything; without one only what holds no pickle travels, and no pickle is ever loaded before its
signature was verified.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeGuard

import msgpack

from leveret import layout, values
from leveret.buffers import Buffers, BytesLike, digest
from leveret.errors import PayloadError
from leveret.keys import Keyring, key_id
from leveret.layout import Flag, Parts
from leveret.readers import Reader

if TYPE_CHECKING:
    from leveret.pickles import Pickling, Unpickling


@dataclass(frozen=True)
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
    buffers: tuple[memoryview, ...] = field(default=(), repr=False)
    """The large bytes and arrays that the body refers to, one after the other."""

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """What stands for the buffers in signatures and identities."""
        return tuple(map(digest, self.buffers))

    @property
    def content_hash(self) -> str:
        """128 bits of BLAKE2b over body and buffers, in hex."""
        hashed = hashlib.blake2b(self.body, digest_size=16)
        for each in self.digests:
            hashed.update(each)
        return hashed.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a payload is for; a signed payload is valid for nothing else."""

    project: str
    run: str
    """The run's id; of code, its digest."""
    direction: Literal["arguments", "result", "error", "code"]

    def __str__(self) -> str:
        what = "code" if self.direction == "code" else f"{self.direction} of run"
        return f"the {what} {self.run}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A value that arrived."""

    value: object
    trusted: bool
    """Whether a holder of the key made it for this context."""


# -- encoding -------------------------------------------------------------------------------------


def encode(value: object) -> Encoded:
    """A value as bytes. Raises `PayloadError` with the type and the place of what can't travel.

    Large arrays in it are not copied: they have to stay as they are until it has been sealed.
    """
    writing = _Writing(copies=False)
    return writing.encoded(writing.written(value, ""), "")


def encode_arguments(
    args: tuple[object, ...], kwargs: Mapping[str, object], names: Sequence[str] = ()
) -> Encoded:
    """A call's arguments as bytes. Raises `PayloadError` that names the argument.

    `names` are those of the positional parameters.
    """
    writing = _Writing(copies=True)
    given: list[object] = []
    for index, value in enumerate(args):
        name = repr(names[index]) if index < len(names) else str(index + 1)
        given.append(writing.written(value, f"the argument {name} can't be sent: "))
    named = {
        name: writing.written(value, f"the argument {name!r} can't be sent: ")
        for name, value in kwargs.items()
    }
    writing.writer.met_order |= len(named) > 1
    return writing.encoded([given, named], "the arguments can't be sent: ")


class _Writing:
    """One value on its way to an `Encoded`."""

    def __init__(self, *, copies: bool) -> None:
        self._buffers = Buffers(copies=copies)
        self._pickling: Pickling | None = None
        self.writer = values.Writer(self._pickle, self._buffers)

    def written(self, value: object, subject: str) -> object:
        try:
            return self.writer.write(value)
        except values.NotEncodable as error:
            place = f", at {''.join(error.path[:8])}" if error.path else ""
            raise PayloadError(f"{subject}{error.reason}{place}") from error
        except RecursionError as error:
            raise PayloadError(f"{subject}nested too deep for what the stack has left") from error

    def encoded(self, written: object, subject: str) -> Encoded:
        try:
            body = values.pack(written)
        except (ValueError, OverflowError) as error:  # 4 GiB or 2**32 elements in one piece
            raise PayloadError(f"{subject}too large for one payload: {error}") from error
        buffers = tuple(self._buffers.views)
        pickling = self._pickling
        if pickling is None:
            canonical = not self.writer.met_order
            return Encoded(body, pickled=False, canonical=canonical, buffers=buffers)
        return Encoded(
            body,
            pickled=True,
            canonical=False,
            pickled_type=pickling.first_type,
            definitions=tuple((*name, pickle) for name, pickle in pickling.definitions.items()),
            buffers=buffers,
        )

    def _pickle(self, value: object, content: values.Content) -> list[object]:
        if self._pickling is None:
            from leveret.pickles import Pickling  # only now: most values need none

            self._pickling = Pickling()
        try:
            return self._pickling.dump(value, content)
        except Exception as error:  # the objects in it may raise whatever they like
            raise values.NotEncodable(
                f"a {type(value).__qualname__} can't be pickled: {error}"
            ) from error


# -- sealing --------------------------------------------------------------------------------------


def seal(encoded: Encoded, *, keys: Keyring | None, context: Context) -> bytes:
    """The bytes that travel. Raises `PayloadError` for a pickle without a key to sign it."""
    return b"".join(seal_parts(encoded, keys=keys, context=context))


def seal_parts(
    encoded: Encoded, *, keys: Keyring | None, context: Context
) -> list[bytes | memoryview]:
    """The bytes that travel, in pieces: large ones are the encoded value's own, not copies.

    Raises `PayloadError` for a pickle without a key to sign it.
    """
    if encoded.pickled and keys is None:
        raise PayloadError(
            f"a {encoded.pickled_type or 'value'} can travel only as a pickle, and a pickle only "
            "signed: make a key with `leveret key new` and set LEVERET_KEY to it for callers and "
            "workers alike"
        )
    flags = Flag.PICKLED if encoded.pickled else Flag(0)
    prelude = _prelude(encoded) if encoded.pickled else b""
    rest = [layout.sizes(prelude, encoded.body, encoded.buffers), prelude, encoded.body]
    parts: list[bytes | memoryview]
    if keys is None:
        parts = [layout.head(flags), *rest]
    else:
        head, key = layout.head(flags | Flag.SIGNED), keys.signing
        signature = _sign(key, context, (head, *rest), encoded.digests)
        parts = [head, layout.seal(key_id(key), signature), *rest]
    position = sum(map(len, parts))
    for buffer in encoded.buffers:
        gap = layout.padding(position)
        parts += [gap, buffer]
        position += len(gap) + buffer.nbytes
    return parts


def unseal(data: BytesLike, *, keys: Keyring | None, context: Context) -> object:
    """The value that was sealed. Its arrays lie in `data` if that can be written, as a mapped file.

    Raises `PayloadError`, and nothing else, for bytes that are damaged, signed with another key
    or for another context, of another version, or pickled and not signed.
    """
    return open_sealed(data, keys=keys, context=context).value


def unseal_arguments(
    data: BytesLike, *, keys: Keyring | None, context: Context
) -> tuple[list[object], dict[str, object]]:
    """The arguments of a call. Raises what `unseal` raises."""
    value = open_sealed(data, keys=keys, context=context).value
    if _is_list(value) and [type(part) for part in value] == [list, dict]:
        args, kwargs = value
        if all(type(name) is str for name in kwargs):
            return args, kwargs
    raise PayloadError(f"the arguments of run {context.run} are those of no call")


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return type(value) is list


def open_sealed(data: BytesLike, *, keys: Keyring | None, context: Context) -> Opened:
    """The value, and whether it was signed. Raises what `unseal` raises."""
    subject = f"{context} can't be read"
    try:
        return _opened(layout.cut(data), keys, context)
    except PayloadError as error:
        raise PayloadError(f"{subject}: {error}") from error.__cause__
    except Exception as error:  # hostile bytes can make any constructor raise anything
        raise PayloadError(f"{subject}: damaged ({type(error).__name__}: {error})") from error


def _opened(parts: Parts, keys: Keyring | None, context: Context) -> Opened:
    pickled, signed = Flag.PICKLED in parts.flags, Flag.SIGNED in parts.flags
    if pickled and not signed:
        raise PayloadError("it holds a pickle and isn't signed, so it is not loaded")
    if pickled and keys is None:
        raise PayloadError(
            "it holds a pickle, and this process has no key to verify it: set LEVERET_KEY"
        )
    trusted = signed and keys is not None
    if signed and keys is not None:
        _verify(parts, keys, context)
    if not pickled:
        value = Reader(_no_pickle, parts.buffers).read(parts.body)
        return Opened(value=value, trusted=trusted)
    unpickling = _unpickling(parts)
    value = Reader(unpickling.load, parts.buffers).read(parts.body)
    return Opened(value=value, trusted=trusted)


def _sign(
    key: bytes, context: Context, parts: Sequence[BytesLike], digests: Sequence[bytes]
) -> bytes:
    """The digests stand for the buffers: so those are read once for identity and signature."""
    about = msgpack.packb([context.project, context.run, context.direction])
    signature = hashlib.blake2b(key=key, digest_size=layout.SIGNATURE, person=b"leveret payload")
    signature.update(len(about).to_bytes(4, "big") + about)
    for part in (*parts, *digests):
        signature.update(part)
    return signature.digest()


def _verify(parts: Parts, keys: Keyring, context: Context) -> None:
    key = keys.find(parts.key_id)
    if key is None:
        raise PayloadError(
            f"it was signed with the key {parts.key_id.hex()}, which this process doesn't have: "
            "LEVERET_KEY must be the same for callers and workers"
        )
    expected = _sign(key, context, parts.covered, tuple(map(digest, parts.buffers)))
    if not hmac.compare_digest(parts.signature, expected):
        raise PayloadError(
            "its signature doesn't fit: it is damaged, or was signed for another run or project, "
            "or for something else of this run"
        )


def _prelude(encoded: Encoded) -> bytes:
    from leveret import pickles

    return msgpack.packb([pickles.PYTHON, pickles.VERSION, encoded.definitions])


def _unpickling(parts: Parts) -> "Unpickling":
    """Called for a verified payload only: what loads its pickles."""
    from leveret import pickles

    python, cloudpickle_version, definitions = msgpack.unpackb(parts.prelude)
    return pickles.Unpickling(
        python=python,
        cloudpickle_version=cloudpickle_version,
        definitions={(module, qualname): pickle for module, qualname, pickle in definitions},
    )


def _no_pickle(fields: list[Any]) -> NoReturn:
    raise PayloadError("it holds a pickle that it doesn't declare, so it is not loaded")
