"""A run that was asked for: wait for its end, or stop it."""

import asyncio
import inspect
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from leveret import payload
from leveret.errors import (
    DefinitionError,
    IdentificationError,
    LeveretError,
    NotDeployedError,
    NoWorkerWarning,
    RunCancelled,
)
from leveret.failures import decode_failure
from leveret_broker import messages

if TYPE_CHECKING:
    from leveret.connection import Connection
    from leveret.pending import Pending

R_co = TypeVar("R_co", covariant=True)

REFUSALS: dict[messages.RefusalCode, type[LeveretError]] = {
    "unidentified": IdentificationError,
    "not-deployed": NotDeployedError,
    "unknown-run": IdentificationError,
    "conflict": DefinitionError,
    "invalid": LeveretError,
}


class Run(Generic[R_co]):
    """One run, from any process: `run.id` is all that another one needs to find it."""

    def __init__(
        self,
        connection: "Connection",
        run: str,
        project: str | None = None,
        pending: "Pending | None" = None,
    ) -> None:
        self.id = run
        self._connection = connection
        self._project = project
        self._pending = pending

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    async def accepted(self) -> None:
        """Return once the coordinator has committed the run: from then on it is kept.

        Raises what `result` raises for a run that is refused.
        """
        pending = await self._attached()
        await pending.until(lambda pending: pending.is_accepted)
        if isinstance(pending.answer, messages.Rejected) or pending.error is not None:
            await self.result()

    async def result(self) -> R_co:
        """Wait for its end and return its result.

        Raises the exception that it ended with, as its own type; `RunCancelled` if somebody
        cancelled it; `IdentificationError` or `NotDeployedError` if the coordinator doesn't know
        the run or what to run.
        """
        pending = await self._attached()
        warned = 0
        while True:
            await pending.until(partial(_has_news, warned))
            for notice in pending.unserved[warned:]:
                warned += 1
                self._connection.warn_unserved(notice)
            if pending.is_settled:
                return cast(R_co, self._opened(pending))

    async def show(self) -> "Sequence[messages.RunRow]":
        """The run and all below it as the catalog has them now, parents first."""
        return await self._connection.show(self.id)

    async def cancel(self) -> None:
        """Stop it and all below it; return once that is recorded. No error if it has ended."""
        await self._connection.cancel(self.id)

    def request_cancel(self) -> None:
        """Ask that it be stopped, without waiting."""
        self._connection.session.cancel(self.id)

    async def _attached(self) -> "Pending":
        if self._pending is None:
            self._project = (await self.show())[0].project
            self._pending = self._connection.session.attach(self.id)
        return self._pending

    def _opened(self, pending: "Pending") -> object:
        if pending.error is not None:
            raise pending.error
        match pending.answer:
            case messages.Finished(state="succeeded", result=result) if result is not None:
                return payload.unseal(
                    result, key=self._connection.key, context=self._context("result")
                )
            case messages.Finished(state="cancelled"):
                raise RunCancelled(f"run {self.id} was cancelled")
            case messages.Finished(error=sealed, failure=failure):
                key, context = self._connection.key, self._context("error")
                error = decode_failure(sealed, failure, key=key, context=context)
                if isinstance(error, asyncio.CancelledError):  # here it would cancel who awaits
                    raise RunCancelled(f"run {self.id} cancelled itself") from error
                raise error
            case messages.Rejected(code=code, message=message):
                raise REFUSALS[code](message)
            case answer:
                raise LeveretError(f"run {self.id}: unexpected answer {answer!r}")

    def _context(self, direction: Any) -> payload.Context:
        assert self._project is not None, "known once the run is attached"
        return payload.Context(project=self._project, run=self.id, direction=direction)


def _has_news(warned: int, pending: "Pending") -> bool:
    return pending.is_settled or len(pending.unserved) > warned


def _frames_of_ours() -> int:
    """How many callers up the stack are leveret's own: a warning is about the code above them."""
    here, count = str(Path(__file__).parent), 0
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(here):
        frame, count = frame.f_back, count + 1
    return count


def warn_unserved(notice: messages.Unserved, project: str) -> None:
    """Tell the person that a run waits because nobody serves its queue."""
    warnings.warn(
        f"no worker serves {notice.queue}, so run {notice.run} waits; start one by "
        f"`leveret worker APP --project {project}`, APP being the module or file that defines it",
        NoWorkerWarning,
        stacklevel=_frames_of_ours(),
    )
