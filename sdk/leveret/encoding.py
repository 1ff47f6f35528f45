"""Arguments, results and errors as bytes that are not signed yet.

A value is encoded as a *body*, msgpack (`values`) with a pickle for each object that msgpack can't
carry (`pickles`), and *buffers*, the large bytes and arrays that the body refers to (`buffers`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from leveret import values
from leveret.buffers import Buffers, digest
from leveret.errors import PayloadError
from leveret.values import Mark

if TYPE_CHECKING:
    from leveret.pickles import Pickling


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


class Source(NamedTuple):
    """What an input is the result of."""

    run: str
    definition: str
    """The name of what the run executes."""


def with_inputs(arguments: Encoded, inputs: Sequence[Source]) -> Encoded:
    """Arguments that say what their inputs are the results of, in their order."""
    if not inputs:
        return arguments
    given = memoryview(arguments.body)[1:]  # behind the head of an array of two
    named = [field for each in inputs for field in each]
    front = values.pack(values.marked(Mark.INPUTS, *named))
    return replace(arguments, body=b"".join((_ARRAY_OF_THREE, front, given)), inputs=())


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
