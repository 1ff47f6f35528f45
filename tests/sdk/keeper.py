"""A coordinator that only keeps records: what a workflow run's code hears, over a broker in memory.

It answers submissions and attachments as the protocol says. What it is sent stays for tests to see.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from leveret import payload
from leveret.connection import Connection
from leveret.context import RunContext
from leveret.keys import Keyring
from leveret.session import Session
from leveret_broker import codec, messages, topology
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import Delivery, Outgoing

RUN = "run_01ARZ3NDEKTSV4RRFFQ69G5FAV"
KEYS = Keyring(keys=(b"k" * 32,))
PATIENCE = 5.0
"""Seconds after which a test gives up waiting."""


def finished(recorded: messages.Recorded, run: str, round: int) -> messages.Finished:
    return messages.Finished(
        run=run,
        state="succeeded" if recorded.failure is None else "failed",
        parent_round=round,
        result=recorded.result,
        error=recorded.error,
        failure=recorded.failure,
    )


def _unknown(run: str) -> messages.Rejected:
    return messages.Rejected(run=run, code="unknown-run", message="there is no such run")


class Keeper:
    """Keeps the first record of each step; sleeps end when they are told to."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport
        self.requests: list[Any] = []
        self.records: dict[str, messages.Finished] = {}
        self.sleeping: dict[str, tuple[str, messages.Finished]] = {}
        self.session: Session | None = None
        self.silent = False
        """Whether submissions are not answered."""
        self.doubles = False
        """Whether what was told before is told once more, late, as after a lost connection."""
        self._changed = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._transport.declare(topology.DEAD, topology.REQUESTS)
        await self._transport.consume(topology.REQUESTS.name, self._on_delivery, prefetch=0)

    def wake(self) -> None:
        """End all sleeps."""
        for run, (session, end) in list(self.sleeping.items()):
            del self.sleeping[run]
            self._finish(session, end)

    def workflow_run(self, *, fresh: bool = False, round: int = 1) -> RunContext:
        """One execution of the workflow run."""
        assert self.session is not None
        return RunContext(
            run=RUN,
            attempt=1,
            project="p",
            kind="workflow",
            definition="p:w:1",
            root=RUN,
            connection=Connection(self.session, project="p", keys=KEYS),
            fresh=fresh,
            round=round,
        )

    def tell(self, *replies: messages.Reply) -> None:
        """Tell the session something."""
        assert self.session is not None
        self._reply(self.session.id, *replies)

    async def until(self, ready: Callable[["Keeper"], bool]) -> None:
        """Return when this holds; it is asked again after every request."""
        async with asyncio.timeout(PATIENCE):
            while not ready(self):
                self._changed.clear()
                await self._changed.wait()

    @property
    def submissions(self) -> list[messages.Submission]:
        """What was submitted, in order."""
        submits = [one for one in self.requests if isinstance(one, messages.Submit)]
        return [submission for submit in submits for submission in submit.submissions]

    @property
    def attached(self) -> list[str]:
        """What was asked for, in order."""
        return [
            run for one in self.requests if isinstance(one, messages.Attach) for run in one.runs
        ]

    @property
    def cancelled(self) -> list[str]:
        """What was cancelled, in order."""
        return [
            run for one in self.requests if isinstance(one, messages.Cancel) for run in one.runs
        ]

    def _on_delivery(self, delivery: Delivery) -> None:
        request = codec.decode_request(delivery.body)
        self.requests.append(request)
        match request:
            case messages.Hello():
                self._reply(request.session, messages.Welcome(request=request.request, version="0"))
            case messages.Attach():
                for run in request.runs:
                    self._tell(request.session, run)
            case messages.Submit() if not self.silent:
                for submission in request.submissions:
                    self._record(request.session, submission)
            case messages.Cancel():
                for run in request.runs:
                    if run in self.sleeping:
                        del self.sleeping[run]
                        end = messages.Finished(run=run, state="cancelled")
                        self._finish(request.session, end)
            case _:
                pass
        delivery.ack()
        self._changed.set()

    def _tell(self, session: str, run: str) -> None:
        if run in self.records:
            self._reply(session, self.records[run])
            return
        self._reply(session, _unknown(run))

    def _record(self, session: str, submission: messages.Submission) -> None:
        recorded, run = submission.recorded, submission.run
        assert recorded is not None, "only steps are submitted here"
        known = self.records.get(run)
        is_anew = known is None or (
            known.state != "succeeded" and known.parent_round < submission.round
        )
        if self.doubles and is_anew:
            self._reply(session, known or _unknown(run))
        if known is not None and not is_anew:
            self._reply(session, known)
            return
        end = finished(recorded, run, submission.round)
        if recorded.delay is None:
            self._finish(session, end)
        else:
            self.sleeping[run] = (session, end)

    def _finish(self, session: str, end: messages.Finished) -> None:
        self.records[end.run] = end
        self._reply(session, end)

    def _reply(self, session: str, *replies: Any) -> None:
        outgoing = Outgoing(
            queue=topology.reply_queue_name(session),
            body=codec.encode(messages.Replies(replies=replies)),
        )
        task = asyncio.create_task(self._transport.publish(outgoing))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


@asynccontextmanager
async def keeping() -> AsyncGenerator[Keeper]:
    """A keeper, and a session with it."""
    broker = MemoryBroker()
    theirs, mine = MemoryTransport(broker), MemoryTransport(broker)
    await theirs.open()
    await mine.open()
    keeper = Keeper(theirs)
    await keeper.start()
    keeper.session = Session(mine, where="memory", patience=PATIENCE)
    await keeper.session.start()
    try:
        yield keeper
    finally:
        await keeper.session.stop()
        await mine.close()
        await theirs.close()


def unsealed(end: messages.Finished) -> object:
    """A recorded result."""
    assert end.result is not None
    place = payload.Context(project="p", run=end.run, definition="leveret.step", direction="result")
    return payload.unseal(end.result, keys=KEYS, context=place)
