"""The coordinator: take what is waiting, decide, write, publish, acknowledge.

Rules:

- One task does everything that touches the catalog, one batch after the other.
- A batch is acknowledged after its decision was committed and handed to the broker. Killed anywhere
  before, the same messages come again and decide nothing new.
- What the broker confirmed is written with the next batch, or soon after when there is none. Killed
  before, it is published twice.
- No lone message waits for a timer.
"""

import asyncio
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from leveret_broker import logs, topology
from leveret_broker.clock import Clock, SystemClock
from leveret_broker.errors import QueueMismatch, TransportError
from leveret_broker.identifiers import new_id
from leveret_broker.transport import Consumer, Delivery, Transport
from leveret_coordinator import intake, listings, outbox
from leveret_coordinator.alarm import Alarm, Backoff
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.decide import decide
from leveret_coordinator.decision import Answer, Decision, LateOutcome
from leveret_coordinator.errors import CatalogUnavailable
from leveret_coordinator.facts import needs_of
from leveret_coordinator.intake import Received
from leveret_coordinator.records import Confirmed

log = logs.get_logger("leveret.coordinator")

VERSION = version("leveret")


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinatorSettings:
    """What may be tuned. Times are seconds."""

    worker_silent_after: float = 20.0
    """A worker whose heartbeat is older counts as dead."""
    largest_batch: int = 500
    """Messages in one transaction."""
    largest_batch_bytes: int = 2 * 1024 * 1024
    """Bytes of messages in one transaction, unless a single message is larger."""
    prefetch: int = 1000
    """Messages of a queue that the broker hands out ahead."""
    confirm_after: float = 0.05
    """How long confirmations wait for a batch to be written with."""
    retry_first: float = 0.1
    retry_longest: float = 5.0
    """Delays before trying again what failed; they double from the first to the longest."""
    stop_within: float = 5.0
    """How long a batch under way may take to end when the service stops; then it is left as after
    a crash, which loses nothing."""
    page: int = 200
    """Runs read at a time when the catalog's outbox is published again."""


class CoordinatorService:
    """Owns the catalog while it runs. The transport is opened and closed by whoever made it."""

    def __init__(
        self,
        transport: Transport,
        catalog_path: Path | None,
        clock: Clock | None = None,
        settings: CoordinatorSettings | None = None,
    ) -> None:
        self._transport = transport
        self._catalog_path = catalog_path
        self._clock = clock or SystemClock()
        self._settings = settings or CoordinatorSettings()
        self._outbox = outbox.Outbox(transport)
        self._backoff = Backoff(self._settings.retry_first, self._settings.retry_longest)
        self._wake = asyncio.Event()
        self._confirm = Alarm(self._clock, self._wake.set)
        self._retry = Alarm(self._clock, self._wake.set)
        self._pause_over = Alarm(self._clock, self._wake.set)
        self._inbox: deque[Delivery] = deque()
        self._confirmed = Confirmed()
        self._stopping = False
        self._catalog: Catalog | None = None
        self._consumers: list[Consumer] = []
        self._loop: asyncio.Task[None] | None = None
        self._refused_outcomes = 0

    @property
    def refused_outcomes(self) -> int:
        """News of attempts that came late or twice, since the start."""
        return self._refused_outcomes

    # -- starting and stopping --------------------------------------------------------------------

    async def start(self) -> None:
        """Open the catalog, publish what is left of earlier days, and serve.

        Raises a `CatalogError` if the catalog can't be used, a `TransportError` if the broker
        can't; then nothing is left running.
        """
        self._catalog = await Catalog.open(self._catalog_path)
        try:
            await self._declare_all()
            if not self._transport.is_durable:
                await self._catalog.forget_published()
            await self._publish_kept()
            for queue in (topology.REQUESTS, topology.OUTCOMES):
                consumer = await self._transport.consume(
                    queue.name, self._arrived, prefetch=self._settings.prefetch
                )
                self._consumers.append(consumer)
            self._loop = asyncio.create_task(self._serve(), name="coordinator")
        except BaseException:
            await self._release()
            raise
        log.info("coordinator ready", catalog=str(self._catalog_path or "in memory"))

    async def stop(self) -> None:
        """Finish the batch under way, give back the others, and close the catalog."""
        self._stopping = True
        self._wake.set()
        if self._loop is not None:
            await self._end(self._loop)
        await self._release()

    async def wait_ended(self) -> None:
        """Return when the service has stopped. Raises what ended it, if not `stop`."""
        assert self._loop is not None, "the service was not started"
        await asyncio.shield(self._loop)

    async def _end(self, loop: asyncio.Task[None]) -> None:
        _, late = await asyncio.wait([loop], timeout=self._settings.stop_within)
        if late:
            log.warning("the batch under way is given up")
            loop.cancel()
            await asyncio.wait([loop])
        if not loop.cancelled() and (error := loop.exception()):
            log.error("coordinator had ended before it was stopped", error=repr(error))

    async def _declare_all(self) -> None:
        await self._transport.declare(topology.DEAD, topology.REQUESTS, topology.OUTCOMES)
        await self._declare_work_queues(await self._open_catalog.queues())

    async def _release(self) -> None:
        for alarm in (self._confirm, self._retry, self._pause_over):
            alarm.clear()
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            try:
                await consumer.cancel()
            except TransportError as error:
                log.warning("consumer not cancelled", error=str(error))
        while self._inbox:
            self._inbox.popleft().nack()
        catalog, self._catalog = self._catalog, None
        if catalog is not None:
            await catalog.close()

    @property
    def _open_catalog(self) -> Catalog:
        assert self._catalog is not None, "the service was not started"
        return self._catalog

    # -- the loop ---------------------------------------------------------------------------------

    def _arrived(self, delivery: Delivery) -> None:
        self._inbox.append(delivery)
        self._wake.set()

    async def _serve(self) -> None:
        while not self._stopping:
            try:
                await self._step()
            except Exception as error:
                log.exception("coordinator goes on after an error", error=str(error))
                await self._pause(self._backoff.next())
        await self._write_confirmed()

    async def _step(self) -> None:
        """Do what is due, or wait until something is."""
        if self._retry.is_due:
            self._retry.clear()
            with self._published_later_on_failure():
                await self._publish_kept()
        elif self._inbox:
            await self._round(self._take())
        elif self._confirm.is_due:
            await self._write_confirmed()
        else:
            self._wake.clear()
            await self._wake.wait()

    def _take(self) -> list[Delivery]:
        """What is waiting, as much as fits a batch."""
        batch: list[Delivery] = []
        left = self._settings.largest_batch_bytes
        while self._inbox and len(batch) < self._settings.largest_batch:
            left -= len(self._inbox[0].body)
            if left < 0 and batch:
                break
            batch.append(self._inbox.popleft())
        return batch

    async def _pause(self, seconds: float) -> None:
        self._pause_over.set(seconds)
        while not (self._pause_over.is_due or self._stopping):
            self._wake.clear()
            await self._wake.wait()
        self._pause_over.clear()

    async def _round(self, deliveries: Sequence[Delivery]) -> None:
        """Deal with a batch; if that fails, with each alone, to find the one that is to blame."""
        received = await intake.receive(deliveries, self._transport)
        try:
            await self._process(received)
        except CatalogUnavailable:
            self._give_back(received)
            raise
        except Exception as error:
            log.exception("batch failed, each message is tried alone", error=str(error))
            await self._one_by_one(received)

    async def _one_by_one(self, received: Sequence[Received]) -> None:
        for position, each in enumerate(received):
            try:
                await self._process([each])
            except CatalogUnavailable:
                self._give_back(received[position:])
                raise
            except Exception as error:
                log.exception("message failed", queue=each.delivery.queue, error=str(error))
                reason = f"{type(error).__name__}: {error}"
                await intake.set_aside(each.delivery, reason, self._transport)

    def _give_back(self, received: Sequence[Received]) -> None:
        self._inbox.extendleft(each.delivery for each in reversed(received))

    async def _process(self, received: Sequence[Received]) -> None:
        if not received:
            return
        now = self._clock.now()
        alive_since = now - self._settings.worker_silent_after
        messages = [each.message for each in received]
        facts = await self._open_catalog.load(needs_of(messages), alive_since=alive_since)
        decision = decide(messages, facts, now=now, version=VERSION, issue=new_id)
        await self._write(decision, now)
        with self._published_later_on_failure():
            await self._carry_out(decision, alive_since)
        for each in received:
            each.delivery.ack()
        self._count(decision.refused)

    async def _carry_out(self, decision: Decision, alive_since: float) -> None:
        """Publish what was decided and is committed."""
        await self._declare_work_queues(decision.queues)
        answers = [*decision.answers]
        for question in decision.questions:
            reply = await listings.answer(question, self._open_catalog, alive_since=alive_since)
            answers.append(Answer(session=question.session, reply=reply))
        await self._send(
            [
                *map(outbox.pack_invocation, decision.invocations),
                *outbox.pack_cancelled(decision.cancelled),
                *outbox.pack_answers(answers),
            ]
        )

    async def _write(self, decision: Decision, now: float) -> None:
        """Commit the decision, with what was confirmed since the last time."""
        if not (decision.writes or self._confirmed):
            return
        await self._open_catalog.write(decision, self._confirmed, now=now)
        self._forget_confirmed()

    def _count(self, refused: Sequence[LateOutcome]) -> None:
        self._refused_outcomes += len(refused)
        for late in refused:
            log.info(
                "outcome refused",
                run=late.run,
                attempt=late.attempt,
                worker=late.worker,
                reason=late.reason,
            )

    # -- the outbox -------------------------------------------------------------------------------

    async def _send(self, parcels: Sequence[outbox.Parcel]) -> bool:
        """Whether all of it is settled; otherwise the rest will be tried again."""
        if not parcels:
            return True
        settled, has_failed = await self._outbox.send(parcels)
        if settled:
            self._confirmed += settled
            self._confirm.set(self._settings.confirm_after)
        if has_failed:
            self._retry.set(self._backoff.next())
        else:
            self._backoff.reset()
        return not has_failed

    @contextmanager
    def _published_later_on_failure(self) -> Generator[None, None, None]:
        """What is committed and fails to be published is published from the catalog later."""
        try:
            yield
        except Exception:
            self._retry.set(self._backoff.next())
            raise

    async def _write_confirmed(self) -> None:
        if self._confirmed:
            await self._open_catalog.confirm(self._confirmed)
        self._forget_confirmed()

    def _forget_confirmed(self) -> None:
        self._confirmed = Confirmed()
        self._confirm.clear()

    async def _publish_kept(self) -> None:
        """Publish again whatever the broker has not confirmed, page by page."""
        is_settled = await self._send(self._outbox.take_unsent())
        while is_settled:
            await self._write_confirmed()
            pending = await self._open_catalog.pending(most=self._settings.page)
            ended = await self._open_catalog.unanswered(most=self._settings.page)
            if not pending and not ended:
                return
            answers = [Answer(session=session, reply=reply) for session, reply in ended]
            is_settled = await self._send(
                [*map(outbox.pack_invocation, pending), *outbox.pack_answers(answers)]
            )

    async def _declare_work_queues(self, names: Sequence[str]) -> None:
        if not names:
            return
        try:
            await self._transport.declare(*map(topology.work_queue, names))
        except QueueMismatch as error:
            if len(names) > 1:
                for name in names:
                    await self._declare_work_queues([name])
            else:
                # It exists, only with other properties: invocations reach it all the same.
                log.warning("work queue differs from what is declared", error=str(error))
        except TransportError as error:
            # Workers declare it as well, and so does the first invocation that finds none.
            log.warning("work queues not declared", queues=list(names), error=str(error))
