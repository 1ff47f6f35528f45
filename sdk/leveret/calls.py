"""A call: what calling a task or a workflow returns, and what an `await` turns into a run."""

import asyncio
import warnings
import weakref
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from leveret import identity, payload
from leveret.context import RunContext, current_connection, current_run, current_step
from leveret.errors import NestedCallError
from leveret.replay import wait_if_stopped_otherwise

if TYPE_CHECKING:
    from leveret.connection import Connection
    from leveret.definitions import Definition
    from leveret.runs import Run

R_co = TypeVar("R_co", covariant=True)


class Call(Coroutine[Any, Any, R_co]):
    """A task or workflow with its arguments, not yet submitted.

    It goes wherever Python takes a coroutine. The first `await` submits it; later ones give the
    same result. Cancelling who awaits it cancels the run.

    Arguments are taken as they are at the call: changing them afterwards changes nothing.
    """

    __leveret_call__ = True

    def __init__(
        self, definition: "Definition[..., Any]", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._run: Run[R_co] | None = None
        self._was_used = True  # nothing to warn of if the arguments don't fit
        self._drivers: weakref.WeakKeyDictionary[asyncio.Task[Any], Coroutine[Any, Any, R_co]]
        self._drivers = weakref.WeakKeyDictionary()
        _refuse_in_step(definition)
        bound = _bind(definition, args, kwargs)
        self.definition = definition
        self._arguments: payload.Encoded | None = payload.encode_arguments(
            bound.args, bound.kwargs, tuple(definition.signature.parameters)
        )
        self.caller = current_run()
        """The run whose code made the call, `None` outside of runs."""
        self.ordinal = 0
        self.identity = ""
        """What its run's id is derived from, beside the ordinal; empty for a root run."""
        self.digest: str | None = None
        """A hash of the arguments, where one is needed that is the same in any process."""
        self._identify(bound.args, bound.kwargs)
        self.__name__ = definition.name
        self.__qualname__ = definition.name
        self._was_used = False

    def _identify(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key, callee = self.definition.key, self.definition.callee
        caller = self.caller if self.caller and self.caller.kind == "workflow" else None
        if caller is None and key is None:
            return
        content = identity.of_arguments(self.arguments, args, kwargs)
        self.digest = content.digest
        if caller is None:
            return
        if key is None:
            self.identity = content.text
            self.ordinal = caller.next_ordinal(callee, content.text)
            return
        caller.use_key(key, callee, content.digest, identity.shown(args, kwargs))
        self.identity = identity.of_key(key)

    def __await__(self) -> Generator[Any, Any, R_co]:
        return self._result().__await__()

    def send(self, value: Any) -> Any:
        return self._driver().send(value)

    def throw(self, *error: Any) -> Any:
        return self._driver().throw(*error)

    def close(self) -> None:
        """Drop the call: it will not be submitted, and nobody is warned."""
        self._was_used = True
        for driver in list(self._drivers.values()):
            driver.close()

    def __del__(self) -> None:
        if self._run is None and not self._was_used and not self._drivers:
            message = f"the call of {self.definition!r} was never awaited"
            warnings.warn(message, RuntimeWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        state = f"run {self._run.id}" if self._run is not None else "not submitted"
        return f"<call of {self.definition!r}, {state}>"

    async def start(
        self, connection: "Connection | None" = None, *, acknowledge: bool = False
    ) -> "Run[R_co]":
        """Submit it, unless it was submitted before.

        Without a connection it goes the way that an await would take. Raises `NestedCallError`
        then, if that is inside a task.
        """
        self._was_used = True
        if self._run is not None:
            return self._run
        if connection is None:
            if self.caller is not None:
                _refuse_stray(self.definition, self.caller)
            connection = await self.connection()
        code = await connection.prepare(self.definition)
        if self._arguments is not None:
            arguments = await connection.stored(self.definition.name, self._arguments)
            if self._run is None:  # else another task, which awaits it as well, was quicker
                self._run = connection.submit(self, arguments, acknowledge=acknowledge, code=code)
            self._arguments = None  # they may be large, and nobody needs them a second time
        assert self._run is not None, "it was submitted"
        return self._run

    @property
    def arguments(self) -> payload.Encoded:
        """Those of a call that was not submitted yet."""
        assert self._arguments is not None, "it was submitted"
        return self._arguments

    def request_cancel(self) -> None:
        """Ask that its run be stopped, unless another worker goes on with the caller."""
        if self._run is not None and (self.caller is None or not self.caller.abandoned):
            if self.caller is not None:
                self.caller.note_stopped(self._run.id)
            self._run.request_cancel(caller=self._calling)

    @property
    def _calling(self) -> tuple[str, int] | None:
        """The workflow run that made the call, and its attempt."""
        caller = self.caller
        is_workflow = caller is not None and caller.kind == "workflow"
        return (caller.run, caller.attempt) if caller is not None and is_workflow else None

    async def _result(self) -> R_co:
        run = await self.start()
        try:
            await run.ended()
            await wait_if_stopped_otherwise(run.end, self.caller)
            return await run.result()
        except asyncio.CancelledError:
            self.request_cancel()
            raise

    async def connection(self) -> "Connection":
        """What it goes through: its workflow run's, or that of the block around the await."""
        if self.caller is not None and self.caller.connection is not None:
            return self.caller.connection
        connection = current_connection()
        if connection is None:
            from leveret.client import default_connection

            connection = await default_connection()
        return connection

    def _driver(self) -> Coroutine[Any, Any, R_co]:
        """What the current asyncio task steps through: several tasks may await one call."""
        self._was_used = True
        task = asyncio.current_task()
        assert task is not None, "a call runs in an asyncio task"
        driver = self._drivers.get(task)
        if driver is None:
            driver = self._drivers[task] = self._result()
        return driver


def _bind(definition: "Definition[..., Any]", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return definition.signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{definition.name}(): {error}") from None


def _refuse_in_step(definition: "Definition[..., Any]") -> None:
    step = current_step()
    if step is not None:
        raise NestedCallError(
            f"{definition!r} was called inside the step {step}, and a step is one plain function, "
            f"recorded as a whole: call it in the workflow itself, or run the function in place, "
            f"by {definition.fn.__name__}.fn(...)"
        )


def _refuse_stray(definition: "Definition[..., Any]", caller: RunContext) -> None:
    """Only workflows call, and only while it is this process that executes them."""
    if caller.kind == "task":
        raise NestedCallError(
            f"{definition!r} was called inside the task {caller.definition}, and only workflows "
            f"call: make {caller.definition} a workflow, or run the function itself in place, "
            f"by {definition.fn.__name__}.fn(...)"
        )
    if caller.abandoned:
        raise asyncio.CancelledError(f"run {caller.run} was given back by this worker")
