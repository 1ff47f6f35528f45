"""The coordinator: take what is waiting, decide, write, publish, acknowledge.

Rules:

- One task does everything that touches the catalog, one batch after the other.
- A batch is acknowledged after its decision was committed and handed to the broker. Killed anywhere
  before, the same messages come again and decide nothing new.
- What is due, and what went wrong unheard, comes in as messages that the coordinator tells itself
  (`notices.py`).
- No lone message waits for a timer.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from leveret_broker import logs, topology
from leveret_broker.clock import Clock, SystemClock
from leveret_broker.errors import TransportError
from leveret_broker.health import Condition
from leveret_broker.identifiers import new_id
from leveret_broker.transport import Consumer, Delivery, Transport
from leveret_coordinator import intake, parcels, predecessor, questions, work_queues
from leveret_coordinator.alarm import Alarm, Backoff
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.chunks import MOST_TOGETHER, Chunks
from leveret_coordinator.database import in_a_thread
from leveret_coordinator.decide import decide
from leveret_coordinator.decision import Answer, Decision, LateOutcome
from leveret_coordinator.errors import CatalogInUse, CatalogUnavailable
from leveret_coordinator.facts import Message, needs_of
from leveret_coordinator.hearing import Hearing
from leveret_coordinator.hesitation import Hesitation
from leveret_coordinator.intake import Received
from leveret_coordinator.janitor import Janitor
from leveret_coordinator.notices import Notices
from leveret_coordinator.project_exchanges import ProjectExchanges
from leveret_coordinator.pruner import Pruner
from leveret_coordinator.publishing import Publisher
from leveret_coordinator.records import PendingRun
from leveret_coordinator.sending import Sending
from leveret_coordinator.settings import CoordinatorSettings as CoordinatorSettings
from leveret_coordinator.statements import Connect
from leveret_coordinator.watch import Watch

log = logs.get_logger("leveret.coordinator")

VERSION = version("leveret")


class CoordinatorService:
    """Owns the catalog while it runs. The transport is opened and closed by whoever made it."""

    def __init__(
        self,
        transport: Transport,
        catalog_path: Path | None,
        clock: Clock | None = None,
        settings: CoordinatorSettings | None = None,
        connect: Connect = in_a_thread,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._catalog_path = catalog_path
        self._connect = connect
        self._clock = clock or SystemClock()
        self._settings = settings or CoordinatorSettings()
        self._wake = asyncio.Event()
        self._publisher = Publisher(
            transport,
            self._clock,
            self._wake.set,
            confirm_after=self._settings.confirm_after,
            retry_first=self._settings.retry_first,
            retry_longest=self._settings.retry_longest,
            page=self._settings.page,
        )
        self._backoff = Backoff(self._settings.retry_first, self._settings.retry_longest)
        self._pause_over = Alarm(self._clock, self._wake.set)
        self._hearing = Hearing(transport, self._clock, lambda: bool(self._inbox))
        self._notices = Notices(
            transport,
            self._hearing,
            self._publisher,
            self._clock,
            self._wake.set,
            self._settings,
            deal_with=self._deal_with,
            hear_more=self._hear_more,
        )
        self._hesitation = Hesitation(self._clock, self._wake.set, seconds=self._settings.hesitate)
        self._janitor = self._made_janitor()
        self._pruner = Pruner(
            self._clock,
            self._wake.set,
            keep=self._settings.keep,
            every=self._settings.prune_every,
        )
        self._exchanges = ProjectExchanges(transport)
        self._watch = Watch(transport, self._clock)
        self._chance = chance
        self._generation = 0
        self._inbox: deque[Delivery] = deque()
        self._chunks = Chunks()
        self._sharing: set[str] = set()
        """Definitions of which the catalog knows that several runs may share a message."""
        self._sending = Sending(self._publisher, self._wake.set)
        self._stopping = False
        self._is_announced = False
        self._catalog: Catalog | None = None
        self._consumers: list[Consumer] = []
        self._loop: asyncio.Task[None] | None = None
        self._refused_outcomes = 0
        self._strangers = logs.Tally(
            log.warning, "an attempt was stopped by a control message of somebody else"
        )

    def _made_janitor(self) -> Janitor | None:
        given = self._settings
        if given.payload_store is None:
            return None
        return Janitor(
            given.payload_store,
            self._clock,
            self._wake.set,
            grace=given.payload_grace,
            every=given.clean_every,
        )

    @property
    def refused_outcomes(self) -> int:
        """News of attempts that came late or twice, since the start."""
        return self._refused_outcomes

    # -- starting and stopping --------------------------------------------------------------------

    async def start(self) -> None:
        """Open the catalog, and serve; what is left of earlier days is published meanwhile.

        Raises a `CatalogError` if the catalog can't be used or another coordinator serves at this
        broker, a `TransportError` if the broker can't be used; then nothing is left running.
        """
        self._watch.does("starts, and opens its catalog")
        self._catalog = await self._open()
        try:
            self._watch.does("starts, and declares its queues")
            await self._declare_all()
            self._watch.does("waits for another coordinator at this broker to leave")
            await predecessor.wait_gone(self._transport, self._clock, within=self._patience)
            # Above all that earlier starts have told a worker.
            self._generation = await self._catalog.count_start() << 32
            if not self._transport.is_durable:
                await self._catalog.forget_published(now=self._clock.now())
            await self._notices.start(self._catalog)
            if self._janitor is not None and self._settings.cleans_at_start:
                await self._janitor.clean_unserved(self._catalog)
            self._notices.listen()
            self._transport.on_reconnect(self._notices.listen)
            for queue in (topology.REQUESTS, topology.OUTCOMES):
                consumer = await self._transport.consume(
                    queue.name, self._arrived, prefetch=self._settings.prefetch
                )
                self._consumers.append(consumer)
            self._publisher.open_backlog(self._catalog, self._generation)
            if self._janitor is not None:
                self._janitor.start()
            self._pruner.start()
            self._loop = asyncio.create_task(self._serve(), name="coordinator")
        except BaseException:
            await self._release()
            raise
        self._watch.serves()
        log.info("coordinator ready", catalog=str(self._catalog_path or "in memory"))

    async def _open(self) -> Catalog:
        """The catalog. A standby waits for it."""
        told = False
        while True:
            try:
                return await Catalog.open(self._catalog_path, self._connect)
            except CatalogInUse as error:
                if not self._settings.standby:
                    raise
                self._watch.does(f"stands by: {error}")
                if not told:
                    log.info("coordinator stands by", reason=str(error))
                    told = True
            await self._clock.sleep(self._settings.look_for_catalog_every)

    @property
    def _patience(self) -> float:
        """Seconds that another coordinator at this broker has for leaving."""
        within = self._settings.predecessor_leaves_within
        return math.inf if self._settings.standby else within

    async def stop(self) -> None:
        """Finish the batch under way, give back the others, and close the catalog."""
        self._watch.does("stops")
        self._stopping = True
        self._wake.set()
        if self._loop is not None:
            await self._end(self._loop)
        await self._release()

    async def condition(self) -> Condition:
        """How it is at this moment."""
        return await self._watch.condition(self._loop, self._consumers)

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
        await work_queues.declare(self._transport, await self._open_catalog.queues())

    async def _release(self) -> None:
        for each in (self._pause_over, self._notices, self._hesitation, self._pruner):
            each.clear()
        if self._janitor is not None:
            await self._janitor.stop()
        await self._watch.stop()
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            try:
                await consumer.cancel()
            except TransportError as error:
                log.warning("consumer not cancelled", error=str(error))
        while self._inbox:
            self._inbox.popleft().nack()
        await self._sending.close()
        await self._publisher.close()
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
                self._watch.works()
                await self._step()
            except Exception as error:
                self._watch.failed(error)
                log.exception("coordinator goes on after an error", error=str(error))
                await self._pause(self._backoff.next())
            else:
                self._watch.succeeded()
                self._backoff.reset()
        await self._sending.idle()
        await self._publisher.write_confirmed(self._open_catalog)

    async def _step(self) -> None:
        """Do what is due, or wait until something is."""
        if failed := self._sending.take_failed():
            await self._one_by_one(failed)
            return
        if await self._do_what_is_due():
            return
        if self._publisher.has_backlog or self._inbox:
            if self._publisher.has_backlog:
                await self._sending.idle()  # or the page would hold it again
                await self._publisher.publish_page(self._open_catalog)
                self._sending.settle()
            if self._inbox:
                await self._round(self._take())
        elif self._publisher.is_confirmation_due:
            await self._publisher.write_confirmed(self._open_catalog)
        else:
            self._watch.rests()
            self._wake.clear()
            await self._wake.wait()

    async def _do_what_is_due(self) -> bool:
        """Whether there was something."""
        if not self._is_announced:
            await self._publisher.send([parcels.pack_rejoin()])
            self._is_announced = True
        elif self._publisher.has_silent:
            await self._notices.mend_queues()
        elif self._publisher.is_backlog_due:
            self._publisher.open_backlog(self._open_catalog, self._generation)
        elif self._hesitation.is_due:
            due = self._hesitation.take_due()
            await self._publisher.send(parcels.pack_control(due, (), self._generation))
        elif self._notices.is_due:
            await self._sending.idle()
            if await self._notices.proceed(self._open_catalog):
                self._publisher.open_backlog(self._open_catalog, self._generation)
        elif self._janitor is not None and self._janitor.is_due:
            since = self._notices.listening_since
            await self._janitor.proceed(self._open_catalog, listening_since=since)
        elif self._pruner.is_due:
            until = self._hearing.until
            await self._pruner.proceed(self._open_catalog, heard_until=until)
        else:
            return False
        return True

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

    async def _round(self, taken: Sequence[Delivery]) -> None:
        """Deal with a batch, and then know that all before its markers is heard."""
        markers = [delivery for delivery in taken if self._hearing.is_marker(delivery)]
        try:
            await self._deal_with_deliveries([each for each in taken if each not in markers])
            for marker in markers:
                self._hearing.hear(marker)
        finally:  # others follow one that told nothing
            for marker in markers:
                marker.ack()

    async def _deal_with_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """If that fails, deal with each alone, to find the one that is to blame."""
        try:
            await self._exchanges.tend(deliveries)
            received = await intake.receive(deliveries, self._transport)
        except BaseException:
            for delivery in deliveries:  # those that are settled stay so
                delivery.nack()
            raise
        try:
            await self._process(received)
        except CatalogUnavailable:
            self._give_back(received)
            raise
        except Exception as error:
            log.exception("batch failed, each message is tried alone", error=str(error))
            await self._one_by_one(received)

    async def _one_by_one(self, received: Sequence[Received]) -> None:
        await self._sending.idle()  # what fails from here on is the one that is tried
        received = [*received, *self._sending.take_failed()]
        for position, each in enumerate(received):
            try:
                await self._process([each])
                await self._sending.idle()
                if self._sending.take_failed():
                    raise RuntimeError("what it decides can't be published")
            except CatalogUnavailable:
                self._give_back(received[position:])
                raise
            except Exception as error:
                log.exception("message failed", queue=each.delivery.queue, error=str(error))
                reason = f"{type(error).__name__}: {error}"
                await intake.set_aside(each.delivery, reason, self._transport)

    async def _hear_more(self) -> None:
        """Deal with what was delivered meanwhile, if anything was."""
        if self._inbox:
            await self._round(self._take())

    def _give_back(self, received: Sequence[Received]) -> None:
        self._inbox.extendleft(each.delivery for each in reversed(received))

    async def _process(self, received: Sequence[Received]) -> None:
        if not received:
            return
        with self._publisher.later_on_failure():
            await self._sending.start(
                await self._decided([each.message for each in received]), received
            )

    async def _deal_with(self, messages: Sequence[Message]) -> None:
        """Decide, commit, publish."""
        with self._publisher.later_on_failure():
            await self._publisher.send(await self._decided(messages))

    async def _decided(self, messages: Sequence[Message]) -> list[parcels.Parcel]:
        """Decide and commit. What is to be published then."""
        now = self._clock.now()
        with self._publisher.taken_confirmed() as confirmed:
            decision = await self._open_catalog.carry_out(
                needs_of(messages),
                lambda facts: decide(
                    messages, facts, now=now, version=VERSION, issue=new_id, chance=self._chance
                ),
                confirmed,
                alive=self._notices.alive,
                now=now,
            )
        if decision.joined:
            self._generation += 1
        self._notices.note(decision)
        self._chunks.note(decision.paces)
        self._count(decision.refused)
        for each in decision.strangers:
            self._strangers.add(run=each.run, attempt=each.attempt, worker=each.worker)
        return await self._packed(decision)

    async def _packed(self, decision: Decision) -> list[parcels.Parcel]:
        """What was decided and is committed, to be published: all, or what is left of much."""
        if decision.queues:
            await work_queues.declare(self._transport, decision.queues)
        answers = [*decision.answers]
        for question in decision.questions:
            reply = await questions.reply(
                question,
                self._open_catalog,
                self._transport,
                now=self._clock.now(),
                alive_since=self._notices.heard_since,
            )
            answers.append(Answer(session=question.session, reply=reply))
        verdicts = self._hesitation.hold(decision.verdicts)
        page = self._settings.page
        for start in range(page, len(decision.dispatched), page):  # they may be large
            portion = decision.dispatched[start : start + page]
            await self._publisher.send(await self._dispatched(portion))
        first = decision.dispatched[:page]
        return [
            *parcels.pack_stops(decision.stops),
            *await self._invocations(decision.invocations),
            *await self._dispatched(first),
            *await self._dispatched(decision.repeated, is_copy=True),
            *parcels.pack_control(verdicts, decision.joined, self._generation),
            *parcels.pack_shipped(decision.shipped),
            *parcels.pack_answers(answers),
            *map(parcels.pack_unknown, decision.unknown),
        ]

    async def _dispatched(
        self, runs: Sequence[str], *, is_copy: bool = False
    ) -> list[parcels.Parcel]:
        """New attempts, or copies of what vanished, that the catalog has the payloads of."""
        if not runs:
            return []
        pending = await self._open_catalog.pending_named(runs)
        if is_copy:
            pending = [each.as_copy() for each in pending]
        return await self._invocations(pending)

    async def _invocations(self, pending: Sequence[PendingRun]) -> list[parcels.Parcel]:
        packed = parcels.pack_invocations(pending, self._generation, self._chunks.size)
        if len(packed) < len(pending):
            new = {each.run.definition for each in pending} - self._sharing
            if new:
                await self._open_catalog.let_share(new, most=MOST_TOGETHER)
                self._sharing |= new
        return packed

    def _count(self, refused: Sequence[LateOutcome]) -> None:
        self._refused_outcomes += len(refused)
        for late in refused:
            log.info(
                "outcome refused",
                run=late.run,
                attempt=late.attempt,
                worker=late.worker,
                reason=late.reason,
                started_at=late.started_at,
            )
