"""What a call needs in order to be submitted: a session, a project, a key."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from leveret import definitions, inputs, payload
from leveret.errors import LeveretError, PayloadError
from leveret.keys import Keyring
from leveret.payload import Encoded
from leveret.runs import REFUSALS, Run, warn_unserved
from leveret.sealing import PayloadOptions, Sealer, Stored
from leveret.session import Session
from leveret_broker import identifiers, logs, messages

if TYPE_CHECKING:
    from leveret.calls import Call
    from leveret.definitions import Definition
    from leveret.shipping import Shipper

R = TypeVar("R")
A = TypeVar("A", bound=messages.Wire)

log = logs.get_logger("leveret.connection")

DEFAULT_PROJECT = "default"


class Connection:
    """The way from calls to the coordinator. Usable from any thread and any event loop."""

    def __init__(
        self,
        session: Session,
        *,
        project: str | None,
        keys: Keyring | None,
        payloads: PayloadOptions | None = None,
        serve: "Callable[[Definition[..., Any]], Awaitable[None]] | None" = None,
    ) -> None:
        self.session = session
        self.known_project = project
        """The project as identifiers see it: `None` means that any project may be meant."""
        self.project = project or DEFAULT_PROJECT
        """The project of definitions called as functions."""
        self.sealer = Sealer(keys, payloads)
        self._serve = serve
        self.shipper: Shipper | None = None
        """Carries code to the cluster, if this is the connection of a program."""
        self._warned: set[str] = set()

    async def prepare(self, definition: "Definition[..., Any]") -> messages.CodeRef | None:
        """Make sure that there is something to run, and return the code that it was shipped as.

        Where the caller's own process executes runs, it is made to serve this one.
        """
        base = definition.base
        if self._serve is not None:
            await self._serve(base)
        if base.code is None and self.shipper is not None:
            return await self.shipper.ship(base)
        return base.code

    async def prepare_known(self) -> None:
        """The same for all that this process has defined: an identifier may mean any of it."""
        if self._serve is None:
            return
        for definition in definitions.latest():
            try:
                await self.prepare(definition)
            except LeveretError as error:
                log.warning("not served", definition=definition.where, reason=str(error))

    @property
    def keys(self) -> Keyring | None:
        return self.sealer.keys

    async def stored(self, what: str, arguments: Encoded) -> Encoded | Stored:
        """A call's arguments, stored if they are large: to be submitted without blocking.

        Raises `PayloadError` if they may not travel.
        """
        try:
            return await self.sealer.stored(arguments)
        except PayloadError as error:
            told = f"the arguments of {what} can't be sent: {error}"
            raise PayloadError(told) from error.__cause__

    def submit(
        self,
        call: "Call[R]",
        arguments: Encoded | Stored,
        *,
        acknowledge: bool = False,
        is_input: bool = False,
        code: messages.CodeRef | None = None,
    ) -> Run[R]:
        """Ask for a call's run, which `name` has named.

        With `is_input` nobody here hears how it ends.
        """
        definition = call.definition
        caller = call.caller if call.caller and call.caller.kind == "workflow" else None
        target = messages.Target(
            kind=definition.kind,
            name=definition.name,
            version=definition.version,
            fingerprint=definition.fingerprint if definition.kind == "workflow" else None,
            code=code,
        )
        assert call.run_id is not None, "it was named"
        runs = [each.run for each in inputs.sources(call.inputs)]
        return self._submitted(
            call.run_id,
            caller.project if caller else self.project,
            target,
            arguments,
            definition=definition.name,
            parent=caller.run if caller else None,
            root=caller.root if caller else None,
            identity=call.identity,
            ordinal=call.ordinal,
            acknowledge=acknowledge or is_input or bool(runs),
            options=definition.run_options,
            key=definition.key,
            digest=call.digest,
            round=caller.round if caller else 1,
            inputs=tuple(runs),
            is_input=is_input,
        )

    def name(self, call: "Call[Any]") -> None:
        """Give a root call the id of its run. Those of a workflow run's have theirs."""
        if call.run_id is not None:
            return
        callee, key = call.definition.callee, call.definition.key
        if key is None:
            call.run_id = identifiers.new_id("run")
        else:
            call.run_id = identifiers.keyed_run_id(self.project, callee, key)
            inputs.name(call.run_id, self.project, call.inputs)

    async def submit_identified(
        self, identifier: str, project: str, name: str, arguments: Encoded
    ) -> Run[Any]:
        """Ask for a root run of what an identifier was resolved to, and for its inputs."""
        calls: Sequence[Call[Any]] = arguments.inputs
        inputs.adopt(calls, None, identifier)
        await inputs.submit(calls, self)
        sources = inputs.sources(calls)
        stored = await self.stored(identifier, payload.with_inputs(arguments, sources))
        return self._submitted(
            identifiers.new_id("run"),
            project,
            messages.Target(identifier=identifier),
            stored,
            definition=name,
            acknowledge=True,
            inputs=tuple(each.run for each in sources),
        )

    def _submitted(
        self,
        run: str,
        project: str,
        target: messages.Target,
        arguments: Encoded | Stored,
        *,
        definition: str,
        **fields: Any,
    ) -> Run[Any]:
        context = payload.Context(
            project=project, run=run, definition=definition, direction="arguments"
        )
        submission = messages.Submission(
            run=run,
            target=target,
            project=project,
            arguments=self.sealer.seal(arguments, context=context),
            **fields,
        )
        return Run(self, run, (project, definition), self.session.submit(submission))

    async def show(self, run: str) -> "Sequence[messages.RunRow]":
        """A run and all below it, parents first. Raises `IdentificationError` if unknown."""
        return (await self.ask(messages.Tree, messages.ShowRun, run=run)).runs

    async def ask(self, answer: type[A], request: Callable[..., messages.Wire], **fields: Any) -> A:
        """Put a request to the coordinator. Raises what its refusal means."""
        number = identifiers.new_id("request")
        asked = request(session=self.session.id, request=number, **fields)
        reply = await self.session.ask(number, asked, answer)
        if isinstance(reply, messages.Refused):
            raise REFUSALS[reply.code](reply.message)
        assert isinstance(reply, answer)
        return reply

    def warn_unserved(self, notice: messages.Unserved) -> None:
        """Warn once a queue."""
        if notice.queue not in self._warned:
            self._warned.add(notice.queue)
            warn_unserved(notice, self.project)
