"""The two decorators: `@define.task` and `@define.workflow`, bare or with options."""

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from leveret.definitions import RunsIn, Task, Workflow
from leveret.options import Wanted

P = ParamSpec("P")
R = TypeVar("R")


class TaskDecorator(Protocol):
    """What `define.task(...)` with options returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...


class WorkflowDecorator(Protocol):
    """What `define.workflow(...)` with options returns."""

    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...


@overload
def task(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    version: str = "0",
    runs_in: RunsIn = "process",
    prefetch: int | None = None,
    description: str | None = None,
    **options: Unpack[Wanted],
) -> TaskDecorator: ...
def task(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "0",
    runs_in: RunsIn = "process",
    prefetch: int | None = None,
    description: str | None = None,
    **options: Unpack[Wanted],
) -> Any:
    """Make a function a task.

    `name` is the function's own by default. `version` tells versions of the code apart: each has
    a queue of its own, `project:name:version`. A sync task runs in a child process of the worker;
    `runs_in="thread"` keeps it in the worker's own process. `prefetch` is the number of messages
    that a worker takes ahead.

    `retries` is a number or a `Retry`; `backoff`, the first delay, and `retry_on`, exception types,
    are short for parts of one. `timeout` is the time of one attempt, `total_timeout` that of all of
    them, `queue_timeout` the wait for a worker: seconds or a `timedelta`, at most a year.
    `lost_retries` (3) is how often it is executed again when its worker or process died.

    Raises `DefinitionError` for what can't be a task.
    """

    def decorate(function: Callable[..., Any]) -> Task[..., Any]:
        return Task(
            function,
            name=name,
            version=version,
            runs_in=runs_in,
            prefetch=prefetch,
            description=description,
            options=options,
        )

    return decorate if fn is None else decorate(fn)


@overload
def workflow(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *,
    name: str | None = None,
    revision: int | None = None,
    description: str | None = None,
    **options: Unpack[Wanted],
) -> WorkflowDecorator: ...
def workflow(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    revision: int | None = None,
    description: str | None = None,
    **options: Unpack[Wanted],
) -> Any:
    """Make an async function a workflow: a function that calls tasks and other workflows.

    `name` is the function's own by default. Its revision is issued by the catalog: the same code
    keeps its number, changed code gets the next one; `revision` insists on a number. The other
    options are those of a task.

    Raises `DefinitionError` for what can't be a workflow.
    """

    def decorate(function: Callable[..., Any]) -> Workflow[..., Any]:
        return Workflow(
            function, name=name, revision=revision, description=description, options=options
        )

    return decorate if fn is None else decorate(fn)
