"""What a worker tells the coordinator about runs: as much a message as is waiting.

A delivery is settled only once the outcome, or the lease, is confirmed on a durable queue.
"""

import asyncio
from collections.abc import Callable

from leveret_broker import batches, codec, logs, messages, topology
from leveret_broker.errors import Refused, TransportClosed
from leveret_broker.transport import Outgoing, Transport

log = logs.get_logger("leveret.worker")

RETRY_EVERY = 1.0
"""Seconds between two tries while the broker takes nothing."""

Confirmed = Callable[[], None]
Reported = tuple[messages.Outcome, Confirmed]


class Reporter:
    """Publishes outcomes and the rest, and calls back for what is confirmed."""

    def __init__(self, transport: Transport, worker: str) -> None:
        self.exchange: str | None = None
        """What to publish through, if not the broker's own exchange."""
        self._transport = transport
        self._worker = worker
        self._outcomes: list[Reported] = []
        self._started: list[tuple[messages.Started, Confirmed]] = []
        self._claims: list[messages.Claim] = []
        self._join: messages.Heartbeat | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._is_scheduled = False

    def report(self, outcome: messages.Outcome, confirmed: Confirmed) -> None:
        """Tell how a run ended, soon; `confirmed` is called when that can't be lost any more."""
        self._outcomes.append((outcome, confirmed))
        self._schedule()

    def announce(self, started: messages.Started, confirmed: Confirmed = lambda: None) -> None:
        """Tell that a run is executing."""
        self._started.append((started, confirmed))
        self._schedule()

    def claim(self, *claims: messages.Claim) -> None:
        """Ask whether these may be executed."""
        self._claims += claims
        self._schedule()

    def join(self, heartbeat: messages.Heartbeat, *claims: messages.Claim) -> None:
        """Tell that the worker is there, and claim in the same message what executes on it."""
        self._join = heartbeat
        self.claim(*claims)

    async def flush(self) -> None:
        """Return when everything reported so far is confirmed."""
        while self._waits or self._sending:
            self._send()
            await asyncio.wait(self._sending)

    def close(self) -> None:
        """Give up what isn't confirmed: its deliveries go back to their queues."""
        for task in self._sending:
            task.cancel()

    @property
    def _waits(self) -> bool:
        return bool(self._outcomes or self._started or self._claims or self._join)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._is_scheduled = False
        while self._waits and len(self._sending) < batches.ON_THEIR_WAY:
            task = asyncio.get_running_loop().create_task(self._publish(*self._next_batch()))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled():
            self._send()

    def _next_batch(self) -> tuple[messages.Outcomes, list[Confirmed]]:
        outcomes = batches.take(self._outcomes, _size)
        started, self._started = self._started, []
        claims, self._claims = self._claims, []
        join, self._join = self._join, None
        message = messages.Outcomes(
            worker=self._worker,
            outcomes=tuple(outcome for outcome, _ in outcomes),
            started=tuple(one for one, _ in started),
            claims=tuple(claims),
            join=join,
        )
        return message, [confirmed for _, confirmed in (*outcomes, *started)]

    async def _publish(self, message: messages.Outcomes, confirmed: list[Confirmed]) -> None:
        while True:
            try:
                await self._transport.publish(_outgoing(message, self.exchange))
                break
            except TransportClosed:
                return
            except Exception as error:  # whatever it is: nobody else would tell this again
                if not isinstance(error, Refused) or not message.outcomes:
                    log.warning("outcomes wait for the broker", reason=str(error))
                    await asyncio.sleep(RETRY_EVERY)
                elif _is_one_outcome(message):
                    message = _only(message, _too_large(message.outcomes[0], error))
                else:
                    for part, calls in _parts(message, confirmed):
                        await self._publish(part, calls)
                    return
        for call in confirmed:
            call()


def _outgoing(message: messages.Outcomes, exchange: str | None) -> Outgoing:
    only = message.outcomes[0].run if len(message.outcomes) == 1 else None
    body = codec.encode(message)
    return Outgoing(queue=topology.OUTCOMES.name, exchange=exchange, body=body, correlation_id=only)


def _is_one_outcome(message: messages.Outcomes) -> bool:
    return len(message.outcomes) == 1 and not _has_more(message)


def _has_more(message: messages.Outcomes) -> bool:
    return bool(message.started or message.claims or message.join)


def _parts(
    message: messages.Outcomes, confirmed: list[Confirmed]
) -> list[tuple[messages.Outcomes, list[Confirmed]]]:
    """Each outcome by itself, and all else in one message: only outcomes are ever too large."""
    count = len(message.outcomes)
    rest = message.model_copy(update={"outcomes": ()})
    parts = [
        (_only(message, outcome), [call])
        for outcome, call in zip(message.outcomes, confirmed, strict=False)
    ]
    return [*parts, (rest, confirmed[count:])] if _has_more(message) else parts


def _only(message: messages.Outcomes, outcome: messages.Outcome) -> messages.Outcomes:
    return messages.Outcomes(worker=message.worker, outcomes=(outcome,))


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
