"""One caller's conversation with the coordinator: requests out, replies in.

Rules of this file:

- `Session` belongs to the loop it was started on, the one that keeps the connection. Its public
  methods may be called from any thread; what they touch runs on that loop.
- Everything sent may be sent again: a submission's id is its caller's, and the coordinator answers
  a second copy as it answered the first. After a reconnect all that is unanswered is sent again.
- How many submissions share a message is decided by what waits while others are on their way, never
  by a timer.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from leveret.errors import CoordinatorUnreachable
from leveret_broker import codec, identifiers, logs, messages, topology
from leveret_broker.errors import MalformedMessage, TransportClosed, TransportError, Unroutable
from leveret_broker.lifecycle import LoopMailbox
from leveret_broker.transport import Consumer, Delivery, Outgoing, Transport

log = logs.get_logger("leveret.session")

MOST_IN_A_MESSAGE = 200
"""Submissions that share one message at most."""
BYTES_IN_A_MESSAGE = 1 << 20
"""Bytes of arguments after which a message takes no further submission."""
ON_THEIR_WAY = 4
"""Messages published and not yet confirmed, at most; what comes meanwhile waits and is batched."""
RETRY_EVERY = 0.25
"""Seconds between two tries to reach a coordinator that isn't there yet."""
STOP_WITHIN = 5.0
"""Seconds that what is on its way has to be confirmed when the session stops."""

R = TypeVar("R", bound=messages.Wire)


class Pending:
    """What is known of one run or request: written on the session's loop, awaited on any."""

    def __init__(self) -> None:
        self.accepted: messages.Accepted | None = None
        self.answer: messages.Wire | None = None
        """The last word: how the run ended, or the reply to the request."""
        self.error: Exception | None = None
        self.unserved: list[messages.Unserved] = []
        self._waiting: list[tuple[LoopMailbox, asyncio.Future[None]]] = []
        self._lock = threading.Lock()

    @property
    def is_settled(self) -> bool:
        return self.answer is not None or self.error is not None

    @property
    def is_accepted(self) -> bool:
        return self.accepted is not None or self.is_settled

    def update(self, change: Callable[["Pending"], None]) -> None:
        """Change it and wake all who wait."""
        with self._lock:
            change(self)
            waiting, self._waiting = self._waiting, []
        for mailbox, future in waiting:
            mailbox.post(partial(_wake, future))

    def settle(self, answer: messages.Wire) -> None:
        self.update(lambda pending: setattr(pending, "answer", answer))

    def fail(self, error: Exception) -> None:
        self.update(lambda pending: setattr(pending, "error", error))

    async def until(self, ready: Callable[["Pending"], bool]) -> None:
        """Return when `ready` holds; it is asked again after every update."""
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if ready(self):
                    return
                future = loop.create_future()
                self._waiting.append((_mailbox_of(loop), future))
            await future


def _keep(tasks: set[asyncio.Task[None]], coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it as a task that is held on to until it ends."""
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMailbox] = WeakKeyDictionary()


def _mailbox_of(loop: asyncio.AbstractEventLoop) -> LoopMailbox:
    mailbox = _mailboxes.get(loop)
    if mailbox is None:
        mailbox = _mailboxes[loop] = LoopMailbox(loop)
    return mailbox


class Session:
    """A reply queue, and everything that is still to be answered there."""

    def __init__(self, transport: Transport, *, where: str, patience: float | None = 10.0) -> None:
        self.id = identifiers.new_id("session")
        self._transport = transport
        self._where = where
        self._patience = patience
        self._runs: dict[str, Pending] = {}
        self._submissions: dict[str, messages.Submission] = {}
        self._requests: dict[str, tuple[Pending, messages.Wire]] = {}
        self._waiting: list[messages.Submission] = []
        self._on_their_way = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._following: set[asyncio.Task[None]] = set()
        self._consumer: Consumer | None = None
        self._stopped = False
        self._mailbox: LoopMailbox | None = None

    # -- on the session's loop --------------------------------------------------------------------

    async def start(self) -> None:
        """Open the reply queue and find a coordinator.

        Raises `CoordinatorUnreachable` if none answers within `patience` seconds; a patience of
        `None` waits for ever.
        """
        self._mailbox = _mailbox_of(asyncio.get_running_loop())
        queue = topology.reply_queue(self.id)
        await self._transport.declare(queue)
        self._consumer = await self._transport.consume(queue.name, self._on_delivery, prefetch=0)
        self._transport.on_reconnect(self._ask_again)
        await self._find_coordinator()

    async def stop(self) -> None:
        """Send what waits, close the reply queue, and fail what is still unanswered."""
        self._send_waiting()
        if self._sending:
            await asyncio.wait(self._sending, timeout=STOP_WITHIN)
        self._stopped = True
        for task in self._sending | self._following:
            task.cancel()
        if self._consumer is not None:
            await self._consumer.cancel()
        closed = CoordinatorUnreachable("the connection was closed before the answer came")
        for pending in [*self._runs.values(), *(pending for pending, _ in self._requests.values())]:
            pending.fail(closed)
        try:
            await self._transport.delete(topology.reply_queue_name(self.id))
        except TransportError as error:
            log.debug("reply queue left to expire", session=self.id, reason=str(error))

    async def _find_coordinator(self) -> None:
        hello = messages.Hello(session=self.id, request=identifiers.new_id("run"))
        pending = Pending()
        self._requests[hello.request] = (pending, hello)
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    try:
                        await self._publish(hello)
                        break
                    except Unroutable:
                        log.debug("no coordinator yet", broker=self._where)
                        await asyncio.sleep(RETRY_EVERY)
                await pending.until(lambda hello: hello.is_settled)
        except (TimeoutError, TransportError) as error:
            raise CoordinatorUnreachable(
                f"no coordinator answered at {self._where} within {self._patience:g} s: start one "
                f"by `leveret coordinator`, or look at why the one there is silent"
            ) from error
        finally:
            self._requests.pop(hello.request, None)

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            batch = codec.decode(delivery.body, messages.Replies)
        except MalformedMessage as error:
            log.warning("reply set aside", session=self.id, reason=str(error))
            delivery.reject()
            return
        for reply in batch.replies:
            self._take(reply)
        delivery.ack()

    def _take(self, reply: messages.Reply) -> None:
        match reply:
            case messages.Accepted():
                if pending := self._runs.get(reply.run):
                    pending.update(lambda pending: setattr(pending, "accepted", reply))
            case messages.Unserved():
                if pending := self._runs.get(reply.run):
                    pending.update(lambda pending: pending.unserved.append(reply))
            case messages.Finished() | messages.Rejected():
                self._submissions.pop(reply.run, None)
                if pending := self._runs.pop(reply.run, None):
                    pending.settle(reply)
            case _:
                if asked := self._requests.pop(reply.request, None):
                    asked[0].settle(reply)

    def _ask_again(self) -> None:
        """A connection was lost and replies with it: ask about everything that is unanswered."""
        waiting = {submission.run for submission in self._waiting}
        self._waiting += [s for run, s in self._submissions.items() if run not in waiting]
        self._send_waiting()
        for _, request in self._requests.values():
            self._spawn(self._send(request, ()))
        attached = tuple(run for run in self._runs if run not in self._submissions)
        if attached:
            self._spawn(self._send(messages.Attach(session=self.id, runs=attached), attached))

    def _send_waiting(self) -> None:
        while self._waiting and self._on_their_way < ON_THEIR_WAY:
            batch = self._next_batch()
            self._on_their_way += 1
            message = messages.Submit(session=self.id, submissions=batch)
            self._spawn(self._send_batch(message, tuple(s.run for s in batch)))

    def _next_batch(self) -> tuple[messages.Submission, ...]:
        size = 0
        for count, submission in enumerate(self._waiting, start=1):
            size += len(submission.arguments)
            if size >= BYTES_IN_A_MESSAGE or count == MOST_IN_A_MESSAGE:
                break
        else:
            count = len(self._waiting)
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return tuple(batch)

    async def _send_batch(self, message: messages.Submit, runs: tuple[str, ...]) -> None:
        try:
            await self._send(message, runs)
        finally:
            self._on_their_way -= 1
            self._send_waiting()

    async def _send(self, message: messages.Wire, runs: tuple[str, ...]) -> None:
        """Publish; if that fails for good, whoever waits for these runs hears why."""
        while True:
            try:
                await self._publish(message)
                return
            except TransportClosed:
                return  # `stop` tells those who wait
            except TransportError as error:
                if self._patience is not None:
                    self._give_up(runs, error)
                    return
                log.warning("coordinator out of reach, trying on", reason=str(error))
                await asyncio.sleep(RETRY_EVERY)

    def _give_up(self, runs: tuple[str, ...], error: TransportError) -> None:
        for run in runs:
            self._submissions.pop(run, None)
            if pending := self._runs.pop(run, None):
                unreachable = CoordinatorUnreachable(
                    f"run {run} could not be submitted at {self._where}: {error}"
                )
                unreachable.__cause__ = error
                pending.fail(unreachable)

    async def _publish(self, message: messages.Wire) -> None:
        await self._transport.publish(
            Outgoing(queue=topology.REQUESTS.name, body=codec.encode(message))
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Send something, unless the session is stopped."""
        if self._stopped:
            coroutine.close()
        else:
            _keep(self._sending, coroutine)

    # -- from any thread --------------------------------------------------------------------------

    def submit(self, submission: messages.Submission) -> Pending:
        """Ask for a run. The answer is `Finished` or `Rejected`."""
        pending = Pending()

        def send() -> None:
            if self._stopped:
                pending.fail(CoordinatorUnreachable("the connection is closed"))
                return
            known = self._runs.get(submission.run)
            if known is not None:  # the same run asked for twice at once: both hear its end
                self._follow(known, pending)
                return
            self._runs[submission.run] = pending
            self._submissions[submission.run] = submission
            self._waiting.append(submission)
            if len(self._waiting) == 1:  # the first of this turn of the loop: the rest joins it
                asyncio.get_running_loop().call_soon(self._send_waiting)

        self._post(send)
        return pending

    def attach(self, run: str) -> Pending:
        """Ask how a run ends. The answer is `Finished`, or `Rejected` if there is no such run."""
        pending = Pending()

        def send() -> None:
            known = self._runs.get(run)
            if known is not None:
                self._follow(known, pending)
                return
            self._runs[run] = pending
            self._spawn(self._send(messages.Attach(session=self.id, runs=(run,)), (run,)))

        self._post(send)
        return pending

    def cancel(self, run: str) -> None:
        """Ask that a run be stopped, with all below it."""
        self._post(
            lambda: self._spawn(self._send(messages.Cancel(session=self.id, runs=(run,)), ()))
        )

    async def ask(
        self, number: str, request: messages.Wire, answer: type[R]
    ) -> R | messages.Refused:
        """Send the request of this number and return its answer.

        Raises `CoordinatorUnreachable` in time.
        """
        pending = Pending()

        def send() -> None:
            self._requests[number] = (pending, request)
            self._spawn(self._send(request, ()))

        self._post(send)
        try:
            async with asyncio.timeout(self._patience):
                await pending.until(lambda pending: pending.is_settled)
        except TimeoutError:
            raise CoordinatorUnreachable(
                f"the coordinator at {self._where} did not answer within {self._patience:g} s"
            ) from None
        finally:
            self._post(lambda: self._requests.pop(number, None))
        if pending.error is not None:
            raise pending.error
        assert isinstance(pending.answer, (answer, messages.Refused)), pending.answer
        return pending.answer

    def _follow(self, known: Pending, pending: Pending) -> None:
        async def follow() -> None:
            await known.until(lambda known: known.is_settled)
            if known.error is not None:
                pending.fail(known.error)
            elif known.answer is not None:
                pending.settle(known.answer)

        _keep(self._following, follow())

    def _post(self, function: Callable[[], Any]) -> None:
        assert self._mailbox is not None, "the session was not started"
        self._mailbox.post(function)
