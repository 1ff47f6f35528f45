"""What makes two calls the same: a hash of their arguments, equal for equal ones in any process.

A workflow run that is executed again asks for the runs that it has already, perhaps in a process
with another hash seed, where sets and what was filled from them come in another order. So the bytes
that travel don't identify a value: dicts count by key, and what needs a pickle by a hash of its
content (`contents`). What has no such hash, a lambda or a local class, counts by its pickle, which
may differ in another process.
"""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from leveret import values
from leveret.buffers import Buffers
from leveret.encoding import Encoded, Source, with_inputs
from leveret.errors import KeyConflictError
from leveret.inputs import Contents
from leveret.readers import Reader

_KEYED = "key:"
"""How the identities of keys begin; those of contents are hexadecimal digits."""
_LONGEST = 300
"""Characters of arguments that an error shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """A hash of arguments."""

    text: str
    """128 bits of BLAKE2b in hex."""
    is_stable: bool
    """Whether equal arguments have it in every process."""

    @property
    def digest(self) -> str | None:
        """The hash if it holds anywhere."""
        return self.text if self.is_stable else None


def of_arguments(encoded: Encoded, args: Sequence[object], kwargs: Mapping[str, object]) -> Content:
    """What identifies a call's arguments, encoded already. Raises nothing."""
    if encoded.canonical:
        return Content(text=encoded.content_hash, is_stable=True)
    pickles, buffers, calls = _Pickles(), Buffers(copies=False), Contents()
    writer = values.Writer(pickles, buffers, by_key=True, call=calls)
    try:
        given = [writer.write(value) for value in args]
        named = [[name, writer.write(kwargs[name])] for name in sorted(kwargs)]
        body = values.pack([given, named])
    except (
        Exception
    ):  # what was written once may have changed, or objects in it raise what they like
        return Content(text=_unstable(encoded), is_stable=False)
    written = Encoded(body, pickled=False, buffers=tuple(buffers.views))
    is_stable = pickles.are_stable and calls.are_stable
    return Content(text=written.content_hash, is_stable=is_stable)


def _unstable(encoded: Encoded) -> str:
    """By the bytes, and the calls that they stand for by number."""
    calls = Contents()
    inputs = [calls(each) for each in encoded.inputs]
    return replace(encoded, body=encoded.body + values.pack(inputs)).content_hash


def of_encoded(encoded: Encoded) -> Content:
    """The same for arguments that are at hand as bytes only. Raises nothing."""
    if encoded.canonical:
        return Content(text=encoded.content_hash, is_stable=True)
    if encoded.pickled:
        return Content(text=_unstable(encoded), is_stable=False)
    numbers = [Source(str(number), "") for number in range(len(encoded.inputs))]
    body = with_inputs(encoded, numbers).body
    reader = Reader(_no_pickle, encoded.buffers, result=lambda run: encoded.inputs[int(run)])
    read: Any = reader.read(body)
    args, kwargs = read[-2:]
    return of_arguments(encoded, args, kwargs)


def _no_pickle(fields: list[Any]) -> NoReturn:
    raise AssertionError("what holds a pickle is not read")


def of_key(key: str) -> str:
    """The identity of a call that has a key."""
    return _KEYED + key


def shown(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """Arguments as a call spells them, shortened."""
    given = [_brief.repr(value) for value in args]
    named = [f"{name}={_brief.repr(value)}" for name, value in kwargs.items()]
    text = ", ".join([*given, *named])
    return f"({text if len(text) <= _LONGEST else text[:_LONGEST] + '…'})"


def conflict(key: str, what: str, before: str, now: str) -> KeyConflictError:
    """The error for a key that is used again with other arguments."""
    return KeyConflictError(
        f"the key {key!r} of {what} means the call with {before} in this workflow run, and now it "
        f"is used with {now}: give other arguments another key"
    )


class _Pickles:
    """What the writer calls for what needs a pickle: a hash of it in the pickle's place."""

    def __init__(self) -> None:
        self.are_stable = True

    def __call__(self, value: object, content: values.Content) -> list[object]:
        from leveret import contents

        found = contents.digest(value)
        if found is not None:
            return [found]
        from leveret.pickles import Pickling

        self.are_stable = False
        return Pickling().dump(value, content)


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 60
_brief.maxlevel = 3
