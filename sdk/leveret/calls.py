"""A call: what calling a task or a workflow returns, and what an `await` turns into a run."""

import asyncio
import warnings
import weakref
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from leveret import identity, inputs, payload
from leveret.context import RunContext, current_connection, current_run, current_step
from leveret.errors import LeveretError, NestedCallError
from leveret.replay import wait_if_stopped_otherwise
from leveret_broker import identifiers

if TYPE_CHECKING:
    from leveret.connection import Connection
    from leveret.definitions import Definition
    from leveret.runs import Run

R_co = TypeVar("R_co", covariant=True)


class Call(Coroutine[Any, Any, R_co]):
    """A task or workflow with its arguments, not yet submitted.

    It goes wherever Python takes a coroutine. The first `await` submits it; later ones give the
    same result. Cancelling who awaits it cancels the run.

    Arguments are taken as they are at the call: changing them afterwards changes nothing. Other
    calls among them stand for their results, which go straight to where this one is executed.
    """

    __leveret_call__ = True

    def __init__(
        self, definition: "Definition[..., Any]", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._run: Run[R_co] | None = None
        self._as_input: Run[R_co] | None = None
        """Its run as it was asked for as an input, whose end this process doesn't hear."""
        self._content: identity.Content | None = None
        self._was_used = True  # nothing to warn of if the arguments don't fit
        self._drivers: weakref.WeakKeyDictionary[asyncio.Task[Any], Coroutine[Any, Any, R_co]]
        self._drivers = weakref.WeakKeyDictionary()
        _refuse_in_step(definition)
        args, kwargs = _bind(definition, args, kwargs)
        self.definition = definition
        self._arguments: payload.Encoded | None = payload.encode_arguments(
            args, kwargs, tuple(definition.signature.parameters)
        )
        self.inputs: tuple[Call[Any], ...] = self._arguments.inputs
        """The calls whose results are among its arguments."""
        self.caller = current_run()
        """The run whose code made the call, `None` outside of runs."""
        self.run_id: str | None = None
        """Derived for what a workflow run calls, else given when it is submitted."""
        self.ordinal = 0
        self.identity = ""
        """What its run's id is derived from, beside the ordinal; empty for a root run."""
        self.digest: str | None = None
        """A hash of the arguments, where one is needed that is the same in any process."""
        inputs.adopt(self.inputs, self.caller, definition)
        self._identify(args, kwargs)
        self.__name__ = definition.name
        self.__qualname__ = definition.name
        self._was_used = False

    def _identify(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key, callee = self.definition.key, self.definition.callee
        caller = self.caller if self.caller and self.caller.kind == "workflow" else None
        if caller is None and key is None:
            return
        content = self._content = identity.of_arguments(self.arguments, args, kwargs)
        self.digest = content.digest
        if caller is None:
            return
        if key is None:
            self.identity = content.text
            self.ordinal = caller.next_ordinal(callee, content.text)
        else:
            caller.use_key(key, callee, content.digest, identity.shown(args, kwargs))
            self.identity = identity.of_key(key)
        named = f"{caller.project}:{callee}"
        self.run_id = identifiers.child_run_id(caller.run, named, self.identity, self.ordinal)

    @property
    def content(self) -> identity.Content | None:
        """What identifies its arguments; `None` if they are gone without having been asked for."""
        if self._content is None and self._arguments is not None:
            for each in inputs.in_order([self]):  # what this needs first: each asks for its inputs'
                each._content = each._content or identity.of_encoded(each.arguments)
        return self._content

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
        run = self._run or self._as_input
        state = f"run {run.id}" if run is not None else "not submitted"
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
        if not self.is_submitted:
            connection.name(self)
            await inputs.submit(self.inputs, connection)
            self._run = await self._submitted(connection, acknowledge=acknowledge)
        if self._run is None:
            assert self._as_input is not None, "it was submitted"
            self.check_connection(connection)
            self._run = self._as_input.to_be_heard(self._round)
        return self._run

    async def _submitted(
        self, connection: "Connection", *, acknowledge: bool = False, is_input: bool = False
    ) -> "Run[R_co] | None":
        """Its run, unless another task, which needs it as well, was quicker."""
        code = await connection.prepare(self.definition)
        if self._arguments is None:
            return self._run
        given = payload.with_inputs(self._arguments, inputs.sources(self.inputs))
        arguments = await connection.stored(self.definition.name, given)
        if self.is_submitted:
            return self._run
        for each in self.inputs:
            each.check_not_refused()
        run: Run[R_co] = connection.submit(
            self, arguments, acknowledge=acknowledge, is_input=is_input, code=code
        )
        self._arguments = None  # they may be large, and nobody needs them a second time
        return run

    # -- as an input of another call --------------------------------------------------------------

    @property
    def is_submitted(self) -> bool:
        return self._run is not None or self._as_input is not None

    def become_input(self) -> None:
        """It is an argument of another call: nobody has to await it."""
        self._was_used = True

    async def submit_as_input(self, connection: "Connection") -> None:
        """Submit it for the sake of another call, unless it was submitted before."""
        if not self.is_submitted:
            connection.name(self)
            run = await self._submitted(connection, is_input=True)
            if run is not None and self._run is None:
                self._as_input = run

    def check_connection(self, connection: "Connection") -> None:
        """Raises `LeveretError` if it was submitted by way of another client."""
        run = self._run or self._as_input
        if run is not None and not run.is_through(connection):
            raise LeveretError(f"{self!r} was submitted through another client: await it there")

    def check_not_refused(self) -> None:
        """Raises what the coordinator refuses its run for, if that is known by now."""
        run = self._run or self._as_input
        if run is not None:
            run.check_not_refused()

    @property
    def arguments(self) -> payload.Encoded:
        """Those of a call that was not submitted yet."""
        assert self._arguments is not None, "it was submitted"
        return self._arguments

    def request_cancel(self) -> None:
        """Ask that its run be stopped, unless another worker goes on with the caller."""
        if self.caller is not None and self.caller.abandoned:
            return
        if self._run is not None and self._run.is_known:
            unneeded: list[Run[Any]] = []  # the coordinator knows what it needs
        else:
            submitted = [each._as_input for each in self._inputs_for_others()]
            unneeded = [run for run in submitted if run is not None]
        if self._run is not None:
            if self.caller is not None:
                self.caller.note_stopped(self._run.id)
            self._run.request_cancel(caller=self._calling, unneeded=unneeded)
        elif unneeded:
            unneeded[0].request_cancel_unneeded(unneeded, caller=self._calling)

    def _inputs_for_others(self) -> "list[Call[Any]]":
        """What it needs and is not awaited by anybody, each before what that needs."""
        found: dict[int, Call[Any]] = {}
        unseen = list(self.inputs)
        while unseen:
            call = unseen.pop()
            if call._run is None and id(call) not in found:
                found[id(call)] = call
                unseen += call.inputs
        return list(found.values())

    @property
    def _calling(self) -> tuple[str, int] | None:
        """The workflow run that made the call, and its attempt."""
        caller = self.caller
        is_workflow = caller is not None and caller.kind == "workflow"
        return (caller.run, caller.attempt) if caller is not None and is_workflow else None

    @property
    def _round(self) -> int:
        return self.caller.round if self._calling and self.caller is not None else 1

    async def _result(self) -> R_co:
        try:
            run = await self.start()
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


def _bind(
    definition: "Definition[..., Any]", args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments by place and by name. Raises `TypeError` if they don't fit."""
    if len(args) == definition.arity and not kwargs:
        return args, kwargs
    try:
        bound = definition.signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{definition.name}(): {error}") from None
    return bound.args, bound.kwargs


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
