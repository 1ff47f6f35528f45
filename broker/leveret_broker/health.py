"""How a service tells whether it does its work, to who asks: `leveret health`.

It listens on a socket in the run directory, and tells each who connects how it is at that moment. A
process that has died, is stopped, or whose event loop is stuck tells nothing, so nothing has to be
inferred from how old something is, or from a process id, which means nothing in another container.
"""

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from leveret_broker import logs, run_directory
from leveret_broker.lifecycle import Service

log = logs.get_logger("leveret")

ANSWER_WITHIN = 1.5
"""Seconds after which a service that has no verdict yet says that it waits for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """How a service is, at one moment."""

    text: str
    """A sentence without its subject: what it does, or what is wrong since when."""
    is_ready: bool
    """It is connected to the broker, and consumes its queues."""
    is_live: bool = True
    """Waiting, or being mended from outside, may make it ready. If not, restart it."""


class Watched(Service, Protocol):
    """A service that knows how it is."""

    async def condition(self) -> Condition:
        """How it is now. May be asked at any time, before the start and after the stop as well."""
        ...


class Answering:
    """A service that answers who asks how it is, from before its start until after its stop."""

    def __init__(
        self, kind: str, service: Watched, environment: Mapping[str, str] = os.environ
    ) -> None:
        """`kind`: what it is called, `worker`."""
        self._kind = kind
        self._service = service
        self._environment = environment
        self._path: Path | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        await self._listen()
        try:
            await self._service.start()
        except BaseException:
            await self._close()
            raise

    async def stop(self) -> None:
        try:
            await self._service.stop()
        finally:
            await self._close()

    async def _listen(self) -> None:
        """A service that can't be asked does its work all the same."""
        try:
            folder = run_directory.prepare(self._environment)
            _sweep(folder)
            self._path = folder / f"{self._kind}-{secrets.token_hex(4)}{run_directory.SUFFIX}"
            self._server = await asyncio.start_unix_server(self._answer, sock=_bound(self._path))
        except (OSError, run_directory.NoRunDirectory) as error:
            log.warning(
                "`leveret health` can't ask this process: give it a folder that it may write to",
                variable=run_directory.VARIABLE,
                reason=str(error),
            )

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # who asked has gone
            try:
                answer = {"kind": self._kind, "pid": os.getpid(), **asdict(await self._condition())}
                writer.write(json.dumps(answer).encode())
                await writer.drain()
            finally:
                writer.close()

    async def _condition(self) -> Condition:
        try:
            return await self._service.condition()
        except Exception as error:
            log.exception("the condition could not be told", error=str(error))
            return Condition(text=f"could not be looked at: {error!r}", is_ready=False)

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Pulse:
    """Asks the broker whether it knows that this process consumes a queue.

    A connection that was cut without a word looks whole from here until its heartbeats are missed.
    """

    def __init__(self, ask: Callable[[], Awaitable[str | None]]) -> None:
        """`ask` returns what is wrong."""
        self._ask = ask
        self._asked_at = 0.0
        self._asking: asyncio.Task[str | None] | None = None

    async def problem(self, within: float = ANSWER_WITHIN) -> str | None:
        """What is wrong, `None` if nothing is. `within`: seconds that the answer may take."""
        loop = asyncio.get_running_loop()
        if self._asking is None or self._asking.done():
            self._asked_at = loop.time()
            self._asking = asyncio.ensure_future(self._asked())
        # Never cancelled: a question that is given up halfway would spoil the channel.
        done, _ = await asyncio.wait([self._asking], timeout=within)
        if done:
            return self._asking.result()
        return f"RabbitMQ has not answered for {loop.time() - self._asked_at:.0f} s"

    async def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _asked(self) -> str | None:
        return await self._ask()


def _bound(path: Path) -> socket.socket:
    """A socket that listens. Its file appears when it does, so that nobody finds it deaf."""
    listening = socket.socket(socket.AF_UNIX)
    hidden = path.with_suffix(".new")
    try:
        listening.bind(str(hidden))
        listening.listen()
        hidden.rename(path)
    except BaseException:
        listening.close()
        hidden.unlink(missing_ok=True)
        raise
    listening.setblocking(False)
    return listening


def _sweep(folder: Path) -> None:
    """Remove what killed services have left behind."""
    for path in folder.glob(f"*{run_directory.SUFFIX}"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
            asking.setblocking(False)
            try:
                asking.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
