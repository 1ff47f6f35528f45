"""Arguments, results and errors to bytes and back.

A value is encoded as a *body*, msgpack (`values`) with a pickle for each object that msgpack can't
carry (`pickles`), and *buffers*, the large bytes and arrays that the body refers to (`buffers`).
Sealed, both stand behind a head, a signature and a prelude (`layout`), packed, and encrypted if
wished (`wrapping`). The prelude says who wrote it, with which Python, leveret and cloudpickle. The
signature is a keyed BLAKE2b over everything else and
the context, so that a payload made for one run is worth nothing in another. Whoever has a key signs
everything; without one only what holds no pickle travels, and no pickle is ever loaded before its
signature was verified.
"""

import hashlib
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from leveret import layout, origin, values, wrapping
from leveret.buffers import Buffers, BytesLike, digest
from leveret.errors import PayloadError
from leveret.keys import Keyring, key_id
from leveret.layout import Flag, Parts
from leveret.origin import Origin
from leveret.readers import Reader
from leveret.signatures import Context as Context
from leveret.signatures import Vouched, sign, verified
from leveret.values import Mark
from leveret.wrapping import Unwrapped, Wrapped
from leveret_broker import references
from leveret_broker.references import Reference

if TYPE_CHECKING:
    from leveret.pickles import Pickling, Unpickling


Result = Callable[[str], object]
"""What stands in the place of an input, by its run."""


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
    arguments: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    """The names of a call's positional arguments; `None` if it is no call's."""
    known_digests: Mapping[int, bytes] = field(
        default_factory=dict[int, bytes], compare=False, repr=False
    )
    """Those of buffers, by number, that had to be made before."""

    inputs: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    """The calls whose results belong into it, by the numbers that stand in their place."""

    @property
    def size(self) -> int:
        """Bytes."""
        definitions = sum(len(pickle) for _, _, pickle in self.definitions)
        return len(self.body) + definitions + sum(buffer.nbytes for buffer in self.buffers)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """What stands for the buffers in signatures and identities."""
        known = self.known_digests
        return tuple(
            known[number] if number in known else digest(buffer)
            for number, buffer in enumerate(self.buffers)
        )

    @property
    def content_hash(self) -> str:
        """128 bits of BLAKE2b over body and buffers, in hex."""
        hashed = hashlib.blake2b(self.body, digest_size=16)
        for each in self.digests:
            hashed.update(each)
        return hashed.hexdigest()


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

    `names` are those of the positional parameters. Calls among the arguments stand for their
    results: they become inputs.
    """
    writing = _Writing(copies=True, takes_calls=True)
    given: list[object] = []
    for index, value in enumerate(args):
        name = repr(names[index]) if index < len(names) else str(index + 1)
        given.append(writing.written(value, f"the argument {name} can't be sent: "))
    named = {
        name: writing.written(value, f"the argument {name!r} can't be sent: ")
        for name, value in kwargs.items()
    }
    writing.writer.met_order |= len(named) > 1
    encoded = writing.encoded([given, named], "the arguments can't be sent: ")
    rest = (str(index + 1) for index in range(len(names), len(args)))
    return replace(encoded, arguments=(*names[: len(args)], *rest))


def with_inputs(arguments: Encoded, runs: Sequence[str]) -> Encoded:
    """Arguments that say which runs their inputs are the results of; `runs` in their order."""
    if not runs:
        return arguments
    given = memoryview(arguments.body)[1:]  # behind the head of an array of two
    inputs = values.pack(values.marked(Mark.INPUTS, *runs))
    return replace(arguments, body=b"".join((_ARRAY_OF_THREE, inputs, given)), inputs=())


_ARRAY_OF_THREE = b"\x93"


class _Writing:
    """One value on its way to an `Encoded`."""

    def __init__(self, *, copies: bool, takes_calls: bool = False) -> None:
        self._buffers = Buffers(copies=copies)
        self._pickling: Pickling | None = None
        self._inputs: dict[int, tuple[int, Any]] = {}
        """Numbers and calls, by the calls' addresses."""
        call = self._input if takes_calls else None
        self.writer = values.Writer(self._pickle, self._buffers, call=call)

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
        buffers, digests = tuple(self._buffers.views), self._buffers.digests
        self._buffers.views = []  # this is part of a cycle, and they are large
        inputs = tuple(call for _, call in self._inputs.values())
        pickling = self._pickling
        if pickling is None:
            canonical = not (self.writer.met_order or inputs)
            return Encoded(
                body,
                pickled=False,
                canonical=canonical,
                buffers=buffers,
                known_digests=digests,
                inputs=inputs,
            )
        return Encoded(
            body,
            pickled=True,
            canonical=False,
            pickled_type=pickling.first_type,
            definitions=tuple((*name, pickle) for name, pickle in pickling.definitions.items()),
            buffers=buffers,
            known_digests=digests,
            inputs=inputs,
        )

    def _input(self, call: Any) -> list[object]:
        number, _ = self._inputs.setdefault(id(call), (len(self._inputs), call))
        return values.marked(Mark.INPUT, number)

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
    with told(context) as telling:
        telling.parts = layout.cut(data)
        return _opened(telling.parts, keys, context, result)


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


def open_stored(
    front: BytesLike,
    outside: Mapping[int, memoryview],
    vouched: Vouched | None,
    *,
    signed: bool,
    context: Context,
    result: Result | None = None,
) -> Opened:
    """The value of a front and the buffers that were stored by themselves.

    They were held against their digests, `verify_stored` has made `vouched`. Raises what `unseal`
    raises.
    """
    with told(context) as telling:
        parts = telling.parts = layout.cut(front, outside)
        if Flag.SIGNED in parts.flags:
            raise PayloadError("a part of it is signed by itself")
        return _read(parts, vouched, result, signed=signed)


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


def _opened(parts: Parts, keys: Keyring | None, context: Context, result: Result | None) -> Opened:
    if Flag.SIGNED not in parts.flags:
        _check_unsigned(keys)
        return _read(parts, None, result, signed=False)
    digests = () if keys is None else tuple(map(digest, parts.buffers))
    vouched = verified(parts.key_id, parts.signature, parts.covered, digests, keys, context)
    return _read(parts, vouched, result, signed=True)


def _check_unsigned(keys: Keyring | None) -> None:
    if keys is not None and keys.encrypts:
        raise PayloadError("it isn't signed, and with LEVERET_ENCRYPT nothing else is accepted")


def _read(parts: Parts, vouched: Vouched | None, result: Result | None, *, signed: bool) -> Opened:
    """The value. Pickles in it are loaded only with the proof that it is signed."""
    pickled, encrypted = Flag.PICKLED in parts.flags, Flag.ENCRYPTED in parts.flags
    if (pickled or encrypted) and vouched is None:
        what = "holds a pickle" if pickled else "is encrypted"
        raise PayloadError(
            f"it {what}, and this process has no key to verify it: set LEVERET_KEY"
            if signed
            else f"it {what} and isn't signed, so it is not loaded"
        )
    content = wrapping.unwrap(parts, None if vouched is None else vouched.key)
    unpickle = _unpickling(content).load if pickled else _no_pickle
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
