"""How runs ended, on their way to the coordinator: as many a message as are waiting.

A delivery is settled only once the outcome is confirmed on a durable queue.
"""

import asyncio
from collections.abc import Callable

from leveret_broker import batches, codec, logs, messages, topology
from leveret_broker.errors import Refused, TransportClosed, TransportError
from leveret_broker.transport import Outgoing, Transport

log = logs.get_logger("leveret.worker")

RETRY_EVERY = 1.0
"""Seconds between two tries while the broker takes nothing."""


Reported = tuple[messages.Outcome, Callable[[], None]]


class Reporter:
    """Publishes outcomes, and calls back for each once it is confirmed."""

    def __init__(self, transport: Transport, worker: str) -> None:
        self._transport = transport
        self._worker = worker
        self._outcomes: list[Reported] = []
        self._started: list[messages.Started] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._is_scheduled = False

    def report(self, outcome: messages.Outcome, confirmed: Callable[[], None]) -> None:
        """Tell how a run ended, soon; `confirmed` is called when that can't be lost any more."""
        self._outcomes.append((outcome, confirmed))
        self._schedule()

    def announce(self, started: messages.Started) -> None:
        """Tell that a run has been executing for a while."""
        self._started.append(started)
        self._schedule()

    async def flush(self) -> None:
        """Return when everything reported so far is confirmed."""
        while self._outcomes or self._started or self._sending:
            self._send()
            await asyncio.wait(self._sending)

    def close(self) -> None:
        """Give up what isn't confirmed: its deliveries go back to their queues."""
        for task in self._sending:
            task.cancel()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._is_scheduled = False
        while (self._outcomes or self._started) and len(self._sending) < batches.ON_THEIR_WAY:
            task = asyncio.get_running_loop().create_task(self._publish(*self._next_batch()))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled():
            self._send()

    def _next_batch(self) -> tuple[messages.Outcomes, list[Callable[[], None]]]:
        batch = batches.take(self._outcomes, _size)
        started, self._started = tuple(self._started), []
        outcomes = tuple(outcome for outcome, _ in batch)
        message = messages.Outcomes(worker=self._worker, outcomes=outcomes, started=started)
        return message, [confirmed for _, confirmed in batch]

    async def _publish(
        self, message: messages.Outcomes, confirmed: list[Callable[[], None]]
    ) -> None:
        while True:
            try:
                await self._transport.publish(_outgoing(message))
                break
            except TransportClosed:
                return
            except Refused as refusal:
                if len(message.outcomes) > 1:
                    for outcome, call in zip(message.outcomes, confirmed, strict=True):
                        await self._publish(message.model_copy(update=_only(outcome)), [call])
                    return
                message = message.model_copy(
                    update=_only(*(_too_large(outcome, refusal) for outcome in message.outcomes))
                )
            except TransportError as error:
                log.warning("outcomes wait for the broker", reason=str(error))
                await asyncio.sleep(RETRY_EVERY)
        for call in confirmed:
            call()


def _outgoing(message: messages.Outcomes) -> Outgoing:
    only = message.outcomes[0].run if len(message.outcomes) == 1 else None
    body = codec.encode(message)
    return Outgoing(queue=topology.OUTCOMES.name, body=body, correlation_id=only)


def _only(*outcomes: messages.Outcome) -> dict[str, object]:
    return {"outcomes": outcomes, "started": ()}


def _too_large(outcome: messages.Outcome, refusal: Refused) -> messages.Outcome:
    """What is told instead of an outcome that the broker doesn't take."""
    told = f"how run {outcome.run} ended ({_bytes(outcome)} bytes) can't be sent: {refusal}"
    failure = messages.Failure(type="leveret.errors.PayloadError", message=told)
    update = {"state": "failed", "result": None, "error": None, "failure": failure}
    return outcome.model_copy(update=update)


def _bytes(outcome: messages.Outcome) -> int:
    return len(outcome.result or b"") + len(outcome.error or b"")


def _size(reported: Reported) -> int:
    outcome, _ = reported
    return _bytes(outcome)
