"""A run that was asked for: wait for its end, stop it, repeat it, ask why it does not move."""

import asyncio
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from leveret import payload
from leveret.errors import (
    DefinitionError,
    IdentificationError,
    InputFailed,
    KeyConflictError,
    LeveretError,
    NotDeployedError,
    NoWorkerWarning,
    PayloadError,
    RunCancelled,
    RunStateError,
)
from leveret.failures import decode_failure_soon
from leveret.sealing import Sealer
from leveret_broker import identifiers, messages
from leveret_broker.errors import InvalidName
from leveret_broker.references import is_reference

if TYPE_CHECKING:
    from leveret.connection import Connection
    from leveret.pending import Pending

R_co = TypeVar("R_co", covariant=True)

LONGEST_ID = 200
"""Bytes."""
A = TypeVar("A", bound=messages.Wire)

REFUSALS: dict[messages.RefusalCode, type[LeveretError]] = {
    "unidentified": IdentificationError,
    "not-deployed": NotDeployedError,
    "unknown-run": IdentificationError,
    "conflict": DefinitionError,
    "invalid": LeveretError,
    "key-conflict": KeyConflictError,
    "state": RunStateError,
    "unready": LeveretError,
}
DEEPEST_CAUSE = 20
"""Inputs of inputs that an error tells of."""
LONGEST_ARGUMENTS = 300
"""Characters of a call's arguments that an error shows."""


def check_id(run: object) -> None:
    """Raises `IdentificationError` for what can't be the id of a run."""
    if not isinstance(run, str) or not 0 < len(run.encode()) <= LONGEST_ID:
        raise IdentificationError(
            f"{run!r} is not the id of a run: `leveret runs list` shows those that exist"
        )


class Run(Generic[R_co]):
    """One run, from any process: `run.id` is all that another one needs to find it."""

    def __init__(
        self,
        connection: "Connection",
        run: str,
        definition: tuple[str, str] | None = None,
        pending: "Pending | None" = None,
    ) -> None:
        self.id = run
        self._connection = connection
        self._definition = definition
        """The project and the name of what it runs, once they are known."""
        self._pending = pending
        self._attempt = 0
        """The one that a retry made."""

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
        the run or what to run; `KeyConflictError` if its key belongs to other arguments.

        A run that is parked or waits for a retry has not ended.
        """
        return await self._result(DEEPEST_CAUSE)

    async def _result(self, depth: int) -> R_co:
        ended = await self._ended()
        try:
            return cast(R_co, await self._opened(ended))
        except InputFailed as error:
            failed, blames = error, getattr(ended.answer, "blames", None)
        if blames is not None and depth > 0:
            failed.__cause__ = await self._cause(blames, depth - 1)
        raise failed

    async def _cause(self, run: str, depth: int) -> BaseException | None:
        """What another run failed with."""
        try:
            await Run[Any](self._connection, run)._result(depth)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return error.with_traceback(None)  # it was raised elsewhere: that is its own cause
        return None

    def to_be_heard(self, round: int) -> "Run[R_co]":
        """The same run, asked for as an input so far: from now on this process hears its end."""
        pending = self._connection.session.listen(self.id, round=round)
        return Run(self._connection, self.id, self._definition, pending)

    def is_through(self, connection: "Connection") -> bool:
        """Whether it was asked for through the same session."""
        return self._connection.session is connection.session

    @property
    def is_known(self) -> bool:
        """Whether the coordinator is known to have it."""
        return self._pending is not None and self._pending.is_accepted

    def check_not_refused(self) -> None:
        """Raises what the coordinator refuses it for, if it does."""
        pending = self._pending
        if pending is not None and isinstance(pending.answer, messages.Rejected):
            raise REFUSALS[pending.answer.code](pending.answer.message)
        if pending is not None and pending.error is not None:
            raise pending.error

    async def ended(self) -> None:
        """Wait for its end, whatever that is."""
        await self._ended()

    @property
    def end(self) -> messages.Finished | None:
        """How it ended, if that is known here."""
        answer = self._pending.answer if self._pending is not None else None
        return answer if isinstance(answer, messages.Finished) else None

    async def _ended(self) -> "Pending":
        pending = await self._attached()
        warned = 0
        while True:
            await pending.until(partial(_has_news, warned))
            for notice in pending.unserved[warned:]:
                warned += 1
                self._connection.warn_unserved(notice)
            if pending.is_settled:
                return pending

    async def show(self) -> "Sequence[messages.RunRow]":
        """The run and all below it as the catalog has them now, parents first."""
        return await self._connection.show(self.id)

    async def cancel(self) -> Sequence[str]:
        """Stop it and all below it; return, once that is recorded, the ids of all that stopped.

        They are none if it had ended. Raises `IdentificationError` if there is no such run, or it
        is of another project than the one that is known.
        """
        answer = await self._ask(messages.Cancelled, messages.Cancel, runs=(self.id,))
        return answer.runs

    async def retry(self, *, revision: int | str | None = None) -> messages.Retried:
        """Execute it again; what had succeeded below it is kept. `result` waits for the new end.

        With `revision` it goes on with that revision, or version, of the code: a run that has not
        ended can be moved as well. Raises `RunStateError` if it succeeded, or has not ended and
        stays with its revision, and `IdentificationError` if there is no such run or revision.
        """
        version = None if revision is None else str(revision)
        try:
            if version is not None:
                identifiers.check("version", version)
        except InvalidName as error:
            raise IdentificationError(str(error)) from error
        return await self._retry(version=version)

    async def resume(self) -> messages.Retried:
        """Go on with a parked run, with all its retries. Raises `RunStateError` for any other."""
        return await self._retry(resume=True)

    async def explain(self) -> messages.Explanation:
        """Why it does not move: `text` is a paragraph for people.

        Raises `IdentificationError` if there is no such run.
        """
        return await self._ask(messages.Explanation, messages.Explain, run=self.id)

    def request_cancel(
        self, *, caller: tuple[str, int] | None = None, unneeded: "Sequence[Run[Any]]" = ()
    ) -> None:
        """Ask that it be stopped, without waiting. The rest as in `Session.cancel`."""
        runs = [run.id for run in unneeded]
        self._connection.session.cancel(self.id, caller=caller, unneeded=runs)

    def request_cancel_unneeded(
        self, runs: "Sequence[Run[Any]]", *, caller: tuple[str, int] | None
    ) -> None:
        """The same for runs that nobody but this process may need."""
        unneeded = [run.id for run in runs]
        self._connection.session.cancel(None, caller=caller, unneeded=unneeded)

    async def _retry(self, **how: Any) -> messages.Retried:
        answer = await self._ask(messages.Retried, messages.Retry, run=self.id, **how)
        self._pending = None  # it knows the end before
        self._attempt = answer.attempt
        return answer

    async def _ask(self, answer: type[A], request: Callable[..., messages.Wire], **of: Any) -> A:
        check_id(self.id)
        project = self._connection.known_project
        return await self._connection.ask(answer, request, project=project, **of)

    async def _attached(self) -> "Pending":
        check_id(self.id)
        if self._pending is None:
            if self._definition is None:
                project, name, _ = (await self.show())[0].definition.split(":")
                self._definition = project, name
            session = self._connection.session
            self._pending = session.attach(self.id, attempt=self._attempt)
        return self._pending

    async def _opened(self, pending: "Pending") -> object:
        if pending.error is not None:
            raise pending.error
        match pending.answer:
            case messages.Finished(state="succeeded", result=result) if result is not None:
                opened = await self._sealer.open_soon(result, context=self._context("result"))
                return opened.value
            case messages.Finished(state="cancelled"):
                raise RunCancelled(f"run {self.id} was cancelled")
            case messages.Finished(error=sealed, failure=failure):
                context = self._context("error")
                error = await decode_failure_soon(
                    sealed, failure, sealer=self._sealer, context=context
                )
                if isinstance(error, asyncio.CancelledError):  # here it would cancel who awaits
                    raise RunCancelled(f"run {self.id} cancelled itself") from error
                raise error
            case messages.Rejected(code="key-conflict") if pending.submission is not None:
                raise self._conflict(pending.submission, pending.answer)
            case messages.Rejected(code=code, message=message):
                raise REFUSALS[code](message)
            case answer:
                raise LeveretError(f"run {self.id}: unexpected answer {answer!r}")

    def _conflict(self, asked: messages.Submission, refused: messages.Rejected) -> KeyConflictError:
        return KeyConflictError(
            f"the key {asked.key!r} belongs to run {self.id}, which was asked for with "
            f"{self._told(refused.arguments)}, and now with {self._told(asked.arguments)}: give "
            f"other arguments another key, or ask for that run by its id"
        )

    def _told(self, sealed: bytes | None) -> str:
        """Arguments as a call spells them, or why they can't be shown."""
        if sealed is None:
            return "arguments that are not told"
        if is_reference(sealed):
            return "large arguments, which are stored"
        keys, context = self._sealer.keys, self._context("arguments")
        try:
            args, kwargs = payload.unseal_arguments(
                sealed, keys=keys, context=context, result=_ResultOf
            )
        except PayloadError as error:
            return f"arguments that can't be shown ({error})"
        given = [_shown(value) for value in args]
        named = [f"{name}={_shown(value)}" for name, value in kwargs.items()]
        text = ", ".join([*given, *named])
        if len(text) > LONGEST_ARGUMENTS:
            text = f"{text[:LONGEST_ARGUMENTS]}…"
        return f"({text})"

    @property
    def _sealer(self) -> Sealer:
        return self._connection.sealer

    def _context(self, direction: Any) -> payload.Context:
        assert self._definition is not None, "known once the run is attached"
        project, name = self._definition
        return payload.Context(project=project, run=self.id, definition=name, direction=direction)


@dataclass(frozen=True)
class _ResultOf:
    """An input, where only the arguments are at hand."""

    run: str

    def __repr__(self) -> str:
        return f"<result of {self.run}>"


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # it is the user's, and this is about another error
        return f"<{type(value).__qualname__}>"


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
    if notice.shipped:
        remedy = (
            f"its code was shipped, and no worker of the project accepts code; start one by "
            f"`leveret worker --project {project} --accept-code`, with the same LEVERET_KEY"
        )
    else:
        remedy = (
            f"start one by `leveret worker APP --project {project}`, APP being the module or file "
            "that defines it"
        )
    warnings.warn(
        f"no worker serves {notice.queue}, so run {notice.run} waits; {remedy}",
        NoWorkerWarning,
        stacklevel=_frames_of_ours(),
    )
