"""The worker as it runs: registers what it serves, consumes its queues, drains when told to."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from leveret.connection import Connection
from leveret.definitions import Definition, Task
from leveret.errors import SettingError
from leveret.keys import Keyring
from leveret.sealing import PayloadOptions
from leveret.session import Session
from leveret_broker import codec, identifiers, logs, messages, topology
from leveret_broker.aside import Aside
from leveret_broker.clock import Clock, SystemClock
from leveret_broker.errors import MalformedMessage, TransportError
from leveret_broker.health import Condition
from leveret_broker.lifecycle import IoThread, LoopMailbox
from leveret_broker.transport import Consumer, Delivery, Outgoing, Transport
from leveret_worker.alarms import Alarms
from leveret_worker.claims import Claims, claims_of_running
from leveret_worker.code import Loaded, Shelf, Shipped
from leveret_worker.execution import Bundle, Execution
from leveret_worker.executor import (
    DEFAULT_LEASE_AFTER,
    DEFAULT_STOP_GRACE,
    Executor,
    Runners,
    Times,
)
from leveret_worker.generic import Generic
from leveret_worker.heartbeat import Heart
from leveret_worker.membership import Membership
from leveret_worker.processes import ProcessPool
from leveret_worker.provision import Providing
from leveret_worker.reporter import Reporter
from leveret_worker.rooms import Rooms
from leveret_worker.runners import AsyncRunner, FetchingRunner, ProcessRunner, ThreadRunner
from leveret_worker.suspension import Suspension
from leveret_worker.watch import Watch
from leveret_worker.work_queues import WorkQueues

log = logs.get_logger("leveret.worker")

DEFAULT_SLOTS = 32
WORKFLOW_PREFETCH = 2_000
"""Runs of one workflow that a consumer holds, the most that a quorum queue hands out.

A workflow that calls itself more deeply would wait for ever, so a worker that holds as many opens a
further consumer.
"""
DRAIN_SECONDS = 30.0
"""How long running tasks may take to end after a SIGTERM, before they are given back."""

REPORT_SECONDS = 5.0
"""How long the last outcomes may take to be confirmed when a worker stops."""

GOODBYE_SECONDS = 2.0
"""How long the broker may take to hear that a worker leaves."""

NOTHING = messages.Control()
"""What no coordinator sends."""

_NO_KEY = (
    "a worker that accepts code needs a key, since code is loaded only if it is signed: make one "
    "with `leveret key new`, and set LEVERET_KEY to it here and for those who ship"
)


class WorkerService:
    """Serves definitions of one project until it is stopped."""

    def __init__(
        self,
        transport: Transport,
        definitions: Sequence[Definition[..., Any]] = (),
        *,
        project: str,
        keys: Keyring | None,
        payloads: PayloadOptions | None = None,
        slots: int | None = None,
        processes: int | None = None,
        where: str = "this process",
        clock: Clock | None = None,
        serve_more: Callable[[Definition[..., Any]], Awaitable[None]] | None = None,
        lease_after: float = DEFAULT_LEASE_AFTER,
        stop_grace: float = DEFAULT_STOP_GRACE,
        user_thread: IoThread | None = None,
        accept_code: bool = False,
    ) -> None:
        """`lease_after`: seconds of executing after which a delivery is acknowledged.

        `stop_grace`: seconds between asking an execution to end, and killing its process or
        leaving it to itself. `user_thread`: where async code runs, a thread of its own by default.
        `accept_code`: whether to serve what is shipped to the project. Raises `SettingError` if
        there is no key to verify that with.
        """
        if accept_code and keys is None:
            raise SettingError(_NO_KEY)
        self.id = topology.owned(project, identifiers.new_id("worker"))
        self._transport = transport
        self._definitions = definitions
        self._project = project
        self._keys = keys
        self._payloads = payloads
        self._slots = slots or DEFAULT_SLOTS
        self._processes = processes or processors()
        self._clock = clock or SystemClock()
        self._serve_more = serve_more
        self._where = where
        self._session = Session(transport, where=where, patience=None, project=project)
        self._user_thread = user_thread or IoThread("leveret-user", for_user_code=True)
        self._aside = Aside(transport, log)
        self._reporter = Reporter(transport, self.id)
        self._times = Times(lease_after=lease_after, stop_grace=stop_grace)
        self._pool = ProcessPool(
            size=self._processes, keys=keys, payloads=payloads, grace=stop_grace
        )
        self._alarms = Alarms(self._clock)
        self._membership = Membership(self._ask_to_join, self._clock)
        self._suspension = Suspension(self._clock, self._on_resumed)
        self._claims = Claims(
            reporter=self._reporter,
            membership=self._membership,
            suspension=self._suspension,
            clock=self._clock,
            alarms=self._alarms,
        )
        self._served: dict[str, Definition[..., Any]] = {}
        self._records: dict[str, messages.DefinitionRecord] = {}
        self._queues = WorkQueues(transport, self._on_delivery)
        self._control: Consumer | None = None
        self._watch = Watch(transport, topology.control_queue(self.id).name)
        self._shelf = Shelf(self._fetch_code)
        self._generic: Generic | None = None
        if accept_code:
            self._generic = Generic(self, self._ask_shipped, self._clock)
        self._executor: Executor | None = None
        self._heart = Heart(self._beat, self._clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._is_leaving = False

    # -- starting and stopping --------------------------------------------------------------------

    async def start(self) -> None:
        """Find a coordinator, waiting for one if need be, and serve.

        Raises `DefinitionError` if the catalog refuses a definition.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop(grace=0)
            raise

    async def _start(self) -> None:
        log.info("worker starts, and looks for a coordinator", worker=self.id)
        self._watch.does(f"waits for a coordinator at {self._where}")
        await self._session.start()
        self._watch.does("starts, and registers what it serves")
        self._reporter.exchange = self._session.exchange
        self._user_thread.start()
        await self._pool.start()
        self._alarms.start()
        self._executor = self._assembled()
        control = topology.control_queue(self.id)
        await self._transport.declare(topology.DEAD, topology.OUTCOMES, control)
        self._control = await self._transport.consume(control.name, self._on_control, prefetch=0)
        self._transport.on_loss(self._on_loss)
        self._transport.on_reconnect(self._on_reconnect)
        await self._heart.start()
        await self._membership.join()
        self._suspension.watch(self._alarms)
        if self._definitions:
            await self.serve(self._definitions)
        if self._generic is not None:
            await self._generic.start()
        self._watch.serves()
        log.info("worker ready", worker=self.id, serves=sorted({*self._served, *self._shipped}))

    async def stop(self, grace: float = DRAIN_SECONDS) -> None:
        """Drain: take no more, finish or give back, report, leave.

        Workflows are given back at once: whoever takes them finds what they have called so far.
        Tasks have `grace` seconds to end.
        """
        self._watch.does("drains, and takes no more work")
        busy = 0 if self._executor is None else self._executor.busy
        log.info("worker stops", worker=self.id, tasks=busy, waits_for_them=grace)
        with suppress(TransportError, TimeoutError):  # a lost connection cancels them as well
            async with asyncio.timeout(GOODBYE_SECONDS):
                if self._generic is not None:
                    await self._generic.stop()
                await self._queues.release_all()
        self._is_draining = True
        if self._executor is not None:
            self._executor.give_back_waiting()
            self._executor.give_back_claiming()
            self._executor.give_back_executing(workflows_only=True)
            await self._drain(self._executor, grace)
        self._is_leaving = True
        self._membership.stop()
        await self._heart.stop()
        self._shelf.stop()
        await self._watch.stop()
        await self._leave()
        await self._pool.stop()
        await self._alarms.stop()
        self._reporter.close()
        await self._session.stop()
        self._user_thread.stop()
        log.info("worker stopped", worker=self.id)

    async def condition(self) -> Condition:
        """How it is at this moment."""
        is_deaf = self._control is None or not self._control.is_consuming
        deaf = ["what the coordinator says"] if is_deaf else []
        if not self._session.is_listening:
            deaf.append("answers")
        return await self._watch.condition(
            deaf=[*deaf, *self._queues.deaf],
            queues=len(self._queues),
            is_joined=self._membership.is_joined,
            unreadable=self._executor.unreadable.problem if self._executor else None,
        )

    async def _drain(self, executor: Executor, grace: float) -> None:
        try:
            async with asyncio.timeout(grace):
                await executor.idle()
        except TimeoutError:
            executor.give_back_executing()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._times.stop_grace + REPORT_SECONDS):
                    await executor.idle()
        try:
            async with asyncio.timeout(REPORT_SECONDS):
                await self._reporter.flush()
        except TimeoutError:
            log.warning("outcomes not reported: their runs will be executed again")

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                if self._control is not None:  # until now: without it a worker counts as gone
                    await self._control.cancel()
                await self._request(messages.Goodbye(worker=self.id))
                await self._transport.delete(topology.control_queue(self.id).name)
        except (TransportError, TimeoutError) as error:
            log.info("left without a goodbye", reason=str(error))

    def _assembled(self) -> Executor:
        home = LoopMailbox(asyncio.get_running_loop())
        connection = Connection(
            self._session,
            project=self._project,
            keys=self._keys,
            payloads=self._payloads,
            serve=self._serve_more,
        )
        sealer, shelf, loaded = connection.sealer, self._shelf, Loaded()
        loop, session = AsyncRunner(self._user_thread, home, connection, loaded), self._session
        return Executor(
            runners=Runners(
                loop=Providing(FetchingRunner(loop, shelf, sealer), session, sealer),
                thread=Providing(
                    FetchingRunner(ThreadRunner(home, sealer, loaded), shelf, sealer),
                    session,
                    sealer,
                ),
                process=Providing(
                    FetchingRunner(ProcessRunner(self._pool, sealer), shelf, sealer),
                    session,
                    sealer,
                ),
            ),
            rooms=Rooms(slots=self._slots, processes=self._processes),
            claims=self._claims,
            reporter=self._reporter,
            clock=self._clock,
            alarms=self._alarms,
            times=self._times,
        )

    # -- serving ----------------------------------------------------------------------------------

    async def serve(
        self, definitions: Sequence[Definition[..., Any]]
    ) -> Sequence[messages.DefinitionRecord]:
        """Register definitions and consume their queues.

        Raises what `leveret` raises for definitions that the catalog refuses.
        """
        answer = await self._asker.ask(
            messages.Registered,
            messages.Register,
            project=self._project,
            definitions=tuple(definition.spec for definition in definitions),
        )
        for definition, record in zip(definitions, answer.definitions, strict=True):
            is_new = record.queue not in self._served
            if not is_new and self._served[record.queue] is not definition:
                self._pool.renew()  # children may have loaded what it was before
            self._served[record.queue] = definition
            self._records[record.queue] = record
            if is_new:
                await self._queues.consume(record.queue, self._prefetch(definition))
        await self._heart.beat()
        return answer.definitions

    def _prefetch(self, definition: Definition[..., Any] | Shipped) -> int:
        assert self._executor is not None, "the worker was started"
        if definition.kind == "workflow":
            return WORKFLOW_PREFETCH
        if isinstance(definition, Shipped):
            wanted, place = definition.code.prefetch, definition.code.place
        else:
            wanted = definition.prefetch if isinstance(definition, Task) else None
            place = definition.place
        return wanted or self._executor.limit(process=place == "process")

    def _on_delivery(self, delivery: Delivery) -> None:
        assert self._executor is not None, "the worker was started"
        if self._is_draining:  # it was on its way when the consumer was cancelled
            delivery.nack()
            return
        try:
            message = codec.decode(delivery.body, messages.Invocations)
        except MalformedMessage as error:
            self._set_aside(delivery, f"malformed: {error}")
            return
        definition = self._served.get(delivery.queue) or self._shipped.get(delivery.queue)
        if definition is None:  # it was let go meanwhile
            delivery.nack()
            return
        bundle = Bundle(delivery, len(message.runs))
        for invocation in message.runs:
            self._executor.accept(
                Execution(
                    invocation=invocation,
                    definition=definition,
                    queue=delivery.queue,
                    project=message.project,
                    bundles=[bundle],
                    generation=message.generation,
                    handed_out=delivery.redelivered or invocation.again,
                )
            )
        held, windows = self._executor.held(delivery.queue), self._queues.windows(delivery.queue)
        if definition.kind == "workflow" and held >= windows * WORKFLOW_PREFETCH > 0:
            self._spawn(self._queues.consume(delivery.queue, WORKFLOW_PREFETCH))

    def _on_control(self, delivery: Delivery) -> None:
        assert self._executor is not None, "the worker was started"
        try:
            control = codec.decode(delivery.body, messages.Control)
        except MalformedMessage as error:
            self._set_aside(delivery, f"malformed: {error}")
            return
        if control == NOTHING:
            self._set_aside(delivery, "unknown: it says nothing that this version knows")
            return
        if control.generation is not None:
            self._membership.admit(control.generation, control.nonce)
        if self._generic is not None and (
            control.generation is not None or self._project in control.shipped
        ):
            self._generic.refresh()
        has_forgotten = self._executor.stop(control.stop)
        if control.rejoin or (has_forgotten and self._membership.is_joined):
            self._executor.doubt_waiting()
            self._membership.renew()
        self._executor.decide(control.verdicts)
        delivery.ack()

    # -- what is shipped to the project -----------------------------------------------------------

    @property
    def _asker(self) -> Connection:
        return Connection(self._session, project=self._project, keys=self._keys)

    @property
    def _shipped(self) -> Mapping[str, Shipped]:
        """By queue."""
        return {} if self._generic is None else self._generic.served

    async def _ask_shipped(self, after: str) -> messages.Shipped:
        return await self._asker.ask(
            messages.Shipped, messages.ListShipped, project=self._project, after=after
        )

    async def _fetch_code(self, digest: str) -> bytes:
        answer = await self._asker.ask(
            messages.Code, messages.FetchCode, project=self._project, digest=digest
        )
        return answer.body

    def serves_itself(self, queue: str) -> bool:
        """See `generic.Server`, as of the next four."""
        return queue in self._served

    def is_idle(self, queue: str) -> bool:
        return self._executor is None or self._executor.held(queue) == 0

    async def open_shipped(self, shipped: Shipped) -> None:
        await self._queues.consume(shipped.queue, self._prefetch(shipped))

    async def close_shipped(self, shipped: Shipped) -> None:
        await self._queues.release(shipped.queue)

    async def tell(self) -> None:
        await self._heart.beat()

    # -- joining ----------------------------------------------------------------------------------

    def _ask_to_join(self, nonce: str) -> None:
        assert self._executor is not None, "the worker was started"
        heartbeat = self._heartbeat().model_copy(update={"nonce": nonce})
        self._reporter.join(heartbeat, *claims_of_running(self._executor.running))

    def _on_loss(self) -> None:
        """What waits may be somebody else's from now on: it must not be started any more."""
        if self._executor is not None and not self._is_leaving:
            self._membership.leave()
            self._executor.give_back_waiting()

    def _on_reconnect(self) -> None:
        """What waits may be somebody else's by now, and what executes as well."""
        if self._executor is not None and not self._is_leaving:
            self._executor.give_back_waiting()
            self._membership.renew()
            self._claims.repeat()

    def _on_resumed(self, seconds: float) -> None:
        log.warning("this process did not run for a while: joining again", seconds=seconds)
        if self._executor is not None and not self._is_leaving:
            self._executor.doubt_waiting()
            self._membership.renew()

    # -- telling ----------------------------------------------------------------------------------

    def _set_aside(self, delivery: Delivery, reason: str) -> None:
        self._spawn(self._aside.put(delivery, reason, exchange=self._session.exchange))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _beat(self) -> None:
        await self._request(self._heartbeat())

    def _heartbeat(self) -> messages.Heartbeat:
        assert self._executor is not None, "the worker was started"
        shipped = self._shipped.values()
        queues = {record.id: record.queue for record in self._records.values()}
        queues |= {each.id: each.queue for each in shipped}
        held = {id_: self._executor.held(queue) for id_, queue in queues.items()}
        return messages.Heartbeat(
            worker=self.id,
            project=self._project,
            host=socket.gethostname(),
            pid=os.getpid(),
            slots=self._slots,
            busy=self._executor.busy,
            started_at=self._heart.started_at,
            definitions=tuple(held),
            held={definition: count for definition, count in held.items() if count},
            accepts_code=self._generic is not None,
            shipped=tuple(each.id for each in shipped),
        )

    async def _request(self, message: messages.Wire) -> None:
        await self._transport.publish(
            Outgoing(
                queue=topology.REQUESTS.name,
                exchange=self._session.exchange,
                body=codec.encode(message),
                persistent=False,
            )
        )


def processors() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
