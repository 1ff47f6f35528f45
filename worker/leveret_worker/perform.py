"""The steps of executing one attempt, the same in a child process, in a thread and on a loop.

Arguments are unsealed, the function is called, its result is sealed. Whatever the user's code
raises is the run's failure, `SystemExit` and `KeyboardInterrupt` too; only cancellation passes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from leveret.context import RunContext, entering
from leveret.errors import PayloadError
from leveret.failures import describe, encode_failure
from leveret.keys import Keyring
from leveret.payload import Context, encode, seal, unseal_arguments
from leveret_worker.errors import Terminated

if TYPE_CHECKING:
    from leveret_broker.messages import Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How an attempt ended, if nobody stopped it: a result, or an error with its description."""

    result: bytes | None = None
    error: bytes | None = None
    failure: "Failure | None" = None
    is_lost: bool = False
    """The process that executed it died."""


def perform(
    fn: Callable[..., Any], arguments: bytes, *, run: RunContext, keys: Keyring | None
) -> Ending:
    """Call a function within a run. Raises nothing but `Terminated`."""
    with entering(run):
        try:
            args, kwargs = _unsealed(arguments, run, keys)
            return _succeeded(fn(*args, **kwargs), run, keys)
        except Terminated:
            raise
        except BaseException as error:
            return failed(error, run=run, keys=keys)


async def perform_async(
    fn: Callable[..., Any], arguments: bytes, *, run: RunContext, keys: Keyring | None
) -> Ending:
    """Await an async function within a run. Raises nothing but `CancelledError`.

    It raises that only if the awaiting task was cancelled: one that comes out of the user's code
    by itself is the run's failure.
    """
    with entering(run):
        try:
            args, kwargs = _unsealed(arguments, run, keys)
            return _succeeded(await fn(*args, **kwargs), run, keys)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return failed(error, run=run, keys=keys)
        except BaseException as error:
            return failed(error, run=run, keys=keys)


def failed(error: BaseException, *, run: RunContext, keys: Keyring | None) -> Ending:
    """The ending that an exception makes. Its traceback begins in the user's code."""
    context = _context(run, "error")
    if run.is_shipped and isinstance(error, ModuleNotFoundError):
        error = _missing(error)
    return Ending(error=encode_failure(error, keys=keys, context=context), failure=describe(error))


def _unsealed(
    arguments: bytes, run: RunContext, keys: Keyring | None
) -> tuple[list[Any], dict[str, Any]]:
    return unseal_arguments(arguments, keys=keys, context=_context(run, "arguments"))


def _succeeded(result: object, run: RunContext, keys: Keyring | None) -> Ending:
    try:
        return Ending(result=seal(encode(result), keys=keys, context=_context(run, "result")))
    except Exception as error:  # a class of the user's may raise anything when it is pickled
        raise PayloadError(
            f"the result of {run.definition} (a {type(result).__name__}) can't be sent: {error}"
        ) from error


def _missing(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """What a shipped function imports when it is called, and this host doesn't have."""
    from leveret import bundles  # late: most children never need it

    return bundles.missing(error)


def _context(run: RunContext, direction: Literal["arguments", "result", "error"]) -> Context:
    return Context(project=run.project, run=run.run, direction=direction)
