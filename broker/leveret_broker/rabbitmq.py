"""The transport over RabbitMQ.

Two connections, one to publish and one to consume, because a broker that runs out of memory blocks
the connections that publish. They live and die together: a `Session` is one pair of them, and
whatever a session held (channels, delivery tags, exclusive queues) ends with it.

One task, `_keep_whole`, puts right whatever is lost: the session, then the queues, then the
consumers. Publishing waits for it, within the publisher's own deadline. It must never
end before the transport does: without it the transport would be deaf for ever.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from leveret_broker import tls, urls
from leveret_broker.errors import (
    Expired,
    Misconfigured,
    TransportClosed,
    TransportError,
    TransportUnreachable,
)
from leveret_broker.rabbitmq_connection import (
    ConnectionLost,
    Deadline,
    Hopeless,
    connect,
    on_close,
    say_goodbye,
)
from leveret_broker.rabbitmq_consumer import RabbitConsumer
from leveret_broker.rabbitmq_session import Backoff, Session, pause
from leveret_broker.rabbitmq_window import Unconfirmed
from leveret_broker.transport import (
    Consumer,
    Delivery,
    Exchange,
    Outgoing,
    Queue,
    QueueStatus,
    call_each,
)

T = TypeVar("T")

log = logging.getLogger(__name__)


class RabbitTransport:
    """A `Transport` over one RabbitMQ broker.

    `publish_timeout` and `connect_timeout` are in seconds. With `replicated` off, no queue is a
    quorum queue, whatever its declaration says. `security` is for `amqps://`. With `insists` off,
    `open` tries once. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        publish_timeout: float = 30.0,
        connect_timeout: float = 10.0,
        replicated: bool = True,
        security: tls.Tls | None = None,
        insists: bool = True,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._name = name
        self._publish_timeout = publish_timeout
        self._connect_timeout = connect_timeout
        self._replicated = replicated
        self._security = security or tls.Tls()
        self._insists = insists
        self._jitter = jitter
        self._clock = clock
        self._backoff = Backoff(jitter=jitter, clock=clock)
        self._down_since = clock()
        self._reason = f"{urls.redact(url)} has not answered yet"  # why it is down
        self._unrestored: list[TransportError] = []
        self._session: Session | None = None
        self._usable = asyncio.Event()  # the session is up, with its queues; or all is closed
        self._trouble = asyncio.Event()
        self._closed = False
        self._something_came_back = False  # and the callbacks have yet to hear of it
        self._undeclared: set[str] = set()  # names of what was declared and may be missing
        self._keeper: asyncio.Task[None] | None = None
        self._declared: dict[str, Queue | Exchange] = {}
        self._consumers: list[RabbitConsumer] = []
        self._callbacks: list[Callable[[], None]] = []
        self._loss_callbacks: list[Callable[[], None]] = []

    @property
    def is_durable(self) -> bool:
        return True

    @property
    def problem(self) -> str | None:
        """Why it is not connected or lacks something declared or consumed, `None` if all is well.

        Without a password.
        """
        if not (self._is_alive and self._usable.is_set()):
            return f"{self._reason} (no connection for {self._clock() - self._down_since:.0f} s)"
        return "; ".join(map(str, self._unrestored)) or None

    async def open(self) -> None:
        """Connect. Raises `TransportUnreachable` at once if the broker refuses the login or the
        virtual host, and after `connect_timeout` if nothing answers."""
        self._check_open()
        assert self._session is None, "opened twice"
        url = urls.parse(self._url)
        self._warn_if_unverified(url)
        problem = TransportUnreachable(
            f"{url} can't be reached: no answer within {self._connect_timeout:g} s"
        )
        attempt = 0
        try:
            async with asyncio.timeout(self._connect_timeout):
                while True:
                    try:
                        self._adopt(await self._connect(url))
                        break
                    except (Hopeless, Misconfigured):
                        raise
                    except TransportUnreachable as error:
                        if not self._insists:
                            raise
                        problem = error
                    attempt += 1
                    await asyncio.sleep(pause(attempt, self._jitter))
        except TimeoutError:
            raise problem from None
        self._usable.set()
        self._keeper = asyncio.ensure_future(self._keep_whole(url))

    def _warn_if_unverified(self, url: urls.BrokerUrl) -> None:
        with suppress(tls.TlsProblem):  # told by who connects
            if url.is_tls and not self._security.overridden(url.query).verify:
                log.warning(
                    "the certificate of %s is not checked: whoever answers there can read the "
                    "password and everything else (LEVERET_TLS_VERIFY, or no_verify_ssl)",
                    url,
                )

    async def close(self) -> None:
        """Disconnect, having written what was settled."""
        if self._closed:
            return
        self._closed = True
        self._usable.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._session is None:
            return
        if self._consumers and self._session.is_alive:
            await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        await self._session.close()

    async def declare(self, *declared: Queue | Exchange) -> None:
        for one in declared:
            await self._exchange(partial(_declare, one))
            self._declared[one.name] = one
            self._undeclared.discard(one.name)
        if any(not consumer.is_consuming for consumer in self._consumers):
            self._trouble.set()

    async def has_exchange(self, name: str) -> bool:
        return await self._exchange(lambda session: session.topology.has_exchange(name))

    async def delete(self, queue: str) -> None:
        self._declared.pop(queue, None)
        await self._exchange(lambda session: session.topology.delete(queue))

    async def inspect(self, queue: str) -> QueueStatus | None:
        return await self._exchange(lambda session: session.topology.inspect(queue))

    async def publish(self, message: Outgoing) -> None:
        (error,) = await self.publish_all([message])
        if error is not None:
            raise error

    async def publish_all(self, messages: Sequence[Outgoing]) -> Sequence[TransportError | None]:
        self._check_open()
        results: dict[int, TransportError | None] = {}
        waiting = list(range(len(messages)))
        deadline = Deadline.after(self._publish_timeout)
        attempt = 0
        while waiting:
            try:
                session = await self._usable_session(deadline)
            except TransportError as error:
                results.update(dict.fromkeys(waiting, error))
                break
            published = await session.publisher.publish(
                [
                    messages[index] if not attempt else messages[index].as_copy()
                    for index in waiting
                ],
                deadline,
            )
            if not (attempt or any(published)):
                return [None] * len(messages)
            lost: list[int] = []
            for index, result in zip(waiting, published, strict=True):
                if isinstance(result, Unconfirmed):
                    lost.append(index)
                else:
                    results[index] = result
            if any(isinstance(result, Expired) for result in published):
                await self._give_up(session)
            waiting = lost
            if waiting:
                attempt += 1
                await self._after_loss(session, attempt, deadline)
        return [results[index] for index in range(len(messages))]

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> Consumer:
        consumer = RabbitConsumer(
            queue, on_delivery, prefetch=prefetch, on_end=self._on_consumer_loss
        )
        await self._exchange(lambda session: consumer.subscribe(session.consuming))
        self._consumers = [other for other in self._consumers if not other.is_over]
        self._consumers.append(consumer)
        if not consumer.is_consuming:  # lost before it was among those that are looked after
            self._trouble.set()
        return consumer

    def on_loss(self, callback: Callable[[], None]) -> None:
        self._loss_callbacks.append(callback)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    # -- using the session ------------------------------------------------------------------------

    async def _exchange(self, ask: Callable[[Session], Awaitable[T]]) -> T:
        """Ask the broker something, again and again if the connection is lost meanwhile."""
        deadline = Deadline.after(self._publish_timeout)
        attempt = 0
        while True:
            session = await self._usable_session(deadline)
            try:
                return await ask(session)
            except ConnectionLost:
                attempt += 1
                await self._after_loss(session, attempt, deadline)

    async def _usable_session(self, deadline: Deadline) -> Session:
        self._check_open()
        if self._keeper is None:
            raise TransportClosed("the transport was not opened")
        if not self._usable.is_set():
            try:
                async with asyncio.timeout_at(deadline.at):
                    await self._usable.wait()
            except TimeoutError:
                raise Expired(
                    f"no connection to {urls.redact(self._url)} for {deadline.timeout:g} s"
                ) from None
        if deadline.is_over:  # while there is a connection: what was asked is lost each time
            raise Expired(
                f"{urls.redact(self._url)} answered nothing within {deadline.timeout:g} s"
            )
        self._check_open()
        assert self._session is not None
        return self._session

    async def _after_loss(self, session: Session, attempt: int, deadline: Deadline) -> None:
        if session.is_alive:  # only a channel was lost: the next use opens another
            await asyncio.sleep(min(pause(attempt, self._jitter), deadline.remaining))
        else:
            self._on_loss(session)

    async def _give_up(self, session: Session) -> None:
        """A broker that confirms nothing may do so on this connection only.

        A quorum queue that broke blocks the connection that publishes to it, for all queues.
        """
        if session is self._session and session.is_alive:
            log.warning("the broker confirmed nothing in time: connecting anew")
            await session.close()
            self._on_loss(session)

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed("the transport is closed")

    # -- keeping it whole -------------------------------------------------------------------------

    async def _keep_whole(self, url: urls.BrokerUrl) -> None:
        failures = 0
        while True:
            if self._is_alive:
                await self._wait_for_trouble(pause(failures, self._jitter) if failures else None)
            if not self._is_alive:
                await asyncio.sleep(self._backoff.next_pause())
            self._trouble.clear()
            failures = 0 if await self._try_to_repair(url) else failures + 1

    @property
    def _is_alive(self) -> bool:
        return self._session is not None and self._session.is_alive

    async def _wait_for_trouble(self, longest: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._trouble.wait()

    async def _try_to_repair(self, url: urls.BrokerUrl) -> bool:
        """Put right what is lost, as far as it can be. Returns whether all is."""
        try:
            whole = await self._repair(url)
        except TransportUnreachable as error:
            self._reason = str(error)
            log.warning("%s; trying again", error)
            return False
        except ConnectionLost:
            return False
        except Exception:
            log.exception("repairing the connection to %s failed; trying again", url)
            return False
        if self._something_came_back:
            self._something_came_back = False
            call_each(self._callbacks)
        return whole

    async def _repair(self, url: urls.BrokerUrl) -> bool:
        session = self._session
        if session is None or not session.is_alive:
            session = await self._reconnect(url)
            log.info("connected again to %s", url)
        return await self._restore(session)

    async def _reconnect(self, url: urls.BrokerUrl) -> Session:
        if self._session is not None:
            await self._session.close()
        try:
            async with asyncio.timeout(self._connect_timeout):
                session = await self._connect(url)
        except TimeoutError:
            raise TransportUnreachable(f"{url} does not answer") from None
        self._something_came_back = True
        self._undeclared.update(self._declared)
        self._adopt(session)
        return session

    async def _restore(self, session: Session) -> bool:
        """Declare again what was declared, then consume again. Returns whether all succeeded.

        Raises `ConnectionLost`.
        """
        lost = [one for one in self._consumers if not (one.is_consuming or one.is_cancelled)]
        missing = {consumer.queue for consumer in lost}
        self._undeclared.update(missing)
        for declared in self._declared.values():
            if isinstance(declared, Exchange) and missing.intersection(declared.queues):
                self._undeclared.add(declared.name)  # bindings go with their queue
        problems = await self._declare_again(session)
        self._usable.set()
        outcomes = await asyncio.gather(
            *(consumer.subscribe(session.consuming) for consumer in lost), return_exceptions=True
        )
        if any(consumer.is_consuming for consumer in lost):
            self._something_came_back = True
        for outcome in outcomes:
            if isinstance(outcome, TransportError):
                problems.append(outcome)
            elif outcome is not None:
                raise outcome
        self._unrestored = problems
        for problem in problems:
            log.warning("%s; trying again", problem)
        return not problems

    async def _declare_again(self, session: Session) -> list[TransportError]:
        """Declare what may be missing; what is refused stays to be tried again."""
        self._undeclared &= self._declared.keys()
        problems: list[TransportError] = []
        for one in [self._declared[name] for name in self._declared if name in self._undeclared]:
            try:
                await session.topology.declare(one)
                self._undeclared.discard(one.name)
            except TransportError as error:
                problems.append(error)
        return problems

    async def _connect(self, url: urls.BrokerUrl) -> Session:
        security = self._security
        publishing = await connect(url, name=f"{self._name} publishing", security=security)
        try:
            consuming = await connect(url, name=f"{self._name} consuming", security=security)
        except BaseException:
            await say_goodbye(publishing)
            raise
        return Session(publishing, consuming, replicated=self._replicated)

    def _adopt(self, session: Session) -> None:
        self._session = session
        for connection in (session.publishing, session.consuming):
            on_close(connection, lambda: self._on_loss(session))
        self._backoff.connected()

    def _on_loss(self, session: Session) -> None:
        if session is self._session and not self._closed:
            if self._usable.is_set():
                self._down_since = self._clock()
                self._reason = f"the connection to {urls.redact(self._url)} was lost"
            self._usable.clear()
            self._trouble.set()
            call_each(self._loss_callbacks)

    def _on_consumer_loss(self) -> None:
        self._trouble.set()
        call_each(self._loss_callbacks)


async def _declare(declared: Queue | Exchange, session: Session) -> None:
    await session.topology.declare(declared)
