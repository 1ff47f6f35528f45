"""A connection of aiormq whose busiest frames take a shorter way.

aiormq dials, logs in, keeps the heartbeats, and opens, asks and closes channels. What each message
needs costs too much there, in tasks, futures and system calls, so a `Tap` stands between the socket
and aiormq's stream reader. The rules:

- A *lane* is a channel whose messages, confirms and settlements are handled here. Their frames
  never reach aiormq; all other frames do, unchanged and in order.
- Both sides write whole frames, and aiormq writes no message to a lane's channel, so the frames may
  mix as they like. What is written during one turn of the loop leaves in one piece.
- After a channel's close nothing may be written to it: the broker would break the connection. So a
  lane is shut as soon as the frame is seen, before aiormq hears of it and answers.
- aiormq counts the frames that it reads as the broker's signs of life, and a busy broker sends no
  heartbeats. So while only lanes hear of it, aiormq is given a heartbeat now and then.
- Bytes that are no frames are aiormq's to complain about.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

import aiormq
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from leveret_broker import rabbitmq_frames as frames

READ_LIMIT = 1 << 16
"""Bytes that wait for aiormq before it pauses the socket, twice; asyncio's own default."""
WRITE_LIMIT = 1 << 18
"""Bytes that wait to be written at which who publishes waits for room."""
SIGN_OF_LIFE_EVERY = 1.0
"""Seconds between heartbeats that aiormq is given while frames come that it does not see."""

_KINDS = (frames.METHOD, frames.HEADER, frames.BODY, frames.HEARTBEAT)
_LARGEST = 1 << 27
"""Bytes that no frame has: what seems longer is none."""


class Lane:
    """The messages, confirms and settlements of one channel; who uses it says what they mean."""

    def __init__(self, tap: "Tap", number: int) -> None:
        self.tap = tap
        self.number = number
        self.is_shut = False
        """Nothing may be written any more: the channel is being closed, or the connection is."""
        self.is_due = False
        """It is asked for what to write at the end of this turn."""
        self._method: bytes | None = None  # of a message that is not complete
        self._header = b""
        self._parts: list[memoryview] = []
        self._missing = 0  # bytes of its body

    # -- for who uses it --------------------------------------------------------------------------

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """A message was delivered, or returned: then the method says so."""

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        """What was published up to this tag, or under it, was taken or not."""

    def on_cancel(self) -> None:
        """The broker cancelled the channel's consumer."""

    def on_room(self) -> None:
        """There is room to write again."""

    def collect(self) -> Iterable[frames.Piece]:
        """What to write now, asked for by `Tap.is_due`."""
        return ()

    # -- for the tap ------------------------------------------------------------------------------

    def shut(self) -> None:
        self.is_shut = True

    def receive(self, kind: int, data: bytes, start: int, stop: int) -> bool:
        """Take a frame's payload, or return that it is not for lanes."""
        if kind == frames.METHOD:
            return self._on_method(data, start, stop)
        if self._method is None:
            return False
        if kind == frames.HEADER:
            self._header = data[start:stop]
            self._missing = frames.body_size(self._header)
            if not self._missing:
                self._complete(b"")
        elif kind == frames.BODY:
            self._on_body(data, start, stop)
        return True

    def _on_method(self, data: bytes, start: int, stop: int) -> bool:
        (code,) = frames.CODE.unpack_from(data, start)
        if code in (frames.DELIVER, frames.RETURN):
            self._method = data[start:stop]
            return True
        if code in (frames.ACK, frames.NACK):
            tag, bits = frames.CONFIRM.unpack_from(data, start + 4)
            self.on_confirm(tag, multiple=bool(bits & 1), taken=code == frames.ACK)
            return True
        if code == frames.CANCEL:
            self.on_cancel()
        elif code in (frames.CHANNEL_CLOSE, frames.CHANNEL_CLOSE_OK):
            self.tap.remove(self)
        return False

    def _on_body(self, data: bytes, start: int, stop: int) -> None:
        self._missing -= stop - start
        if self._missing > 0:
            self._parts.append(memoryview(data)[start:stop])
        elif self._parts:
            self._parts.append(memoryview(data)[start:stop])
            body = b"".join(self._parts)
            self._parts.clear()
            self._complete(body)
        else:
            self._complete(data[start:stop])

    def _complete(self, body: bytes) -> None:
        method, self._method = self._method, None
        assert method is not None
        self.on_message(method, self._header, body)


class Tap(asyncio.Protocol):
    """What asyncio calls for a connection, in the place of aiormq's stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, clock: Callable[[], float]) -> None:
        self.reader = asyncio.StreamReader(READ_LIMIT, loop=loop)
        self.stream = asyncio.StreamReaderProtocol(self.reader, loop=loop)
        self.is_blocked = False
        """The broker has said that it takes no messages."""
        self.is_full = False
        """Who publishes has to wait for room."""
        self._loop = loop
        self._clock = clock
        self._transport: asyncio.WriteTransport | None = None
        self._lanes: dict[int, Lane] = {}
        self._unblocked = asyncio.Event()
        self._unblocked.set()
        self._rest: list[bytes] = []  # the beginning of a frame
        self._held = 0  # bytes of it
        self._needed = 1  # bytes to have before anything can be said of it
        self._is_garbled = False
        self._next_sign = 0.0
        self._out: list[frames.Piece] = []
        self._waiting = 0  # bytes in it
        self._due: list[Lane] = []
        self._is_scheduled = False

    # -- lanes ------------------------------------------------------------------------------------

    def add(self, lane: Lane) -> None:
        """Handle the hot frames of a channel here from now on."""
        self._lanes[lane.number] = lane
        if self._transport is None or self._transport.is_closing():
            lane.shut()

    def remove(self, lane: Lane) -> None:
        """The channel is closed, or about to be."""
        if self._lanes.get(lane.number) is lane:
            del self._lanes[lane.number]
        lane.shut()

    async def until_unblocked(self) -> None:
        await self._unblocked.wait()

    # -- writing ----------------------------------------------------------------------------------

    @property
    def unwritten(self) -> int:
        """Bytes that the system has not taken yet."""
        held = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._waiting + held

    def write(self, pieces: list[frames.Piece], size: int) -> None:
        """Write whole frames with this turn of the loop, or at once if there is much."""
        self._out += pieces
        self._waiting += size
        if self._waiting >= WRITE_LIMIT:
            self._flush()
        elif not self._is_scheduled:
            self._schedule()

    def ask(self, lane: Lane) -> None:
        """Have a lane write what it has gathered at the end of this turn."""
        if not lane.is_due:
            lane.is_due = True
            self._due.append(lane)
            if not self._is_scheduled:
                self._schedule()

    def flush(self) -> None:
        """Write at once what this turn would write."""
        due, self._due = self._due, []
        for lane in due:
            lane.is_due = False
            self._out += lane.collect()
        self._flush()

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_scheduled = False
        self.flush()

    def _flush(self) -> None:
        out, self._out = self._out, []
        self._waiting = 0
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    # -- reading ----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_garbled:
            self.reader.feed_data(data)
            return
        if self._rest:
            self._rest.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return
            data = b"".join(self._rest)
            self._rest.clear()
        self._split(data)

    def _split(self, data: bytes) -> None:
        """Hand out all whole frames, and keep the beginning of the next."""
        lanes = self._lanes
        size = len(data)
        at = cold = 0  # the frame, and the first one that aiormq has not been given
        was_hot = False
        needed = frames.OVERHEAD
        while at < size:
            if data[at] not in _KINDS:
                self._is_garbled = True
                break
            if size - at < frames.OVERHEAD:
                break
            kind, channel, length = frames.FRAME.unpack_from(data, at)
            end = at + frames.OVERHEAD + length
            if length > _LARGEST or (end <= size and data[end - 1] != frames.END):
                self._is_garbled = True
                break
            if end > size:
                needed = end - at
                break
            lane = lanes.get(channel)
            if lane is not None and lane.receive(kind, data, at + 7, end - 1):
                was_hot = True
                if cold < at:
                    self.reader.feed_data(data[cold:at])
                cold = end
            elif channel == 0 and kind == frames.METHOD:
                self._note(data, at + 7)
            at = end
        self._keep(data, cold, at, needed)
        if was_hot:
            self._give_sign_of_life()

    def _keep(self, data: bytes, cold: int, at: int, needed: int) -> None:
        """Give aiormq the frames that are left, and keep what is not a whole one."""
        stop = len(data) if self._is_garbled else at
        if cold < stop:
            self.reader.feed_data(data[cold:stop])
        if stop < len(data):
            self._rest.append(data[stop:])
        self._held, self._needed = len(data) - stop, needed

    def _note(self, data: bytes, start: int) -> None:
        (code,) = frames.CODE.unpack_from(data, start)
        if code == frames.CONNECTION_BLOCKED:
            self.is_blocked = True
            self._unblocked.clear()
        elif code == frames.CONNECTION_UNBLOCKED:
            self.is_blocked = False
            self._unblocked.set()

    def _give_sign_of_life(self) -> None:
        now = self._clock()
        if now >= self._next_sign and not self._is_garbled:
            self._next_sign = now + SIGN_OF_LIFE_EVERY
            self.reader.feed_data(frames.HEARTBEAT_FRAME)

    # -- the connection ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are no subclasses
        self._transport.set_write_buffer_limits(WRITE_LIMIT)
        self.stream.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up_rest()
        self.stream.connection_lost(exc)
        for lane in list(self._lanes.values()):
            self.remove(lane)

    def eof_received(self) -> bool | None:
        self._give_up_rest()
        return self.stream.eof_received()

    def pause_writing(self) -> None:
        self.is_full = True
        self.stream.pause_writing()

    def resume_writing(self) -> None:
        self.is_full = False
        self.stream.resume_writing()
        for lane in list(self._lanes.values()):
            lane.on_room()

    def _give_up_rest(self) -> None:
        """A frame that will never be whole: aiormq knows how to complain."""
        for part in self._rest:
            self.reader.feed_data(part)
        self._rest.clear()


class Connection(aiormq.Connection):
    """A connection of aiormq with a tap."""

    def __init__(self, url: URL | str, **given: Any) -> None:
        self._dialler = _Dialler()
        super().__init__(url, transport_factory=self._dialler, **given)

    @property
    def tap(self) -> Tap:
        """There is one as soon as it is connected."""
        assert self._dialler.tap is not None, "not connected"
        return self._dialler.tap


class _Dialler(TransportFactory):
    """Opens the socket as aiormq's own factories do, with a tap in front of the stream."""

    def __init__(self) -> None:
        self.tap: Tap | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = kwargs.pop("ssl_context_provider")
        context: ssl.SSLContext | None = None
        if url.scheme == "amqps":
            context = await provider.get_context()
        assert url.host is not None
        assert url.port is not None  # aiormq filled it in
        loop = asyncio.get_running_loop()
        tap = Tap(loop, clock=loop.time)
        try:
            transport, _ = await loop.create_connection(
                lambda: tap, url.host, url.port, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self.tap = tap
        return tap.reader, asyncio.StreamWriter(transport, tap.stream, tap.reader, loop)
