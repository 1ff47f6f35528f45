"""A transport, and a connection to the catalog, that fail where a test says."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from leveret_broker.errors import BrokerBlocked, Expired, Refused, TransportError
from leveret_broker.transport import (
    Consumer,
    Delivery,
    Exchange,
    Outgoing,
    Queue,
    QueueStatus,
    Transport,
)
from leveret_coordinator.statements import Connection

T = TypeVar("T")


class Crash(BaseException):
    """The process is gone at this point: nobody may catch it."""


class CrashingTransport:
    """Lets a number of operations pass, and dies in the next one, before or after it is done."""

    def __init__(
        self, inner: Transport, *, after: int, is_done: bool = False, is_durable: bool = True
    ) -> None:
        self._inner = inner
        self._left = after
        self._is_done = is_done
        self._is_durable = is_durable
        self.has_crashed = False

    @property
    def is_durable(self) -> bool:
        return self._is_durable

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        await self._inner.close()

    async def declare(self, *declared: Queue | Exchange) -> None:
        dies = self._count()
        await self._inner.declare(*declared)
        self._die_if(dies)

    async def has_exchange(self, name: str) -> bool:
        return await self._inner.has_exchange(name)

    async def delete(self, queue: str) -> None:
        await self._inner.delete(queue)

    async def publish(self, message: Outgoing) -> None:
        dies = self._count()
        await self._inner.publish(message)
        self._die_if(dies)

    async def publish_all(self, messages: Sequence[Outgoing]) -> Sequence[TransportError | None]:
        dies = self._count()
        errors = await self._inner.publish_all(messages)
        self._die_if(dies)
        return errors

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> Consumer:
        dies = self._count()
        consumer = await self._inner.consume(
            queue,
            lambda delivery: on_delivery(CrashingDelivery(delivery, self.settle)),
            prefetch=prefetch,
        )
        self._die_if(dies)
        return consumer

    def settle(self, verb: Callable[[], None]) -> None:
        """Settling is an operation as well: the broker hears of it, or it doesn't."""
        dies = self._count()
        verb()
        self._die_if(dies)

    async def inspect(self, queue: str) -> QueueStatus | None:
        return await self._inner.inspect(queue)

    def on_loss(self, callback: Callable[[], None]) -> None:
        self._inner.on_loss(callback)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._inner.on_reconnect(callback)

    def _count(self) -> bool:
        """Whether this operation is the last; dies at once if it is not to be done."""
        if self.has_crashed:
            raise Crash
        self._left -= 1
        self._die_if(self._left < 0 and not self._is_done)
        return self._left < 0

    def _die_if(self, dies: bool) -> None:
        if dies:
            self.has_crashed = True
            raise Crash


class CrashingDelivery:
    """A delivery whose settling is an operation of the transport that brought it."""

    def __init__(self, inner: Delivery, settle: Callable[[Callable[[], None]], None]) -> None:
        self._inner = inner
        self._settle = settle

    @property
    def body(self) -> bytes:
        return self._inner.body

    @property
    def queue(self) -> str:
        return self._inner.queue

    @property
    def exchange(self) -> str:
        return self._inner.exchange

    @property
    def correlation_id(self) -> str | None:
        return self._inner.correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._inner.headers

    @property
    def redelivered(self) -> bool:
        return self._inner.redelivered

    def ack(self) -> None:
        self._settle(self._inner.ack)

    def nack(self) -> None:
        self._inner.nack()

    def reject(self) -> None:
        self._settle(self._inner.reject)


class RefusingTransport(CrashingTransport):
    """Its publications fail with errors given beforehand, one a call, or for what they are."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner, after=1_000_000)
        self.errors: list[Exception] = []
        self.declares = True
        self.full: set[str] = set()
        """Queues that take nothing for now."""
        self.largest: int | None = None
        """Bytes of the largest message that is taken."""
        self.refused: list[Outgoing] = []
        """What was larger."""

    async def declare(self, *declared: Queue | Exchange) -> None:
        if not self.declares:
            raise Expired("the broker did not answer")
        await super().declare(*declared)

    async def publish_all(self, messages: Sequence[Outgoing]) -> Sequence[TransportError | None]:
        if not self.errors:
            mine = [self._refusal(message) for message in messages]
            taken = [message for message, error in zip(messages, mine, strict=True) if not error]
            theirs = iter(await super().publish_all(taken) if taken else ())
            return [error or next(theirs) for error in mine]
        error = self.errors.pop(0)
        if isinstance(error, TransportError):
            return [error] * len(messages)
        raise error

    def _refusal(self, message: Outgoing) -> TransportError | None:
        if message.queue in self.full:
            return BrokerBlocked("the queue is full")
        if self.largest is not None and len(message.body) > self.largest:
            self.refused.append(message)
            return Refused(f"over {self.largest} bytes")
        return None


class FailingConnection:
    """A connection to the catalog whose statements fail while a test says so."""

    def __init__(self, inner: Connection) -> None:
        self._inner = inner
        self.fails_at: str | None = None
        """What is in the statements that fail."""
        self.failures = 0

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._inner.run(
            lambda connection: work(cast(sqlite3.Connection, _Failing(connection, self)))
        )

    def check(self, sql: str) -> None:
        """Raise what the disk would, if this statement is to fail."""
        if self.fails_at is not None and self.fails_at in sql:
            self.failures += 1
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

    async def close(self) -> None:
        await self._inner.close()


class _Failing:
    """The connection on its thread."""

    def __init__(self, inner: sqlite3.Connection, owner: FailingConnection) -> None:
        self._inner = inner
        self._owner = owner

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        self._owner.check(sql)
        return self._inner.execute(sql, parameters)

    @property
    def row_factory(self) -> Any:
        return self._inner.row_factory

    @row_factory.setter
    def row_factory(self, factory: Any) -> None:
        self._inner.row_factory = factory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
