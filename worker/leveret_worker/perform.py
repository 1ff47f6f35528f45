"""The steps of executing one attempt, the same in a child process, in a thread and on a loop.

Arguments are unsealed, then the results that they name; the function is called, its result sealed.
Whatever the user's code raises is the run's failure, `SystemExit` and `KeyboardInterrupt` too; only
cancellation passes.
"""

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from leveret.context import RunContext, entering
from leveret.errors import PayloadError
from leveret.failures import describe, encode_failure, encode_failure_soon
from leveret.payload import Context, Source, as_arguments, encode
from leveret.sealing import Sealer
from leveret_worker.errors import Terminated

if TYPE_CHECKING:
    from leveret_broker.messages import Failure


Inputs = Mapping[str, bytes]
"""Results that belong into the arguments, each sealed, by their runs."""
NO_INPUTS: Inputs = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How an attempt ended, if nobody stopped it: a result, or an error with its description."""

    result: bytes | None = None
    error: bytes | None = None
    failure: "Failure | None" = None
    is_lost: bool = False
    """The process that executed it died."""
    seconds: float | None = None
    """How long the code ran, if that is known."""


def perform(
    fn: Callable[..., Any],
    arguments: bytes,
    *,
    run: RunContext,
    sealer: Sealer,
    inputs: Inputs = NO_INPUTS,
) -> Ending:
    """Call a function within a run. Raises nothing but `Terminated`."""
    with entering(run):
        try:
            context = _context(run, "arguments")
            unsealed = sealer.unseal(arguments, context=context)
            results = {
                source.run: sealer.open(inputs[source.run], context=_result_of(source, run)).value
                for source in unsealed.inputs()
                if source.run in inputs
            }
            opened = unsealed.read(_among(results))
            args, kwargs = as_arguments(opened.value, context)
            del unsealed, opened, results
            result = fn(*args, **kwargs)
            del args, kwargs  # they may be large, and so may the result
            return _succeeded(result, run, sealer)
        except Terminated:
            raise
        except BaseException as error:
            return failed(error, run=run, sealer=sealer)


async def perform_async(
    fn: Callable[..., Any],
    arguments: bytes,
    *,
    run: RunContext,
    sealer: Sealer,
    inputs: Inputs = NO_INPUTS,
) -> Ending:
    """Await an async function within a run. Raises nothing but `CancelledError`.

    It raises that only if the awaiting task was cancelled: one that comes out of the user's code
    by itself is the run's failure.
    """
    with entering(run):
        try:
            context = _context(run, "arguments")
            unsealed = await sealer.unseal_soon(arguments, context=context)
            results: dict[str, object] = {}
            for source in unsealed.inputs():
                if source.run in inputs:
                    data, made = inputs[source.run], _result_of(source, run)
                    results[source.run] = (await sealer.open_soon(data, context=made)).value
            opened = unsealed.read(_among(results))
            args, kwargs = as_arguments(opened.value, context)
            del unsealed, opened, results
            result = await fn(*args, **kwargs)
            del args, kwargs  # they may be large, and so may the result
            return await _succeeded_soon(result, run, sealer)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return await failed_soon(error, run=run, sealer=sealer)
        except BaseException as error:
            return await failed_soon(error, run=run, sealer=sealer)


def failed(error: BaseException, *, run: RunContext, sealer: Sealer) -> Ending:
    """The ending that an exception makes. Its traceback begins in the user's code."""
    context = _context(run, "error")
    error = _shown(error, run)
    sealed = encode_failure(error, sealer=sealer, context=context)
    return Ending(error=sealed, failure=describe(error, keys=sealer.keys))


async def failed_soon(error: BaseException, *, run: RunContext, sealer: Sealer) -> Ending:
    """`failed`, without blocking."""
    context = _context(run, "error")
    error = _shown(error, run)
    sealed = await encode_failure_soon(error, sealer=sealer, context=context)
    return Ending(error=sealed, failure=describe(error, keys=sealer.keys))


def _among(results: Mapping[str, object]) -> Callable[[str], object]:
    """The result of an input. Raises `PayloadError` for one that did not come."""

    def result(made: str) -> object:
        if made not in results:
            raise PayloadError(f"the result of its input {made} did not come with it")
        return results[made]

    return result


def _result_of(source: Source, run: RunContext) -> Context:
    """What the result of an input has to be, as the arguments say that it belongs into."""
    return Context(
        project=run.project, run=source.run, definition=source.definition, direction="result"
    )


def _succeeded(result: object, run: RunContext, sealer: Sealer) -> Ending:
    with _told(result, run):
        return Ending(result=sealer.seal(encode(result), context=_context(run, "result")))


async def _succeeded_soon(result: object, run: RunContext, sealer: Sealer) -> Ending:
    with _told(result, run):
        context = _context(run, "result")
        return Ending(result=await sealer.seal_soon(encode(result), context=context))


@contextmanager
def _told(result: object, run: RunContext) -> Generator[None]:
    """Say of whatever keeps a result from being sent that it does."""
    try:
        yield
    except Exception as error:  # a class of the user's may raise anything when it is pickled
        raise PayloadError(
            f"the result of {run.definition} (a {type(result).__name__}) can't be sent: {error}"
        ) from error


def _shown(error: BaseException, run: RunContext) -> BaseException:
    """The error as it is told: what a shipped function imports may be missing on this host."""
    if not (run.is_shipped and isinstance(error, ModuleNotFoundError)):
        return error
    from leveret import bundles  # late: most children never need it

    return bundles.missing(error)


def _context(run: RunContext, direction: Literal["arguments", "result", "error"]) -> Context:
    return Context(
        project=run.project, run=run.run, definition=run.definition_name, direction=direction
    )
