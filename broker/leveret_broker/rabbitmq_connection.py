"""One exchange with RabbitMQ at a time: connecting, calling, and what the failures mean.

aiormq answers a lost connection with whatever ended its reader, and that may be `CancelledError`.
Awaited directly it would look as if *we* had been cancelled, so every call to aiormq goes through
`call`, which runs it as a task of its own and looks at how the task ended.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import aiormq
from aiormq import exceptions

from leveret_broker import tls
from leveret_broker.errors import (
    Forbidden,
    Misconfigured,
    TransportError,
    TransportUnreachable,
)
from leveret_broker.rabbitmq_tap import Connection
from leveret_broker.urls import BrokerUrl

T = TypeVar("T")

_aiormq_log = logging.getLogger("aiormq")
if _aiormq_log.level == logging.NOTSET:  # it logs each loss as an error; we tell it, or mend it
    _aiormq_log.setLevel(logging.CRITICAL)

HEARTBEAT = 30
"""Seconds; after about three of them in silence the connection counts as lost."""
CALL_TIMEOUT = 20.0
"""Seconds for one exchange with the broker, such as declaring a queue."""
CLOSE_TIMEOUT = 3.0
"""Seconds for a polite goodbye."""


class Closable(Protocol):
    """A connection or a channel."""

    @property
    def is_closed(self) -> bool: ...
    @property
    def closing(self) -> asyncio.Future[Any]: ...
    async def close(self) -> None: ...


class ConnectionLost(Exception):
    """The connection or the channel went away before the broker answered."""


class Hopeless(TransportUnreachable):
    """The broker answered and refused: trying again would change nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadline:
    """Until when to try."""

    at: float
    """On the loop's clock."""
    timeout: float
    """Seconds that it was away when it was set: what errors tell."""

    @classmethod
    def after(cls, timeout: float) -> "Deadline":
        return cls(at=asyncio.get_running_loop().time() + timeout, timeout=timeout)

    @property
    def remaining(self) -> float:
        """Seconds left, zero if it is over."""
        return max(0.0, self.at - asyncio.get_running_loop().time())

    @property
    def is_over(self) -> bool:
        return self.remaining == 0.0


async def call(coroutine: Coroutine[Any, Any, T], *, timeout: float = CALL_TIMEOUT) -> T:
    """The result of an exchange with the broker.

    Raises aiormq's error if the broker refused it, and `ConnectionLost` if there was no answer.
    """
    task = asyncio.ensure_future(coroutine)
    try:
        await asyncio.wait([task], timeout=timeout)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CLOSE_TIMEOUT)
    if not task.done() or task.cancelled():
        raise ConnectionLost("the broker did not answer")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, exceptions.ChannelClosed) and is_refusal(error):
        raise error
    if is_loss(error):
        raise ConnectionLost(str(error)) from error
    raise error


def is_refusal(error: exceptions.ChannelClosed) -> bool:
    """Whether the broker closed the channel because of what was asked of it."""
    return isinstance(
        error,
        exceptions.ChannelNotFoundEntity
        | exceptions.ChannelPreconditionFailed
        | exceptions.ChannelLockedResource
        | exceptions.ChannelAccessRefused,
    )


def is_loss(error: BaseException) -> bool:
    """Whether the error says that the connection or the channel is gone.

    aiormq raises `RuntimeError` for work on something closed, and a bare `Exception` for what was
    under way when its owner closed it.
    """
    known = exceptions.AMQPError | OSError | RuntimeError | EOFError
    return isinstance(error, known) or type(error) is Exception


def refused(what: str, error: exceptions.AMQPError) -> TransportError:
    """The broker's refusal as our own error."""
    is_forbidden = isinstance(error, exceptions.ChannelAccessRefused)
    kind = Forbidden if is_forbidden else TransportError
    return kind(f"the broker refused {what}: {reason_of(error)}")


def reason_of(error: exceptions.AMQPError) -> str:
    """What the broker said."""
    return str(error.args[0]) if error.args else type(error).__name__


async def connect(url: BrokerUrl, *, name: str, security: tls.Tls | None = None) -> Connection:
    """A connection.

    Raises `TransportUnreachable` with the reason: `Hopeless` if the broker's answer is final,
    `Misconfigured` if it was not even asked.
    """
    try:
        security = (security or tls.Tls()).overridden(url.query)
        given = await _tls_arguments(url, security)
        connection = Connection(url.with_options(heartbeat=str(HEARTBEAT), name=name), **given)
    except tls.TlsProblem as error:
        raise Misconfigured(f"{url} can't be used: {error}") from error
    except ValueError:  # it may quote the password, so it is no cause here
        raise Misconfigured(f"{url} is no broker URL") from None
    task = asyncio.ensure_future(_dial(connection))
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task], timeout=CLOSE_TIMEOUT)
        raise
    if not task.cancelled() and task.exception() is None:
        return connection
    failure = None if task.cancelled() else task.exception()
    if not url.is_tls and _was_cut_off(failure) and await tls.answers(url.host, url.port):
        raise Hopeless(
            f"{url} can't be used: what listens there speaks TLS: write amqps://, or give the port "
            "of the plain listener (5672 by custom)"
        )
    raise _unreachable(url, failure, security) from failure


async def _tls_arguments(url: BrokerUrl, security: tls.Tls) -> dict[str, Any]:
    """What aiormq hands on to asyncio. Without a context of ours it would make one of its own."""
    if url.is_tls:
        context = await asyncio.to_thread(security.context)
        return {"context": context, "server_hostname": security.server_name or url.host}
    if security.is_given:
        raise tls.TlsProblem(
            "settings for TLS are given (LEVERET_TLS_…, or parameters), and this URL is for plain "
            "connections: write amqps://, or unset them"
        )
    return {}


async def _dial(connection: aiormq.abc.AbstractConnection) -> None:
    await connection.connect()


async def open_channel(
    connection: aiormq.abc.AbstractConnection, *, confirms: bool = False
) -> aiormq.Channel:
    """Another channel of the connection. Raises `ConnectionLost`."""
    channel = await call(connection.channel(publisher_confirms=confirms))
    assert isinstance(channel, aiormq.Channel)
    return channel


def _unreachable(
    url: BrokerUrl, error: BaseException | None, security: tls.Tls
) -> TransportUnreachable:
    match _cause_of(error):
        case exceptions.ProbableAuthenticationError():
            return Hopeless(f"{url} refused the login of {_who(url, security)}")
        case exceptions.AuthenticationError() as reason:
            return Hopeless(
                f"{url} refused the login of {_who(url, security)}: it offers the mechanisms "
                f"{str(reason.args[0]).replace(' ', ', ')}"
            )
        case ssl.SSLError() as reason:
            name = security.server_name or url.host
            if told := tls.meaning(reason, name=name, tls=security):
                return Hopeless(f"{url} can't be used: {told}")
            return TransportUnreachable(f"{url} can't be reached: TLS failed ({reason.reason})")
        case exceptions.InvalidFrameError():
            return Hopeless(
                f"{url} refused the virtual host {url.vhost!r}: it does not exist, "
                f"or {_who(url, security)} may not use it"
            )
        case exceptions.ProtocolSyntaxError() | exceptions.IncompatibleProtocolError():
            return Hopeless(f"{url} is reachable, but what answers there speaks no AMQP 0-9-1")
        case socket.gaierror():
            return TransportUnreachable(f"{url} can't be reached: unknown host {url.host!r}")
        case ConnectionRefusedError():
            return TransportUnreachable(
                f"{url} can't be reached: nothing listens at {url.host}:{url.port}"
            )
        case OSError() as reason if reason.strerror:
            return TransportUnreachable(f"{url} can't be reached: {reason.strerror}")
        case _ as reason:
            kind = type(reason).__name__ if reason else "no answer"
            return TransportUnreachable(f"{url} can't be reached: the connection broke ({kind})")


def _cause_of(error: BaseException | None) -> BaseException | None:
    """What the operating system or OpenSSL said, if it did, below what aiormq wrapped it in."""
    cause = error
    while isinstance(cause, exceptions.AMQPError):
        cause = cause.__cause__  # of aiormq's own refusals it is a cancellation, or nothing
    return cause if isinstance(cause, OSError) else error


def _was_cut_off(error: BaseException | None) -> bool:
    """Whether something listened, and had no answer to the beginning of AMQP."""
    if isinstance(error, exceptions.ProbableAuthenticationError):
        return False
    cut_off = exceptions.AMQPConnectionError | exceptions.InvalidFrameError
    return isinstance(error, cut_off) and not isinstance(
        _cause_of(error), ConnectionRefusedError | socket.gaierror
    )


def _who(url: BrokerUrl, security: tls.Tls) -> str:
    if url.query.get("auth", "").upper() == "EXTERNAL":
        return f"the user of the certificate {security.cert}"
    return f"user {url.user!r}"


async def say_goodbye(*closing: Closable, timeout: float = CLOSE_TIMEOUT) -> None:
    """Close connections or channels; what doesn't answer in time is left to die."""
    tasks = [asyncio.ensure_future(one.close()) for one in closing if not one.is_closed]
    if not tasks:
        return
    for task in tasks:
        task.add_done_callback(_read_exception)
    try:
        _, hanging = await asyncio.wait(tasks, timeout=timeout)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    for task in hanging:
        task.cancel()
    if hanging:
        await asyncio.wait(hanging, timeout=timeout)


def _read_exception(task: asyncio.Future[None]) -> None:
    """Whatever ended it, it is closed; unread, asyncio would report it as forgotten."""
    if not task.cancelled():
        task.exception()


def until_closed(closing: Closable) -> asyncio.Future[Any]:
    """A future that is done once the connection or channel is closed, by whomever."""
    return closing.closing


def on_close(closing: Closable, callback: Callable[[], None]) -> None:
    """Call back once it is closed, by whomever."""
    until_closed(closing).add_done_callback(lambda _: callback())
