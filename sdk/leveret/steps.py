"""Steps: what a workflow does itself, recorded like the result of a call.

A step runs in place, in its workflow's own process, and its end is kept as a row below the run. A
workflow run that is executed again is answered with it. Rules of this file:

- Identity and ordinal are taken when the step is made, not when it is awaited.
- What counts is what the coordinator has: the first record of a step wins, and every execution goes
  on with that one, the one that made another record included.
- Cancelling who awaits a step records nothing. A sleep is recorded when it begins.
- Outside of a workflow run a step is just done: there is nothing that would be executed again.
"""

import asyncio
import datetime as dt
import inspect
import random as randomness
import uuid as uuids
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from leveret import payload
from leveret.context import stepping
from leveret.errors import LeveretError, PayloadError, RunCancelled
from leveret.failures import decode_failure_soon, describe, encode_failure_soon
from leveret.options import checked_key
from leveret.pending import Pending
from leveret.places import DEFINITION, Place, name_of, placed, taken_along, workflow_run
from leveret.replay import wait_if_stopped_otherwise
from leveret.runs import REFUSALS
from leveret.sealing import Sealer
from leveret_broker import messages

if TYPE_CHECKING:
    from leveret.connection import Connection

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_SLEEP = dt.timedelta(days=36_500).total_seconds()
"""Seconds."""
_TARGET = messages.Target(kind="step", name=DEFINITION)


class Stepper:
    """What `leveret.step` is: `step(fn, *args)`, or `step.options(key=…)(fn, *args)`."""

    def __init__(self, key: str | None = None) -> None:
        self._key = key

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def __call__(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function in place, sync or async, and record how it ends; to be awaited.

        A workflow run that is executed again gets the recorded result, or the recorded exception,
        and the function is not called. Keep it short: a sync one holds up the worker's event loop.
        Raises `NestedCallError` inside another step, and `PayloadError` for arguments that nothing
        identifies.
        """
        return _made(name_of(fn), fn, args, kwargs, self._key)

    def options(self, *, key: str | None) -> "Stepper":
        """Steps that are known by a key in place of their arguments.

        The same key for the same function means the same step in one workflow run. Raises
        `DefinitionError` for what can't be a key.
        """
        return Stepper(None if key is None else checked_key(key))


step = Stepper()


def now() -> Coroutine[Any, Any, dt.datetime]:
    """The time as a step: an aware `datetime` in UTC."""
    return _made("leveret.now", _utc, (), {})


def uuid() -> Coroutine[Any, Any, uuids.UUID]:
    """A random UUID (version 4) as a step."""
    return _made("leveret.uuid", uuids.uuid4, (), {})


def random() -> Coroutine[Any, Any, float]:
    """A random number in [0, 1) as a step."""
    return _made("leveret.random", randomness.random, (), {})


def sleep(seconds: float | dt.timedelta) -> Coroutine[Any, Any, None]:
    """Wait, holding no slot; the time goes on while nobody executes the workflow run.

    Takes seconds or a `timedelta`. Raises `ValueError` for what is negative or no number.
    """
    delay = _delay(seconds)
    run = workflow_run("leveret.sleep")
    if run is None:
        return asyncio.sleep(delay)
    return _slept(placed(run, "leveret.sleep", (delay,), {}), delay)


def _utc() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _delay(seconds: float | dt.timedelta) -> float:
    given: Any = seconds.total_seconds() if isinstance(seconds, dt.timedelta) else seconds
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise ValueError(f"a sleep takes seconds or a timedelta, not {seconds!r}")
    if not 0 <= given <= LONGEST_SLEEP:
        raise ValueError(f"a sleep takes 0 to {LONGEST_SLEEP:.0f} seconds, not {seconds!r}")
    return float(given)


# -- doing it -------------------------------------------------------------------------------------


def _made(
    name: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: str | None = None,
) -> Coroutine[Any, Any, Any]:
    run = workflow_run(name)
    call = partial(fn, *args, **kwargs)
    if run is None:
        return _called(name, call)
    along = taken_along(fn)
    return _recorded(placed(run, name, (*args, *along), kwargs, key), call)


async def _called(name: str, call: Callable[[], Any]) -> Any:
    with stepping(name):
        result = call()
        return await result if inspect.isawaitable(result) else result


async def _recorded(place: Place, call: Callable[[], Any]) -> Any:
    _refuse_abandoned(place)
    async with _one_at_a_time(place):
        if not place.caller.fresh or place.key is not None:
            known = await _known(place)
            if known is not None and not _is_to_be_done_again(place, known):
                return await _opened(place, known)
        return await _opened(place, await _submitted(place, await _end(place, call)))


def _one_at_a_time(place: Place) -> AbstractAsyncContextManager[Any]:
    """Steps of one key are one step: the second waits for the first's record."""
    return nullcontext() if place.key is None else place.caller.turn(place.run)


async def _end(place: Place, call: Callable[[], Any]) -> messages.Recorded:
    """Call the function. Raises what isn't an `Exception`, which records nothing."""
    try:
        result = await _called(place.name, call)
        sealed = await _sealed(place, result)
    except Exception as error:
        sealed = await encode_failure_soon(
            error, sealer=_sealer(place), context=_context(place, "error")
        )
        return messages.Recorded(
            name=place.name, error=sealed, failure=describe(error, keys=_sealer(place).keys)
        )
    return messages.Recorded(name=place.name, result=sealed)


async def _sealed(place: Place, result: object) -> bytes:
    try:
        context = _context(place, "result")
        return await _sealer(place).seal_soon(payload.encode(result), context=context)
    except PayloadError as error:
        raise PayloadError(
            f"the result of the step {place.name} (a {type(result).__name__}) can't be recorded: "
            f"{error}"
        ) from error


async def _slept(place: Place, delay: float) -> None:
    _refuse_abandoned(place)
    record = messages.Recorded(name=place.name, result=await _sealed(place, None), delay=delay)
    try:
        await _opened(place, await _submitted(place, record))
    except asyncio.CancelledError:
        if not place.caller.abandoned:
            place.caller.note_stopped(place.run)
            caller = (place.caller.run, place.caller.attempt)
            _connection(place).session.cancel(place.run, caller=caller)
        raise


async def _known(place: Place) -> messages.Finished | None:
    """How the step ended in an earlier execution, if it did."""
    pending = _connection(place).session.attach(place.run)
    answer = await _answer(pending)
    match answer:
        case messages.Rejected(code="unknown-run"):
            return None
        case messages.Finished():
            return answer
        case _:
            raise _refused(place, answer)


def _is_to_be_done_again(place: Place, end: messages.Finished) -> bool:
    """Whether it failed in an earlier round."""
    return end.state != "succeeded" and end.parent_round < place.caller.round


async def _submitted(place: Place, record: messages.Recorded) -> messages.Finished:
    """Have the end recorded, and return the one that is."""
    caller = place.caller
    submission = messages.Submission(
        run=place.run,
        target=_TARGET,
        project=caller.project,
        arguments=b"",
        parent=caller.run,
        root=caller.root,
        identity=place.identity,
        ordinal=place.ordinal,
        key=place.key,
        digest=place.digest,
        round=caller.round,
        recorded=record,
    )
    answer = await _answer(_connection(place).session.submit(submission))
    if isinstance(answer, messages.Finished):
        await wait_if_stopped_otherwise(answer, caller)
        return answer
    raise _refused(place, answer)


async def _answer(pending: Pending) -> messages.Wire | None:
    await pending.until(lambda pending: pending.is_settled)
    if pending.error is not None:
        raise pending.error
    return pending.answer


async def _opened(place: Place, end: messages.Finished) -> Any:
    """The recorded result; or raises the recorded exception."""
    sealer = _sealer(place)
    if end.state == "cancelled":
        raise RunCancelled(f"the step {place.name} ({place.run}) was cancelled")
    if end.state == "succeeded" and end.result is not None:
        return (await sealer.open_soon(end.result, context=_context(place, "result"))).value
    context = _context(place, "error")
    raise await decode_failure_soon(end.error, end.failure, sealer=sealer, context=context)


def _refused(place: Place, answer: messages.Wire | None) -> LeveretError:
    if isinstance(answer, messages.Rejected):
        told = f"the step {place.name} ({place.run}) was not recorded: {answer.message}"
        return REFUSALS[answer.code](told)
    return LeveretError(f"the step {place.name} ({place.run}): unexpected answer {answer!r}")


def _refuse_abandoned(place: Place) -> None:
    if place.caller.abandoned:
        raise asyncio.CancelledError(f"run {place.caller.run} was given back by this worker")


def _connection(place: Place) -> "Connection":
    connection = place.caller.connection
    assert connection is not None, "a workflow run has a connection"
    return connection


def _sealer(place: Place) -> Sealer:
    return _connection(place).sealer


def _context(place: Place, direction: Any) -> payload.Context:
    return payload.Context(
        project=place.caller.project, run=place.run, definition=DEFINITION, direction=direction
    )
