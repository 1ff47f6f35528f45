"""One caller's conversation with the coordinator: requests out, replies in.

Rules of this file:

- `Session` belongs to the loop it was started on, the one that keeps the connection. Its public
  methods may be called from any thread; what they touch runs on that loop.
- Everything sent may be sent again: a submission's id is its caller's, and the coordinator answers
  a second copy as it answered the first. After a reconnect all that is unanswered is sent again,
  until the broker takes it: it did once, so nobody is told that it failed.
- How many submissions share a message is decided by what waits while others are on their way, never
  by a timer.
- A run is cancelled after it was submitted, or not submitted at all: the coordinator has never
  heard of a run whose submission is still on its way.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from leveret.awaited import Awaited
from leveret.errors import CoordinatorUnreachable, LeveretError, PayloadError
from leveret.pending import Pending, mailbox_of
from leveret_broker import batches, codec, identifiers, logs, messages, topology
from leveret_broker.aside import Aside
from leveret_broker.errors import (
    Forbidden,
    MalformedMessage,
    Refused,
    TransportClosed,
    TransportError,
    Unroutable,
)
from leveret_broker.lifecycle import LoopMailbox
from leveret_broker.transport import Consumer, Delivery, Outgoing, Transport

log = logs.get_logger("leveret.session")

RETRY_EVERY = 0.25
"""Seconds between two tries to reach a coordinator that isn't there yet."""
STOP_WITHIN = 5.0
"""Seconds that what is on its way has to be confirmed when the session stops."""
GOODBYE_WITHIN = 2.0
"""Seconds that the broker has to delete the reply queue, which expires otherwise."""

R = TypeVar("R", bound=messages.Wire)


class Session:
    """A reply queue, and everything that is still to be answered there."""

    def __init__(
        self,
        transport: Transport,
        *,
        where: str,
        patience: float | None = 10.0,
        project: str | None = None,
    ) -> None:
        id = identifiers.new_id("session")
        self.id = id if project is None else topology.owned(project, id)
        self.exchange: str | None = None
        """What to publish through: the project's own exchange, if it was given one."""
        self._project = project
        self._transport = transport
        self._where = where
        self._patience = patience
        self._runs = Awaited(post=self._post, send=self._enqueue, send_again=self._send_again)
        self._requests: dict[str, Pending] = {}
        self._unanswered: dict[str, messages.Wire] = {}
        """What was asked under each request's number."""
        self._aside = Aside(transport, log)
        self._waiting: list[messages.Submission] = []
        self._submitting: set[str] = set()
        """Runs whose submission is published and not yet confirmed."""
        self._to_cancel: dict[str, tuple[str, int] | None] = {}
        """With the attempt at a workflow that wants it."""
        self._unneeded: dict[str, tuple[str, int] | None] = {}
        """The same of inputs, which are stopped unless somebody else needs them."""
        self._to_attach: list[str] = []
        self._on_their_way = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._consumer: Consumer | None = None
        self._stopped = False
        self._mailbox: LoopMailbox | None = None

    # -- on the session's loop --------------------------------------------------------------------

    async def start(self) -> None:
        """Open the reply queue and find a coordinator.

        Raises `CoordinatorUnreachable` if none answers within `patience` seconds; a patience of
        `None` waits for ever.
        """
        self._mailbox = mailbox_of(asyncio.get_running_loop())
        queue = topology.reply_queue(self.id)
        try:
            self.exchange = await self._way()
            await self._transport.declare(queue)
        except Forbidden as error:
            raise CoordinatorUnreachable(self._advice(error)) from error
        self._consumer = await self._transport.consume(queue.name, self._on_delivery, prefetch=0)
        self._transport.on_reconnect(self._ask_again)
        await self._find_coordinator()

    async def _way(self) -> str | None:
        if self._project is None:
            return None
        exchange = topology.project_exchange(self._project)
        return exchange if await self._transport.has_exchange(exchange) else None

    def _advice(self, error: Forbidden) -> str:
        if self._project is None:
            remedy = "set LEVERET_PROJECT to the project that this user was granted"
        else:
            remedy = f"`leveret admin grant {self._project} USER` gives it what the project needs"
        return f"the user may not talk to the coordinator at {self._where}: {error}; {remedy}"

    @property
    def is_listening(self) -> bool:
        """Whether answers would arrive now."""
        return self._consumer is not None and self._consumer.is_consuming

    async def stop(self) -> None:
        """Send what waits, close the reply queue, and fail what is still unanswered."""
        await asyncio.sleep(0)  # what was asked of it before, from any thread, comes first
        self._send_waiting()
        self._send_cancels()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN):
                while self._sending:  # a cancellation follows the submission that it is of
                    await asyncio.wait(self._sending)
        self._stopped = True
        for task in self._sending:
            task.cancel()
        for pending in [*self._runs.take_all(), *self._requests.values()]:
            pending.fail(_closed())
        self._requests.clear()
        with suppress(TransportError, TimeoutError):
            async with asyncio.timeout(GOODBYE_WITHIN):
                if self._consumer is not None:
                    await self._consumer.cancel()
                await self._transport.delete(topology.reply_queue_name(self.id))

    async def _find_coordinator(self) -> None:
        hello = messages.Hello(session=self.id, request=identifiers.new_id("request"))
        pending = self._requests[hello.request] = Pending()
        self._unanswered[hello.request] = hello  # replies are lost with a broker that restarts
        try:
            async with asyncio.timeout(self._patience):
                await self._greet(hello)
                await pending.until(lambda hello: hello.is_settled)
        except (TimeoutError, TransportError) as error:
            raise CoordinatorUnreachable(
                f"no coordinator answered at {self._where} within {self._patience} s: start one "
                f"by `leveret coordinator`, or look at why the one there is silent"
            ) from error
        finally:
            self._requests.pop(hello.request, None)
            self._unanswered.pop(hello.request, None)
        if pending.error is not None:
            raise pending.error

    async def _greet(self, hello: messages.Hello) -> None:
        while True:
            try:
                await self._publish(hello)
                return
            except TransportError as error:
                if not isinstance(error, Unroutable) and self._patience is not None:
                    raise
                log.info("no coordinator yet", broker=self._where, reason=str(error))
                await asyncio.sleep(RETRY_EVERY)

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            batch = codec.decode(delivery.body, messages.Replies)
        except MalformedMessage as error:
            aside = self._aside.put(delivery, f"malformed: {error}", exchange=self.exchange)
            self._spawn(aside)
            return
        for reply in batch.replies:
            self._take(reply)
        delivery.ack()

    def _take(self, reply: messages.Reply) -> None:
        match reply:
            case messages.Accepted():
                self._runs.accept(reply)
            case messages.Unserved():
                self._runs.warn(reply)
            case messages.Finished():
                self._runs.finish(reply)
            case messages.Rejected(code="unready"):
                asyncio.get_running_loop().call_later(RETRY_EVERY, self._send_unready, reply.run)
            case messages.Rejected():
                self._stop_unneeded(self._runs.inputs(reply.run))
                self._runs.reject(reply)
            case _:
                self._unanswered.pop(reply.request, None)
                if pending := self._requests.pop(reply.request, None):
                    pending.settle(reply)

    def _ask_again(self) -> None:
        """A connection was lost and replies with it: ask about everything that is unanswered."""
        not_sent = {submission.run for submission in self._waiting} | self._submitting
        again = [asked for asked in self._runs.submissions if asked.run not in not_sent]
        while again:
            self._send_batch(again, insist=True)
        for request in self._unanswered.values():
            self._spawn(self._send(request, ()))
        if attached := self._runs.attached:
            message = messages.Attach(session=self.id, runs=attached)
            self._spawn(self._send(message, attached, insist=True))

    def _send_unready(self, run: str) -> None:
        """Send a submission again that came before those of its inputs, behind these."""
        if not self._stopped:
            not_sent = {submission.run for submission in self._waiting}
            again = [asked for asked in self._runs.unready(run) if asked.run not in not_sent]
            while again:
                self._send_batch(again, insist=True)

    def _enqueue(self, submission: messages.Submission) -> None:
        self._waiting.append(submission)
        if len(self._waiting) == 1:  # the first of this turn of the loop: the rest joins it
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_again(self, submission: messages.Submission) -> None:
        """Send it in the place of the one before, or after that."""
        for index, waiting in enumerate(self._waiting):
            if waiting.run == submission.run:
                self._waiting[index] = submission
                return
        self._send_batch([submission])

    def _send_waiting(self) -> None:
        while self._waiting and self._on_their_way < batches.ON_THEIR_WAY:
            self._send_batch(self._waiting)

    def _stop_unneeded(self, runs: Sequence[str], caller: tuple[str, int] | None = None) -> None:
        if runs and not (self._to_cancel or self._unneeded):
            asyncio.get_running_loop().call_soon(self._send_cancels)
        self._unneeded.update(dict.fromkeys(runs, caller))

    def _attach(self, run: str) -> None:
        self._to_attach.append(run)
        if len(self._to_attach) == 1:
            asyncio.get_running_loop().call_soon(self._send_attaches)

    def _send_attaches(self) -> None:
        runs, self._to_attach = tuple(self._to_attach), []
        self._spawn(self._send(messages.Attach(session=self.id, runs=runs), runs))

    def _send_batch(self, submissions: list[messages.Submission], *, insist: bool = False) -> None:
        """Send the first of these submissions, as many as share a message."""
        batch = batches.take(submissions, _size)
        runs = tuple(submission.run for submission in batch)
        self._on_their_way += 1
        self._submitting.update(runs)
        message = messages.Submit(session=self.id, submissions=tuple(batch))
        self._spawn(self._submit(message, runs, insist=insist))

    async def _submit(
        self, message: messages.Submit, runs: tuple[str, ...], *, insist: bool
    ) -> None:
        try:
            await self._send(message, runs, insist=insist)
        finally:
            self._on_their_way -= 1
            self._submitting.difference_update(runs)
            self._send_cancels()
            self._send_waiting()

    def _send_cancels(self) -> None:
        """Cancel what the coordinator has heard of by now, all in one message."""
        unheard = self._submitting
        if self._unneeded:
            unheard = unheard | {submission.run for submission in self._waiting}
        heard = [run for run in self._to_cancel if run not in unheard]
        unneeded = [run for run in self._unneeded if run not in unheard]
        if not (heard or unneeded):
            return
        wanted = [(run, self._to_cancel.pop(run)) for run in heard]
        wanted += [(run, self._unneeded.pop(run)) for run in unneeded]
        callers = [(run, caller) for run, caller in wanted if caller is not None]
        message = messages.Cancel(
            session=self.id,
            runs=tuple(heard),
            unneeded=tuple(unneeded),
            callers=tuple(
                messages.Caller(run=run, parent=parent, attempt=attempt)
                for run, (parent, attempt) in callers
            ),
        )
        self._spawn(self._send(message, (), insist=True))

    async def _send(
        self, message: messages.Wire, runs: tuple[str, ...], *, insist: bool = False
    ) -> None:
        """Publish; if that fails, whoever waits for these runs hears why, unless we insist."""
        while True:
            try:
                await self._publish(message)
                return
            except TransportClosed:
                return  # `stop` tells those who wait
            except Refused as refusal:
                await self._send_apart(message, refusal)
                return
            except TransportError as error:
                if self._patience is not None and not insist:
                    self._give_up(runs, error)
                    return
                log.warning("coordinator out of reach, trying on", reason=str(error))
                await asyncio.sleep(RETRY_EVERY)

    async def _send_apart(self, message: messages.Wire, refusal: Refused) -> None:
        """The broker takes no such message: find the submission that is at fault."""
        submissions = message.submissions if isinstance(message, messages.Submit) else ()
        if len(submissions) > 1:
            for one in submissions:
                await self._send(messages.Submit(session=self.id, submissions=(one,)), (one.run,))
            return
        log.error("message refused by the broker", reason=str(refusal))
        for one in submissions:
            size = len(one.arguments)
            told = f"the arguments of run {one.run} ({size} bytes) can't be sent: {refusal}"
            self._fail(one.run, PayloadError(told), refusal)

    def _give_up(self, runs: tuple[str, ...], error: TransportError) -> None:
        for run in runs:
            told = f"run {run} could not be submitted at {self._where}: {error}"
            self._fail(run, CoordinatorUnreachable(told), error)

    def _fail(self, run: str, error: LeveretError, cause: TransportError) -> None:
        error.__cause__ = cause
        self._runs.fail(run, error)

    async def _publish(self, message: messages.Wire) -> None:
        await self._transport.publish(
            Outgoing(
                queue=topology.REQUESTS.name, exchange=self.exchange, body=codec.encode(message)
            )
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Send something, unless the session is stopped."""
        if self._stopped:
            coroutine.close()
            return
        task = asyncio.get_running_loop().create_task(coroutine)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    # -- from any thread --------------------------------------------------------------------------

    def submit(self, submission: messages.Submission) -> Pending:
        """Ask for a run. The answer is `Finished` or `Rejected`."""
        return self._runs.submit(submission)

    def attach(self, run: str, *, attempt: int = 0) -> Pending:
        """Ask how a run ends. The answer is `Finished`, or `Rejected` if there is no such run.

        `attempt` is one that the run has come to: the end of an earlier one is not awaited.
        """
        return self._runs.attach(run, partial(self._attach, run), attempt=attempt)

    def listen(self, run: str, *, round: int) -> Pending:
        """Ask how a run ends that this session has submitted as an input, in this round."""
        return self._runs.listen(run, partial(self._attach, run), round=round)

    def cancel(
        self,
        run: str | None,
        *,
        caller: tuple[str, int] | None = None,
        unneeded: Sequence[str] = (),
    ) -> None:
        """Ask that a run be stopped, with all below it, and inputs of it that nobody else needs.

        `caller` is the workflow run that had called it and the attempt that wants it stopped: if
        there is a later one by then, it goes on with the run.
        """

        def send() -> None:
            self._stop_unneeded(unneeded, caller)
            if run is None:
                return
            self._runs.cancel_held(run)
            self._runs.give_up(run)
            for submission in self._waiting:
                if submission.run == run:
                    # Not sent yet, so it is not sent at all. There may be a run all the same, which
                    # an earlier attempt at its workflow, or another user of its key, has made.
                    self._waiting.remove(submission)
                    self._runs.cancel_unsent(run)
                    break
            if not (self._to_cancel or self._unneeded):
                asyncio.get_running_loop().call_soon(self._send_cancels)
            self._to_cancel[run] = caller

        self._post(send)

    async def ask(
        self, number: str, request: messages.Wire, answer: type[R]
    ) -> R | messages.Refused:
        """Send the request of this number and return its answer.

        Raises `CoordinatorUnreachable` in time.
        """
        pending = self._requests[number] = Pending()

        def send() -> None:
            self._unanswered[number] = request
            self._spawn(self._send(request, ()))

        self._post(send, pending)
        try:
            async with asyncio.timeout(self._patience):
                await pending.until(lambda pending: pending.is_settled)
        except TimeoutError:
            raise CoordinatorUnreachable(
                f"the coordinator at {self._where} did not answer within {self._patience} s"
            ) from None
        finally:
            self._requests.pop(number, None)
            self._post(lambda: self._unanswered.pop(number, None))
        if pending.error is not None:
            raise pending.error
        assert isinstance(pending.answer, (answer, messages.Refused)), pending.answer
        return pending.answer

    def _post(self, function: Callable[[], Any], pending: Pending | None = None) -> None:
        """Run it on the session's loop; once the session is stopped, `pending` fails instead."""
        assert self._mailbox is not None, "the session was not started"

        def run() -> None:
            if not self._stopped:
                function()
            elif pending is not None:
                pending.fail(_closed())

        if not self._mailbox.post(run) and pending is not None:
            pending.fail(_closed())


def _size(submission: messages.Submission) -> int:
    """Bytes, about."""
    return len(submission.arguments) + sum(map(len, submission.inputs))


def _closed() -> CoordinatorUnreachable:
    return CoordinatorUnreachable("the connection was closed before the answer came")
