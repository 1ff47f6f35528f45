"""The parent's end of the socket to a child process."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable

from leveret_worker.frames import CHUNK, Inbox

CHUNKS_AT_ONCE = 16
"""To receive before the loop gets to do something else: the loop keeps heartbeats, too."""


class Channel:
    """Frames over a socket, driven by the event loop in which it was made.

    It never says that the peer has died: a process that the peer forked may hold the other end
    open. Whoever owns the peer watches for its exit, and then calls `drain` and `close`.
    """

    def __init__(self, sock: socket.socket, *, on_frame: Callable[[bytes], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_frame = on_frame
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox()
        self._unsent: deque[memoryview] = deque()
        self._was_refused = False
        self._loop.add_reader(sock, self._read)

    @property
    def is_sending(self) -> bool:
        """Whether a part of what was sent still waits for the peer to make room."""
        return bool(self._unsent)

    @property
    def was_refused(self) -> bool:
        """Whether the peer is known to have died before it read all that was sent."""
        return self._was_refused or self.is_sending

    def send(self, frame: bytes) -> None:
        """Send now what the peer has room for, and the rest as it makes room."""
        self._unsent.append(memoryview(frame))
        if len(self._unsent) == 1:
            self._write()
            if self._unsent:
                self._loop.add_writer(self._sock, self._write_on)

    def drain(self) -> None:
        """Hand out all frames that have arrived."""
        while self._receive():
            pass

    def close(self) -> None:
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()

    def _read(self) -> None:
        for _ in range(CHUNKS_AT_ONCE):
            if self._receive() < CHUNK:
                break

    def _receive(self) -> int:
        try:
            data = self._sock.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:  # a reset: the peer closed the socket with bytes in it that it never read
            self._was_refused = True
            data = b""
        if not data:
            self._loop.remove_reader(self._sock)
            return 0
        for frame in self._inbox.feed(data):
            self._on_frame(frame)
        return len(data)

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while self._unsent:
                try:
                    sent = self._sock.send(self._unsent[0])
                except (BrokenPipeError, ConnectionError):
                    self._was_refused = True
                    self._unsent.clear()
                    return
                if sent == len(self._unsent[0]):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = self._unsent[0][sent:]

    def _write_on(self) -> None:
        self._write()
        if not self._unsent:
            self._loop.remove_writer(self._sock)
