"""A broker that speaks just enough AMQP to be told frame by frame what to say.

It answers what a client has to ask, and what a test wants to happen it is given to send. It keeps
the rules that a real one breaks a connection for, and notes who breaks them.
"""

import asyncio
from collections.abc import Callable

import pamqp.frame
from pamqp import commands as spec
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader, ProtocolHeader

from tests.broker.worlds import PATIENCE

FRAME_MAX = 4096

Any_ = Frame | ContentHeader | ContentBody

ANSWERS: dict[type[Frame], Callable[[], Frame]] = {
    spec.Connection.StartOk: lambda: spec.Connection.Tune(
        channel_max=2047, frame_max=FRAME_MAX, heartbeat=60
    ),
    spec.Connection.Open: spec.Connection.OpenOk,
    spec.Connection.Close: spec.Connection.CloseOk,
    spec.Channel.Open: spec.Channel.OpenOk,
    spec.Channel.Close: spec.Channel.CloseOk,
    spec.Confirm.Select: spec.Confirm.SelectOk,
    spec.Basic.Qos: spec.Basic.QosOk,
    spec.Basic.Consume: lambda: spec.Basic.ConsumeOk(consumer_tag="consumer"),
    spec.Basic.Cancel: lambda: spec.Basic.CancelOk(consumer_tag="consumer"),
    spec.Exchange.Declare: spec.Exchange.DeclareOk,
}


def marshal(channel: int, *said: Any_) -> bytes:
    return b"".join(pamqp.frame.marshal(one, channel) for one in said)


def content(
    method: Frame,
    body: bytes = b"",
    *,
    properties: spec.Basic.Properties | None = None,
    frame_max: int = FRAME_MAX,
) -> list[Any_]:
    """A message's frames."""
    most = frame_max - 8
    parts = [body[at : at + most] for at in range(0, len(body), most)]
    header = ContentHeader(body_size=len(body), properties=properties)
    return [method, header, *map(ContentBody, parts)]


def delivery(tag: int, body: bytes = b"") -> list[Any_]:
    method = spec.Basic.Deliver(
        consumer_tag="consumer", delivery_tag=tag, exchange="", routing_key="q"
    )
    return content(method, body)


def closing(code: int, text: str) -> Frame:
    """The broker closes a channel."""
    return spec.Channel.Close(reply_code=code, reply_text=text, class_id=60, method_id=40)


class ScriptedBroker:
    """Takes one connection at a time."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Any_]] = []
        """What clients said, with the channel, apart from heartbeats."""
        self.violations: list[str] = []
        self.also: Callable[[int, Frame], bytes] = lambda channel, method: b""
        """What to say, in the same piece, after the answer to a method."""
        self.reads = asyncio.Event()
        self.reads.set()
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed: set[int] = set()  # channels that the client may not write to
        self._bytes = 0
        self._arrived = asyncio.Event()

    async def start(self) -> str:
        """Its URL."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"amqp://guest:guest@127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        if self._writer is not None:
            self._writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def say(self, channel: int, *said: Any_) -> None:
        self.say_bytes(marshal(channel, *said))

    def say_bytes(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    async def drain(self) -> None:
        assert self._writer is not None
        await self._writer.drain()

    def hang_up(self) -> None:
        assert self._writer is not None
        self._writer.transport.abort()

    def count(self, kind: type[Any_]) -> int:
        return sum(isinstance(one, kind) for _, one in self.heard)

    async def hears(self, kind: type[Any_], number: int = 1) -> int:
        """Wait until so many of a kind were heard; the channel of the last."""
        async with asyncio.timeout(PATIENCE):
            while self.count(kind) < number:
                self._arrived.clear()
                await self._arrived.wait()
        return [channel for channel, one in self.heard if isinstance(one, kind)][-1]

    async def hears_bytes(self, number: int) -> int:
        """Wait until so many bytes of bodies were heard; the channel of the last frame."""
        async with asyncio.timeout(PATIENCE):
            while self._bytes < number:
                self._arrived.clear()
                await self._arrived.wait()
        return self.heard[-1][0]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writer = writer
        try:
            assert await reader.readexactly(8) == ProtocolHeader().marshal()
            self.say(0, _start())
            while True:
                self._take(*await self._read(reader))
        except (OSError, EOFError):
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, Any_ | None]:
        await self.reads.wait()
        head = await reader.readexactly(7)
        rest = await reader.readexactly(int.from_bytes(head[3:]) + 1)
        _, channel, said = pamqp.frame.unmarshal(head + rest)
        return channel, said if isinstance(said, Any_) else None

    def _take(self, channel: int, said: Any_ | None) -> None:
        if said is None:
            return
        self._check(channel, said)
        self.heard.append((channel, said))
        self._bytes += len(said.value) if isinstance(said, ContentBody) else 0
        self._arrived.set()
        if isinstance(said, Frame) and (answer := ANSWERS.get(type(said))):
            self.say_bytes(marshal(channel, answer()) + self.also(channel, said))

    def _check(self, channel: int, said: Any_) -> None:
        if isinstance(said, spec.Channel.Open):
            self._closed.discard(channel)
        elif channel in self._closed:
            self.violations.append(f"{said!r} on channel {channel}, which is closed")
        if isinstance(said, spec.Channel.Close | spec.Channel.CloseOk):
            self._closed.add(channel)


def _start() -> Frame:
    return spec.Connection.Start(
        mechanisms="PLAIN",
        locales="en_US",
        server_properties={
            "capabilities": {
                "publisher_confirms": True,
                "basic.nack": True,
                "consumer_cancel_notify": True,
            }
        },
    )
