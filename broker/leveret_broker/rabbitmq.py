"""The transport over RabbitMQ.

Two connections, one to publish and one to consume, because a broker that runs out of memory blocks
the connections that publish. They live and die together: a `Session` is one pair of them, and
whatever a session held (channels, delivery tags, exclusive queues) ends with it.

One task, `_keep_whole`, puts right whatever is lost: the session, then the queues, then the
consumers. Publishing waits for it, within the publisher's own deadline.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import aiormq

from leveret_broker import urls
from leveret_broker.errors import (
    Expired,
    TransportClosed,
    TransportError,
    TransportUnreachable,
)
from leveret_broker.rabbitmq_connection import (
    ConnectionLost,
    Hopeless,
    connect,
    on_close,
    say_goodbye,
)
from leveret_broker.rabbitmq_consumer import RabbitConsumer
from leveret_broker.rabbitmq_publisher import Publisher, Unconfirmed
from leveret_broker.rabbitmq_topology import Topology
from leveret_broker.transport import Consumer, Delivery, Outgoing, Queue, QueueStatus

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


class Session:
    """A pair of connections and what hangs on them."""

    def __init__(
        self, publishing: aiormq.Connection, consuming: aiormq.Connection, *, replicated: bool
    ) -> None:
        self.publishing = publishing
        self.consuming = consuming
        self.publisher = Publisher(publishing)
        self.topology = Topology(consuming, replicated=replicated)

    @property
    def is_alive(self) -> bool:
        return not (self.publishing.is_closed or self.consuming.is_closed)

    async def close(self) -> None:
        await say_goodbye(self.publishing, self.consuming)


class RabbitTransport:
    """A `Transport` over one RabbitMQ broker.

    `publish_timeout` and `connect_timeout` are in seconds. With `replicated` off, no queue is a
    quorum queue, whatever its declaration says.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        publish_timeout: float = 30.0,
        connect_timeout: float = 10.0,
        replicated: bool = True,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._url = url
        self._name = name
        self._publish_timeout = publish_timeout
        self._connect_timeout = connect_timeout
        self._replicated = replicated
        self._jitter = jitter
        self._session: Session | None = None
        self._usable = asyncio.Event()  # the session is up, with its queues; or all is closed
        self._trouble = asyncio.Event()
        self._closed = False
        self._restored = True  # since the latest reconnect
        self._keeper: asyncio.Task[None] | None = None
        self._declared: dict[str, Queue] = {}
        self._consumers: list[RabbitConsumer] = []
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_durable(self) -> bool:
        return True

    async def open(self) -> None:
        """Connect. Raises `TransportUnreachable` at once if the broker refuses the login or the
        virtual host, and after `connect_timeout` if nothing answers."""
        self._check_open()
        assert self._session is None, "opened twice"
        url = urls.parse(self._url)
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
                    except Hopeless:
                        raise
                    except TransportUnreachable as error:
                        problem = error
                    attempt += 1
                    await asyncio.sleep(self.pause(attempt))
        except TimeoutError:
            raise problem from None
        self._usable.set()
        self._keeper = asyncio.ensure_future(self._keep_whole(url))

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

    async def declare(self, *queues: Queue) -> None:
        for queue in queues:
            await self._exchange(partial(_declare, queue))
            self._declared[queue.name] = queue
        if any(not consumer.is_consuming for consumer in self._consumers):
            self._trouble.set()

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
        deadline = self._deadline()
        attempt = 0
        while waiting:
            try:
                session = await self._usable_session(deadline)
            except TransportError as error:
                results.update(dict.fromkeys(waiting, error))
                break
            published = await session.publisher.publish(
                [messages[index] for index in waiting], timeout=self._remaining(deadline)
            )
            lost: list[int] = []
            for index, result in zip(waiting, published, strict=True):
                if isinstance(result, Unconfirmed):
                    lost.append(index)
                else:
                    results[index] = result
            waiting = lost
            if waiting:
                attempt += 1
                await self._after_loss(session, attempt)
        return [results[index] for index in range(len(messages))]

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> Consumer:
        consumer = RabbitConsumer(queue, on_delivery, prefetch=prefetch, on_end=self._trouble.set)
        await self._exchange(lambda session: consumer.subscribe(session.consuming))
        self._consumers = [other for other in self._consumers if not other.is_over]
        self._consumers.append(consumer)
        if not consumer.is_consuming:  # lost before it was among those that are looked after
            self._trouble.set()
        return consumer

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    # -- using the session ------------------------------------------------------------------------

    async def _exchange(self, ask: Callable[[Session], Awaitable[T]]) -> T:
        """Ask the broker something, again and again if the connection is lost meanwhile."""
        deadline = self._deadline()
        attempt = 0
        while True:
            session = await self._usable_session(deadline)
            try:
                return await ask(session)
            except ConnectionLost:
                attempt += 1
                await self._after_loss(session, attempt)

    async def _usable_session(self, deadline: float) -> Session:
        self._check_open()
        if self._keeper is None:
            raise TransportClosed("the transport was not opened")
        try:
            async with asyncio.timeout_at(deadline):
                await self._usable.wait()
        except TimeoutError:
            raise Expired(
                f"no connection to {urls.redact(self._url)} for {self._publish_timeout:g} s"
            ) from None
        self._check_open()
        assert self._session is not None
        return self._session

    async def _after_loss(self, session: Session, attempt: int) -> None:
        if session.is_alive:  # only a channel was lost: the next use opens another
            await asyncio.sleep(self.pause(attempt))
        else:
            self._on_loss(session)

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed("the transport is closed")

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._publish_timeout

    def _remaining(self, deadline: float) -> float:
        return max(0.0, deadline - asyncio.get_running_loop().time())

    def pause(self, attempt: int) -> float:
        """Seconds before the next attempt: exponential, the upper half of it left to chance."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 16))
        return longest * (0.5 + 0.5 * self._jitter())

    # -- keeping it whole -------------------------------------------------------------------------

    async def _keep_whole(self, url: urls.BrokerUrl) -> None:
        attempt = 0
        pause: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._trouble.wait()
            self._trouble.clear()
            if await self._repair(url):
                attempt, pause = 0, None
            else:
                attempt += 1
                pause = self.pause(attempt)

    async def _repair(self, url: urls.BrokerUrl) -> bool:
        """Put right what is lost, as far as it can be. Returns whether all is."""
        session = self._session
        try:
            if session is None or not session.is_alive:
                session = await self._reconnect(url)
            whole = await self._restore(session)
        except TransportUnreachable as error:
            log.warning("%s; trying again", error)
            return False
        except ConnectionLost:
            return False
        if not self._restored:
            self._restored = True
            log.info("connected again to %s", url)
            for callback in self._callbacks:
                callback()
        return whole

    async def _reconnect(self, url: urls.BrokerUrl) -> Session:
        self._restored = False
        if self._session is not None:
            await self._session.close()
        try:
            async with asyncio.timeout(self._connect_timeout):
                session = await self._connect(url)
        except TimeoutError:
            raise TransportUnreachable(f"{url} does not answer") from None
        self._adopt(session)
        return session

    async def _restore(self, session: Session) -> bool:
        """Declare again what was declared, then consume again. Raises `ConnectionLost`."""
        lost = [one for one in self._consumers if not (one.is_consuming or one.is_cancelled)]
        missing = {consumer.queue for consumer in lost}
        tried: list[TransportError] = []
        for queue in list(self._declared.values()):
            if self._restored and queue.name not in missing:
                continue
            try:
                await session.topology.declare(queue)
            except TransportError as error:
                tried.append(error)
        self._usable.set()
        outcomes = await asyncio.gather(
            *(consumer.subscribe(session.consuming) for consumer in lost), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, TransportError):
                tried.append(outcome)
            elif outcome is not None:
                raise outcome
        for problem in tried:
            log.warning("%s; trying again", problem)
        return not tried

    async def _connect(self, url: urls.BrokerUrl) -> Session:
        publishing = await connect(url, name=f"{self._name} publishing")
        try:
            consuming = await connect(url, name=f"{self._name} consuming")
        except BaseException:
            await say_goodbye(publishing)
            raise
        return Session(publishing, consuming, replicated=self._replicated)

    def _adopt(self, session: Session) -> None:
        self._session = session
        for connection in (session.publishing, session.consuming):
            on_close(connection, lambda: self._on_loss(session))

    def _on_loss(self, session: Session) -> None:
        if session is self._session and not self._closed:
            self._usable.clear()
            self._trouble.set()


async def _declare(queue: Queue, session: Session) -> None:
    await session.topology.declare(queue)
