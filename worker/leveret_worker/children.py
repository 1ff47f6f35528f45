"""One child process, seen from the parent."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from leveret_broker.lifecycle import LoopMailbox
from leveret_worker import frames
from leveret_worker.channel import Channel
from leveret_worker.perform import Ending

LONGEST_REPORT = 4000
"""Characters of what a child printed while it started that an error repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """How a child ended. As a text: what happened to it, as the rest of a sentence."""

    code: int
    """As `subprocess` gives it: negative for a signal."""
    was_ready: bool
    """Whether it came up at all."""
    read_nothing: bool
    """It died before it had read the last order, which therefore has not begun."""
    reason: str = ""
    """Why it did not come up."""

    def __str__(self) -> str:
        if self.was_ready:
            return _describe(self.code)
        return f"could not start: it {_describe(self.code)}{self.reason}"


class Child:
    """A child process. It is starting from the first moment on, and takes orders at once."""

    on_ending: Callable[[Ending], None]
    """Called for the answer to each order. To be set before the loop goes on, like `on_exit`."""
    on_exit: Callable[[Exit], None]
    """Called once, when the process has ended and all its answers were handed out."""

    def __init__(self, setup: frames.Setup, *, mailbox: LoopMailbox, start_timeout: float) -> None:
        """Raises `OSError` if the system refuses a process or a file."""
        self._loop = asyncio.get_running_loop()
        self._grace = setup.grace
        self._start_timeout = start_timeout
        self._is_ready = False
        self._is_late = False
        self._is_ending = False
        self._exited = asyncio.Event()
        self._start_output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed at READY)
        try:
            self._process, ours = _start_process(self._start_output)
        except OSError:
            self._start_output.close()
            raise
        self._channel = Channel(ours, on_frame=self._on_frame)
        self._channel.send(frames.pack_setup(setup))
        self._timer = self._loop.call_later(start_timeout, self._give_up)
        threading.Thread(
            target=self._watch, args=(mailbox,), name="leveret-child-watch", daemon=True
        ).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end: it takes no more orders."""
        return self._is_ending

    def send(self, order: frames.Order) -> None:
        """Give it an order; only when it has answered the last."""
        self._channel.send(frames.pack_order(order))

    def end(self) -> None:
        """Tell it to end: user code gets to unwind, for as long as the grace. Twice is fine."""
        if self._is_ending:
            return
        self._is_ending = True
        self._timer.cancel()
        self._channel.send(frames.END)  # first: the child ignores a SIGTERM without it
        if not self._is_ready or self._channel.is_sending:
            self._process.kill()  # no user code runs that could unwind
            return
        self._process.terminate()
        self._timer = self._loop.call_later(self._grace, self._process.kill)

    async def wait_exited(self) -> None:
        await self._exited.wait()

    def _give_up(self) -> None:
        self._is_late = True
        self._process.kill()

    def _watch(self, mailbox: LoopMailbox) -> None:
        # A thread, blocked in the kernel: asyncio's own watchers differ between Python versions,
        # and reap behind the back of `send_signal`, which may then hit another process.
        code = self._process.wait()
        mailbox.post(lambda: self._on_process_exit(code))

    def _on_frame(self, frame: bytes) -> None:
        if frame:
            self.on_ending(frames.unpack_ending(frame))
        elif not self._is_ready:
            self._is_ready = True
            if not self._is_ending:
                self._timer.cancel()
            self._start_output.close()

    def _on_process_exit(self, code: int) -> None:
        self._timer.cancel()
        self._channel.drain()
        self._channel.close()
        exit_ = Exit(
            code=code,
            was_ready=self._is_ready,
            read_nothing=self._channel.was_refused,
            reason="" if self._is_ready else self._start_report(),
        )
        self._start_output.close()
        self._exited.set()
        self.on_exit(exit_)

    def _start_report(self) -> str:
        self._start_output.seek(0)
        printed = self._start_output.read().decode(errors="replace").strip()[-LONGEST_REPORT:]
        late = f" after {self._start_timeout:g} s without a sign of life" if self._is_late else ""
        return f"{late}, having printed:\n{printed}" if printed else late


def _start_process(stderr: IO[bytes]) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    ours, theirs = socket.socketpair()
    real_stderr = os.dup(2)
    command = [sys.executable, "-P", "-m", "leveret_worker.child"]
    inherited = (theirs.fileno(), real_stderr)
    try:
        with _signals_blocked():
            process = subprocess.Popen(
                [*command, *map(str, (*inherited, os.getpid()))],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=inherited,
            )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(real_stderr)
    return process, ours


@contextmanager
def _signals_blocked() -> Generator[None]:
    """What is started within has SIGINT and SIGTERM blocked, until it has its handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = f"signal {signal.Signals(-code).name} ({-code})"
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    hint = "; out of memory?" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
