"""Tasks and workflows: ordinary functions that have a name and can be called from afar."""

import copy
import inspect
import itertools
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property, update_wrapper
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
)

from leveret.calls import Call
from leveret.errors import DefinitionError
from leveret.options import Options, WantedOfCall, changed, checked_key
from leveret_broker import identifiers
from leveret_broker.errors import InvalidName

if TYPE_CHECKING:
    from leveret_broker.messages import CodeRef, DefinitionSpec, Place, RunOptions

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

RunsIn = Literal["process", "thread"]
_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Definition(Generic[P, R_co]):
    """A function that can be run on any machine that has it. Calling it returns a `Call`."""

    kind: ClassVar[Literal["task", "workflow"]]

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None,
        version: str | None,
        description: str | None,
        options: Mapping[str, Any],
    ) -> None:
        _check_function(fn, self.kind)
        self.fn: Callable[P, Any] = fn
        """The undecorated function."""
        self.name = _checked("name", name if name is not None else fn.__name__, self.kind)
        self.version = version if version is None else _checked("version", version, self.kind)
        """A task's version, or the revision that a workflow insists on."""
        self.description = description if description is not None else _first_line(fn)
        self.is_async = any(map(inspect.iscoroutinefunction, (fn, inspect.unwrap(fn))))
        self.signature = inspect.signature(fn)
        self.arity = _arity(self.signature)
        """How many arguments fit by their places alone, none left out; `None` if that varies."""
        self.number = next(_numbers)
        """Counts the definitions of this process."""
        self.key: str | None = None
        """What runs of its calls are known by in place of their arguments."""
        self.code: CodeRef | None = None
        """The shipped code that it came in, if it did."""
        self._options: Options | None = changed(None, options, str(self))
        self._base: Self | None = None
        update_wrapper(self, fn)
        _known.add(self)

    def options(self, **wanted: Unpack[WantedOfCall]) -> Self:
        """The same definition with other options, and with those that are left out as they are.

        Its calls have these options, wherever they are executed. `key` names a run: in place of
        the arguments within a workflow run, and in the whole project outside of one. Raises
        `DefinitionError` for what can't be.
        """
        key = self.key
        rest: dict[str, Any] = dict(wanted)
        if "key" in rest:
            given = rest.pop("key")
            key = None if given is None else checked_key(given)
        return self.vary(key, changed(self._options, rest, str(self)))

    @property
    def base(self) -> Self:
        """The definition as it was decorated, which is the one that workers serve."""
        return self if self._base is None else self._base

    @property
    def chosen(self) -> Options | None:
        """Its options; `None` if none was ever set."""
        return self._options

    def vary(self, key: str | None, options: Options | None) -> Self:
        """The same definition with this key and these options."""
        other = copy.copy(self)
        other.key = key
        other._options = options
        other._base = self.base
        return other

    @property
    def spec(self) -> "DefinitionSpec":
        """The definition as it is registered."""
        from leveret_broker.messages import DefinitionSpec

        return DefinitionSpec(
            kind=self.kind,
            name=self.name,
            version=self.version,
            fingerprint=self.fingerprint,
            module=self.module,
            qualname=self.fn.__qualname__,
            description=self.description,
            options=self.run_options,
        )

    @property
    def place(self) -> "Place":
        """Where a worker executes it."""
        return "loop" if self.is_async else "process"

    @property
    def run_options(self) -> "RunOptions | None":
        """Its options as they travel; `None` if none was ever set."""
        return None if self._options is None else self._options.message

    @property
    def fingerprint(self) -> str:
        """A hash of the function's syntax tree: comments, layout and docstring don't count."""
        return self.base._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        from leveret.fingerprint import fingerprint

        return fingerprint(self.fn)

    @property
    def callee(self) -> str:
        """How a child run's id spells it: the same for all revisions of a workflow."""
        return self.name if self.kind == "workflow" else f"{self.name}:{self.version}"

    @property
    def module(self) -> str:
        """The name of its module; code that was made by `exec` may have none."""
        return getattr(self.fn, "__module__", None) or "__main__"

    @property
    def where(self) -> str:
        """The place of its code, for messages: `module.function`."""
        return f"{self.module}.{self.fn.__qualname__}"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """A call of it, to be awaited. Raises `TypeError` if the arguments don't fit."""
        return Call(self, args, kwargs)

    def __repr__(self) -> str:
        version = f":{self.version}" if self.version is not None else ""
        return f"<{self.kind} {self.name}{version}>"


class Task(Definition[P, R_co]):
    """A leaf function, sync or async, known by its name and version."""

    kind = "task"

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        version: str = "0",
        runs_in: RunsIn = "process",
        prefetch: int | None = None,
        description: str | None = None,
        options: Mapping[str, Any] = _NO_OPTIONS,
    ) -> None:
        super().__init__(fn, name=name, version=version, description=description, options=options)
        if runs_in not in ("process", "thread"):
            raise DefinitionError(f"{self}: runs_in is {runs_in!r}, not 'process' or 'thread'")
        if prefetch is not None and not _is_count(prefetch):
            raise DefinitionError(f"{self}: prefetch is {prefetch!r}, at least 1 is needed")
        self.runs_in: RunsIn = runs_in
        """Where a sync task runs; async ones share the worker's event loop."""
        self.prefetch = prefetch
        """Messages that a worker takes ahead; by default as many as it can execute at once."""

    @property
    def place(self) -> "Place":
        return "loop" if self.is_async else self.runs_in


class Workflow(Definition[P, R_co]):
    """An async function that calls tasks and other workflows, known by its name and revision."""

    kind = "workflow"

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        revision: int | None = None,
        description: str | None = None,
        options: Mapping[str, Any] = _NO_OPTIONS,
    ) -> None:
        if revision is not None and not _is_count(revision):
            raise DefinitionError(f"revision {revision!r}: revisions are numbered from 1")
        version = None if revision is None else str(revision)
        super().__init__(fn, name=name, version=version, description=description, options=options)
        if not self.is_async:
            raise DefinitionError(
                f"workflow {self.name!r} is not async: write `async def {fn.__name__}`, "
                "or make it a task if it calls nothing"
            )


_numbers = itertools.count()
_known: "weakref.WeakSet[Definition[..., Any]]" = weakref.WeakSet()


def known() -> list[Definition[..., Any]]:
    """All definitions of this process in the order in which they were made, in whatever module."""
    return sorted(_known, key=lambda definition: definition.number)


def latest() -> list[Definition[..., Any]]:
    """The same without those that a later one of the same name and version has replaced."""
    return list({(one.name, one.version): one for one in known()}.values())


def _checked(what: Literal["name", "version"], text: object, kind: str) -> str:
    if not isinstance(text, str):
        raise DefinitionError(f"{kind}: the {what} is a text, not {text!r}")
    try:
        return identifiers.check(what, text)
    except InvalidName as error:
        raise DefinitionError(f"{kind}: {error}") from error


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_function(fn: object, kind: str) -> None:
    if isinstance(fn, Definition):
        raise DefinitionError(f"{fn!r} is defined already: a {kind} is made of a plain function")
    if not callable(fn) or inspect.isclass(fn) or not hasattr(fn, "__name__"):
        raise DefinitionError(f"a {kind} is a function, not {fn!r}")
    code = inspect.unwrap(fn)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise DefinitionError(
            f"{fn.__name__!r} is a generator function, and a {kind} returns one result: "
            "return a list instead"
        )


def _first_line(fn: Callable[..., Any]) -> str:
    return (inspect.getdoc(fn) or "").partition("\n")[0]


def _arity(signature: inspect.Signature) -> int | None:
    parameters = signature.parameters.values()
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len(parameters) if all(each.kind in by_place for each in parameters) else None
