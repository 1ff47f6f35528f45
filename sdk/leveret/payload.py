"""Arguments, results and errors to bytes and back.

Encoded (`encoding`), a value is a body and buffers. Sealed, both stand behind a head, a signature
and a prelude (`layout`), packed, and encrypted if wished (`wrapping`). The prelude says who wrote
it, with which Python, leveret and cloudpickle. The signature is a keyed BLAKE2b over everything
else and the context, so that a payload made for one run is worth nothing in another. Whoever has a
key signs everything; without one only what holds no pickle travels, and no pickle is ever loaded
before its signature was verified.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from leveret import layout, origin, wrapping
from leveret.buffers import BytesLike, digest
from leveret.encoding import Encoded as Encoded
from leveret.encoding import Source as Source
from leveret.encoding import encode as encode
from leveret.encoding import encode_arguments as encode_arguments
from leveret.encoding import with_inputs as with_inputs
from leveret.errors import PayloadError
from leveret.keys import Keyring, key_id
from leveret.layout import Flag, Parts
from leveret.origin import Origin
from leveret.readers import Reader, sources
from leveret.signatures import Context as Context
from leveret.signatures import Vouched, sign, verified
from leveret.wrapping import Unwrapped, Wrapped
from leveret_broker import references
from leveret_broker.references import Reference

if TYPE_CHECKING:
    from leveret.pickles import Unpickling


Result = Callable[[str], object]
"""What stands in the place of an input, by its run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A value that arrived."""

    value: object
    trusted: bool
    """Whether a holder of the key made it for this context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsealed:
    """A payload that arrived and may be read: it is what was signed, if it is signed."""

    context: Context
    parts: Parts = field(repr=False)
    """What an error tells of it."""
    content: Unwrapped = field(repr=False)
    pickled: bool
    vouched: Vouched | None

    def inputs(self) -> tuple[Source, ...]:
        """The runs whose results belong into these arguments. Raises `PayloadError`."""
        with told(self.context) as telling:
            telling.parts = self.parts
            return tuple(Source(*fields) for fields in sources(self.content.body))

    def read(self, result: Result | None = None) -> Opened:
        """The value, with what `result` returns for the runs that are its inputs.

        Raises `PayloadError`.
        """
        with told(self.context) as telling:
            telling.parts = self.parts
            return _read(self, result)


# -- sealing --------------------------------------------------------------------------------------


def seal(encoded: Encoded, *, keys: Keyring | None, context: Context) -> bytes:
    """The bytes that travel. Raises `PayloadError` for a pickle without a key to sign it."""
    return b"".join(seal_parts(encoded, keys=keys, context=context))


def check_signable(encoded: Encoded, keys: Keyring | None) -> None:
    """Raises `PayloadError` for a pickle without a key to sign it."""
    if encoded.pickled and keys is None:
        raise PayloadError(
            f"a {encoded.pickled_type or 'value'} can travel only as a pickle, and a pickle only "
            "signed: make a key with `leveret key new` and set LEVERET_KEY to it for callers and "
            "workers alike"
        )


def seal_parts(
    encoded: Encoded, *, keys: Keyring | None, context: Context
) -> list[bytes | memoryview]:
    """The bytes that travel, in pieces: large ones are the encoded value's own, not copies.

    Raises `PayloadError` for a pickle without a key to sign it.
    """
    check_signable(encoded, keys)
    wrapped = wrap(encoded, keys)
    if keys is None:
        return _put_together(wrapped.flags, (), wrapped)
    flags, key = wrapped.flags | Flag.SIGNED, keys.signing
    covered = (layout.head(flags), *_front(wrapped))
    signature = sign(key, context, covered, wrapped.digests)
    return _put_together(flags, (layout.seal(key_id(key), signature),), wrapped)


def wrap(encoded: Encoded, keys: Keyring | None) -> Wrapped:
    """The value packed, and encrypted if the keys say so; not signed yet."""
    return wrapping.wrap(
        Origin.here(pickles=encoded.pickled).packed(encoded.definitions),
        encoded.body,
        encoded.buffers,
        None if keys is None else encoded.digests,
        pickled=encoded.pickled,
        keys=keys,
    )


def front_parts(wrapped: Wrapped, outside: Collection[int]) -> list[bytes | memoryview]:
    """What a payload is without these of its buffers, in pieces; signed by nobody."""
    return _put_together(wrapped.flags, (), wrapped, outside)


def seal_stored(
    objects: Sequence[Reference], front: bytes, *, keys: Keyring | None, context: Context
) -> bytes:
    """What travels in place of a stored payload. Signed, it vouches for what the objects hold.

    `front` is empty if it is among the objects.
    """
    if keys is None:
        return references.head(objects) + front
    head, key = references.head(objects, Flag.SIGNED), keys.signing
    signature = sign(key, context, (head, front), ())
    return b"".join((head, layout.seal(key_id(key), signature), front))


def _front(wrapped: Wrapped) -> tuple[bytes, bytes, bytes]:
    sizes = layout.sizes(wrapped.prelude, wrapped.body, wrapped.buffers, wrapped.unpacked)
    return sizes, wrapped.prelude, wrapped.body


def _put_together(
    flags: Flag, seal: tuple[bytes, ...], wrapped: Wrapped, outside: Collection[int] = ()
) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = [layout.head(flags), *seal, *_front(wrapped)]
    position = sum(map(len, parts))
    for number, buffer in enumerate(wrapped.buffers):
        if number not in outside:
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
    data: BytesLike,
    *,
    keys: Keyring | None,
    context: Context,
    result: Result | None = None,
) -> tuple[list[object], dict[str, object]]:
    """The arguments of a call, with what `result` returns for the runs that are its inputs.

    Raises what `unseal` raises.
    """
    opened = open_sealed(data, keys=keys, context=context, result=result)
    return as_arguments(opened.value, context)


def as_arguments(value: object, context: Context) -> tuple[list[object], dict[str, object]]:
    """The arguments that a value is. Raises `PayloadError`."""
    if _is_list(value) and [type(part) for part in value[-2:]] == [list, dict]:
        args, kwargs = value[-2:]
        if all(type(name) is str for name in kwargs):
            return args, kwargs
    raise PayloadError(f"the arguments of run {context.run} are those of no call")


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return type(value) is list


def open_sealed(
    data: BytesLike,
    *,
    keys: Keyring | None,
    context: Context,
    result: Result | None = None,
) -> Opened:
    """The value, and whether it was signed. Raises what `unseal` raises."""
    return verify_sealed(data, keys=keys, context=context).read(result)


def verify_sealed(data: BytesLike, *, keys: Keyring | None, context: Context) -> Unsealed:
    """What was sealed, before anything of it is read. Raises what `unseal` raises."""
    with told(context) as telling:
        parts = telling.parts = layout.cut(data)
        if Flag.SIGNED not in parts.flags:
            unsealed = _unsealed(parts, None, context, signed=False)
            _check_unsigned(keys)
            return unsealed
        digests = () if keys is None else tuple(map(digest, parts.buffers))
        vouched = verified(parts.key_id, parts.signature, parts.covered, digests, keys, context)
        return _unsealed(parts, vouched, context, signed=True)


def verify_stored(
    parts: references.Parts, *, keys: Keyring | None, context: Context
) -> tuple[memoryview, Vouched | None]:
    """The front that came along, and the proof that it all is signed. Raises `PayloadError`."""
    if parts.flags & ~Flag.SIGNED:
        raise PayloadError("written by another version of leveret")
    if not parts.flags:
        _check_unsigned(keys)
        return parts.rest, None
    id_, signature, front = layout.unseal(parts.rest)
    return front, verified(id_, signature, (parts.head, front), (), keys, context)


def unseal_stored(
    front: BytesLike,
    outside: Mapping[int, memoryview],
    vouched: Vouched | None,
    *,
    signed: bool,
    context: Context,
) -> Unsealed:
    """What is made of a front and the buffers that were stored by themselves.

    They were held against their digests, `verify_stored` has made `vouched`. Raises what `unseal`
    raises.
    """
    with told(context) as telling:
        parts = telling.parts = layout.cut(front, outside)
        if Flag.SIGNED in parts.flags:
            raise PayloadError("a part of it is signed by itself")
        return _unsealed(parts, vouched, context, signed=signed)


class _Telling:
    """What an error can tell of a payload that can't be read."""

    parts: Parts | None = None

    def __str__(self) -> str:
        return "" if self.parts is None else origin.told(self.parts)


@contextmanager
def told(context: Context) -> Generator[_Telling]:
    """Make a `PayloadError`, which says what can't be read, of whatever is raised within."""
    subject, telling = f"{context} can't be read", _Telling()
    try:
        yield telling
    except PayloadError as error:
        raise PayloadError(f"{subject}: {error}{telling}") from error.__cause__
    except Exception as error:  # hostile bytes can make any constructor raise anything
        what = f"{type(error).__name__}: {error}"
        raise PayloadError(f"{subject}: damaged ({what}){telling}") from error


def _check_unsigned(keys: Keyring | None) -> None:
    """Refuse what nobody signed where there is a key: anybody could have made it."""
    if keys is None or keys.accepts_unsigned:
        return
    if keys.encrypts:
        raise PayloadError("it isn't signed, and with LEVERET_ENCRYPT nothing else is accepted")
    raise PayloadError(
        "it isn't signed, and this process has a key: who wrote it has none. Set the same "
        "LEVERET_KEY there, or LEVERET_ACCEPT_UNSIGNED=1 here while not everybody has it"
    )


def _unsealed(parts: Parts, vouched: Vouched | None, context: Context, *, signed: bool) -> Unsealed:
    """What may be read. Pickles may only with the proof that all of it is signed."""
    pickled, encrypted = Flag.PICKLED in parts.flags, Flag.ENCRYPTED in parts.flags
    if (pickled or encrypted) and vouched is None:
        what = "holds a pickle" if pickled else "is encrypted"
        raise PayloadError(
            f"it {what}, and this process has no key to verify it: set LEVERET_KEY"
            if signed
            else f"it {what} and isn't signed, so it is not loaded"
        )
    content = wrapping.unwrap(parts, None if vouched is None else vouched.key)
    return Unsealed(context=context, parts=parts, content=content, pickled=pickled, vouched=vouched)


def _read(unsealed: Unsealed, result: Result | None) -> Opened:
    """The value. Pickles in it are loaded only with the proof that it is signed."""
    content, vouched = unsealed.content, unsealed.vouched
    if unsealed.pickled and vouched is None:
        raise PayloadError("it holds a pickle, and nobody verified it")
    unpickle = _unpickling(content).load if unsealed.pickled else _no_pickle
    value = Reader(unpickle, content.buffers, result=result).read(content.body)
    return Opened(value=value, trusted=vouched is not None)


def _unpickling(content: Unwrapped) -> "Unpickling":
    """Called for a verified payload only: what loads its pickles."""
    from leveret import pickles

    writer, definitions = Origin.read(content.prelude)
    return pickles.Unpickling(
        python=writer.python,
        cloudpickle_version=writer.cloudpickle or "",
        definitions={(module, qualname): pickle for module, qualname, pickle in definitions},
    )


def _no_pickle(fields: list[Any]) -> NoReturn:
    raise PayloadError("it holds a pickle that it doesn't declare, so it is not loaded")
