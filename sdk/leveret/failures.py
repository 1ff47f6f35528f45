"""Exceptions across processes: raised there, raised again here, as their own type.

An exception travels without a pickle where its parts can: the name of its class, `args`, the
attributes, the fields that its built-in base keeps, the traceback as text. It is put together
without calling the class's own `__init__`, whose parameters nobody knows, and nothing that bytes
name is used before it has proved to be an exception class. What can't be carried or put together
becomes a `RemoteError`; nothing here ever raises anything else.
"""

import builtins
import importlib
import os
import sys
import traceback as tracebacks
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, TypeGuard

from leveret import errors, payload, scripts
from leveret.errors import LeveretError, PayloadError, RemoteError
from leveret.keys import Keyring
from leveret.payload import Context, Opened
from leveret.sealing import Sealer

if TYPE_CHECKING:
    from leveret_broker.messages import Failure

_DEEPEST = 12
"""Exceptions inside exceptions (groups, arguments) that are carried as themselves."""
_LONGEST_MESSAGE = 10_000
_LONGEST_TRACEBACK = 60_000
"""Characters."""

_HIDDEN = "(encrypted: whoever has the key sees it by awaiting the run)"
"""What stands for a message that nobody else shall read."""

_OUR_FOLDERS = tuple(
    str(Path(package.origin).parent) + os.sep
    for name in ("leveret", "leveret_broker", "leveret_coordinator", "leveret_worker")
    if (package := find_spec(name)) is not None and package.origin is not None
)


class RemoteTraceback(Exception):
    """The `__cause__` of an exception that was raised in another process: how it looked there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"  # shown after the class's name, so it begins a line of its own


_HEADING = f"{RemoteTraceback.__module__}.{RemoteTraceback.__qualname__}: \n"
"""What Python writes above a remote traceback. Inside another one it says nothing."""


# -- describing -----------------------------------------------------------------------------------


def describe(error: BaseException, *, keys: Keyring | None = None) -> "Failure":
    """The failure in words, for listings and for programs that can't load the exception.

    Of what user code raised it tells the type alone if these keys encrypt.
    """
    from leveret_broker.messages import Failure

    is_secret = keys is not None and keys.encrypts
    return Failure(
        type=type_name(type(error)),
        message=_HIDDEN if is_secret else _message(error),
        traceback="" if is_secret else _traceback(error),
        kinds=tuple(map(type_name, type(error).__mro__[:-1])),
    )


def type_name(kind: type) -> str:
    """The class's qualified name, the same in every process: with its module unless built in."""
    module = scripts.home(kind)
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as failed:  # a `__str__` of the user's, which may try to leave as well
        text = f"<its __str__ raised {type(failed).__name__}>"
    return _readable(
        text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}… (shortened)"
    )


def _traceback(error: BaseException) -> str:
    try:
        shown = tracebacks.TracebackException.from_exception(error)
        _keep_users_frames(shown)
        text = "".join(shown.format()).replace(_HEADING, "")
    except BaseException as failed:  # hooks of the user's exception, or of its notes
        text = f"{type_name(type(error))}: (no traceback: {type(failed).__name__})\n"
    if len(text) > _LONGEST_TRACEBACK:
        text = f"(shortened) …{text[-_LONGEST_TRACEBACK:]}"
    return _readable(text)


def _keep_users_frames(shown: tracebacks.TracebackException) -> None:
    """Leave out the frames by which leveret comes to the user's code and goes from it."""
    theirs = [frame for frame in shown.stack if not frame.filename.startswith(_OUR_FOLDERS)]
    if theirs:
        shown.stack = tracebacks.StackSummary.from_list(theirs)
    for below in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if below is not None:
            _keep_users_frames(below)


def _readable(text: str) -> str:
    """Without lone surrogates, which no message could carry."""
    return text.encode("utf-8", "backslashreplace").decode()


# -- encoding -------------------------------------------------------------------------------------


def encode_failure(error: BaseException, *, sealer: Sealer, context: Context) -> bytes:
    """The exception as bytes; in words alone if what it holds can't travel. Raises nothing.

    Blocks if it holds what is large.
    """
    try:
        written = payload.encode(_tree(error, sealer.keys is not None, 0))
        return sealer.seal(written, context=context)
    except Exception as reason:  # whatever the objects that it holds raise
        return _in_words(error, reason, sealer, context)


async def encode_failure_soon(error: BaseException, *, sealer: Sealer, context: Context) -> bytes:
    """`encode_failure`, without blocking."""
    try:
        written = payload.encode(_tree(error, sealer.keys is not None, 0))
        return await sealer.seal_soon(written, context=context)
    except Exception as reason:  # whatever the objects that it holds raise
        return _in_words(error, reason, sealer, context)


def _in_words(error: BaseException, reason: Exception, sealer: Sealer, context: Context) -> bytes:
    written = payload.encode(_words(error, reason))
    return payload.seal(written, keys=sealer.keys, context=context)


def _tree(error: BaseException, signed: bool, depth: int) -> dict[str, object]:
    try:
        return {**_words(error), **_parts(error, signed, depth)}
    except Exception as reason:  # whatever the objects that it holds raise
        return _words(error, reason)


def _words(error: BaseException, reason: Exception | None = None) -> dict[str, object]:
    """What a `RemoteError` is made of."""
    words: dict[str, object] = {"type": type_name(type(error)), "message": _message(error)}
    if error.__traceback__ is not None:
        words["traceback"] = _traceback(error)
    if reason is not None:
        words["reason"] = _message(reason)
    return words


def _parts(error: BaseException, signed: bool, depth: int) -> dict[str, object]:
    """What the exception itself is made of. Raises what says why it can't travel."""
    kind: type[BaseException] = type(error)
    if not _is_plain(kind):
        return {"whole": _checked(error, signed)}
    module = scripts.home(kind)
    parts: dict[str, object] = {"module": module, "qualname": kind.__qualname__}
    if scripts.find(module, kind.__qualname__) is not kind:
        parts["class"] = _checked(kind, signed)
    if issubclass(kind, BaseExceptionGroup):
        group: Any = error
        parts["group"] = group.message
        parts["exceptions"] = [_tree(each, signed, depth + 1) for each in group.exceptions]
    else:
        parts["args"] = [_carried(value, signed, depth) for value in _ARGS.__get__(error, kind)]
    parts["state"] = {name: _carried(value, signed, depth) for name, value in vars(error).items()}
    parts["members"] = {
        name: _carried(value, signed, depth) for name, value in _member_values(error)
    }
    return parts


def _carried(value: object, signed: bool, depth: int) -> dict[str, object]:
    """One of an exception's parts; another exception among them is carried like the first."""
    if isinstance(value, BaseException) and depth < _DEEPEST:
        return {"error": _tree(value, signed, depth + 1)}
    return {"value": _checked(value, signed)}


def _checked(value: object, signed: bool) -> object:
    """The value, if it can travel to this caller."""
    if payload.encode(value).pickled and not signed:
        raise PayloadError(
            f"it holds a {type(value).__qualname__}, which travels only signed: set LEVERET_KEY"
        )
    return value


def _member_values(error: BaseException) -> Iterator[tuple[str, object]]:
    for name, member in _members(type(error)).items():
        try:
            value = member.__get__(error, type(error))
        except AttributeError:  # a slot that was never filled
            continue
        if value is not None:
            yield name, value


# -- decoding -------------------------------------------------------------------------------------


def decode_failure(
    data: bytes | None, failure: "Failure | None", *, sealer: Sealer, context: Context
) -> BaseException:
    """The exception to raise, with the traceback from there as its `__cause__`. Raises nothing.

    It is a `RemoteError` if its own type can't be carried, found or put together. Blocks if it
    was stored.
    """
    if data is None:
        return _from_description(failure)
    try:
        return _from_opened(sealer.open(data, context=context))
    except Exception as reason:  # hostile bytes, which may look like anything
        return _from_description(failure, reason)


async def decode_failure_soon(
    data: bytes | None, failure: "Failure | None", *, sealer: Sealer, context: Context
) -> BaseException:
    """`decode_failure`, without blocking."""
    if data is None:
        return _from_description(failure)
    try:
        return _from_opened(await sealer.open_soon(data, context=context))
    except Exception as reason:  # hostile bytes, which may look like anything
        return _from_description(failure, reason)


def _from_opened(opened: Opened) -> BaseException:
    return _rebuilt(opened.value, opened.trusted)


def _from_description(failure: "Failure | None", reason: Exception | None = None) -> BaseException:
    if failure is None:
        why = reason or "no error came with it"
        return RemoteError("unknown", f"the run failed, and how can't be told ({why})")
    module, _, name = failure.type.rpartition(".")
    own = getattr(errors, name, None) if module in ("", "leveret", errors.__name__) else None
    if _is_own(own):
        return _caused(own(failure.message), failure.traceback)
    error = RemoteError(failure.type, failure.message, failure.traceback)
    return _caused(_noted(error, reason), failure.traceback)


def _is_own(kind: object) -> TypeGuard[type[LeveretError]]:
    """Whether it is an error of leveret that a message alone makes."""
    return isinstance(kind, type) and issubclass(kind, LeveretError) and kind is not RemoteError


def _rebuilt(tree: Any, trusted: bool) -> BaseException:
    text = str(tree.get("traceback", ""))
    try:
        error = _built(tree, trusted)
    except Exception as reason:  # whatever the class or the bytes have against it
        error = RemoteError(str(tree["type"]), str(tree["message"]), text)
        _noted(error, tree.get("reason", reason))
    return _caused(error, text)


def _built(tree: Any, trusted: bool) -> BaseException:
    if "reason" in tree:
        raise PayloadError(str(tree["reason"]))
    if isinstance(whole := tree.get("whole"), BaseException):
        return whole
    kind = _class(tree, trusted)
    error: BaseException
    if "group" in tree:
        inner = [_rebuilt(each, trusted) for each in tree["exceptions"]]
        error = _blank(kind, str(tree["group"]), inner)
    else:
        error = _blank(kind)
        _ARGS.__set__(error, tuple(_part(each, trusted) for each in tree["args"]))
    members = _members(kind)
    for name, each in tree["members"].items():
        if name in members:
            members[name].__set__(error, _part(each, trusted))
    _check_unicode(error)
    vars(error).update({str(name): _part(each, trusted) for name, each in tree["state"].items()})
    return error


def _part(carried: Any, trusted: bool) -> object:
    return _rebuilt(carried["error"], trusted) if "error" in carried else carried["value"]


def _class(tree: Any, trusted: bool) -> type[BaseException]:
    """The class that the tree names. Only a signature makes anything be imported for it."""
    module, qualname = str(tree["module"]), str(tree["qualname"])
    if "class" in tree:
        found: object = tree["class"]
    else:
        if module not in sys.modules and module != scripts.script_name():
            if not trusted:
                raise PayloadError(f"the module {module} isn't imported here, and nobody signed it")
            _import(module)
        found = scripts.find(module, qualname)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise PayloadError(f"{module}.{qualname} is no exception class here")
    return found


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except SystemExit as error:  # a script that ends itself
        raise PayloadError(f"the module {module} left when it was imported") from error


def _noted(error: RemoteError, reason: object) -> RemoteError:
    if reason is not None:
        error.add_note(f"It is no {error.type_name} here, because that can't be carried: {reason}")
    return error


def _caused(error: BaseException, traceback: str) -> BaseException:
    if traceback:
        error.__cause__ = RemoteTraceback(traceback)
    return error


# -- exceptions as such ---------------------------------------------------------------------------

_ARGS: Any = vars(BaseException)["args"]


def _blank(
    kind: type[BaseException], message: str = "", inner: list[BaseException] | None = None
) -> Any:
    """An exception of this class that no `__init__` has seen, made by its built-in base."""
    base: Any = kind
    while vars(builtins).get(base.__name__) is not base:
        base = base.__base__
    make: Any = base.__new__
    return make(kind, message, inner) if issubclass(kind, BaseExceptionGroup) else make(kind)


def _is_plain(kind: type[BaseException]) -> bool:
    """Whether `_blank` can make it: not if an extension module gave it a layout of its own."""
    try:
        _blank(kind, "", [Exception()])
    except TypeError:
        return False
    return True


def _members(kind: type[BaseException]) -> dict[str, Any]:
    """What keeps values beside `args` and `__dict__`: fields of built-in bases, and slots."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base not in _WITHOUT_MEMBERS:
            members = {k: v for k, v in vars(base).items() if isinstance(v, MemberDescriptorType)}
            found.update(members)
    if issubclass(kind, AttributeError):
        found.pop("obj", None)  # whatever the attribute was missing from: it stays there
    return found


_WITHOUT_MEMBERS = (object, BaseException, BaseExceptionGroup)


def _check_unicode(error: BaseException) -> None:
    """Python itself reads beyond the text of such an error if its fields don't fit."""
    if not isinstance(error, (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)):
        return
    text = bytes if isinstance(error, UnicodeDecodeError) else str
    if type(error.object) is not text or not 0 <= error.start <= error.end:
        raise PayloadError("a Unicode error whose fields don't fit each other")
