"""The child's side: `python -m leveret_worker.child SOCKET STDERR PARENT`.

The main thread does everything, user code included, so that signals, plotting and whatever else
wants the main thread work. A second thread sleeps in the kernel until the parent is gone.

Signals:

- SIGINT is ignored. Ctrl-C reaches all processes in the terminal; the parent decides who ends.
- SIGTERM ends the user's code with `Terminated`, if the parent says so: it sends `END` first. A
  service manager may send SIGTERM to all processes of a service, and the worker is to drain then.
- They come blocked, until the handlers are there.
"""

import contextlib
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from leveret.context import RunContext, log_fields
from leveret.sealing import PayloadOptions, Sealer
from leveret_broker import logs
from leveret_worker import frames
from leveret_worker.code import Loaded
from leveret_worker.errors import Terminated
from leveret_worker.functions import FunctionRef, find
from leveret_worker.perform import Ending, failed, perform


class Child:
    """Takes orders from the socket, one at a time, until it is told to end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._inbox = frames.Inbox()
        self._frames: list[bytes] = []
        self._setup = frames.Setup(keys=None, payloads=PayloadOptions(), grace=0)
        self._sealer = Sealer(None)
        self._refs: list[FunctionRef] = []
        self._functions: dict[int, Callable[..., Any]] = {}
        self._loaded = Loaded()
        self._is_performing = False
        self._was_signalled = False
        self._is_orphan = False

    def serve(self) -> None:
        """Return at `END`, or when the parent is gone."""
        setup = self._receive()
        if setup is None:
            return
        self._setup = frames.unpack_setup(setup)
        self._sealer = Sealer(self._setup.keys, self._setup.payloads)
        if self._setup.logs is not None:
            logs.configure(self._setup.logs)
            logs.add_context(log_fields)
        self._sock.sendall(frames.READY)
        while order := self._receive():
            ending = self._execute(frames.unpack_order(order))
            if ending is None:
                return
            self._sock.sendall(frames.pack_ending(ending))

    def on_sigterm(self, *_: object) -> None:
        """The signal's handler."""
        self._was_signalled = True
        if self._is_performing and self._shall_end():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the code that unwinds is left alone
            raise Terminated("the run was cancelled")

    def on_parent_death(self) -> NoReturn:
        """End, soon: user code that does not unwind within the grace is cut off."""
        self._is_orphan = True
        if self._is_performing:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGTERM)
            time.sleep(self._setup.grace)
        os._exit(1)

    def on_fork(self) -> None:
        """In a process that user code forked: it is no worker, and ends like any other."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _unblock_sigterm()
        self._sock.close()

    def _execute(self, order: frames.Order) -> Ending | None:
        if order.path is not None:
            sys.path[:] = order.path
        if order.function is not None:
            self._refs.append(order.function)
        self._is_performing = True
        try:
            if self._was_signalled and self._shall_end():
                return None
            return self._perform(order)
        finally:
            self._is_performing = False

    def _perform(self, order: frames.Order) -> Ending:
        run = RunContext(
            run=order.run,
            attempt=order.attempt,
            project=order.project,
            kind="task",
            definition=order.definition,
            root=order.root,
            round=order.round,
            fresh=order.is_fresh,
            is_shipped=self._refs[order.number].code is not None,
        )
        try:
            # Before the arguments: they may be of the module's own classes.
            fn = self._function(order.number)
        except Terminated:
            raise
        except BaseException as error:
            return failed(error, run=run, sealer=self._sealer)
        return perform(fn, order.arguments, run=run, sealer=self._sealer, inputs=order.inputs)

    def _function(self, number: int) -> Callable[..., Any]:
        if number not in self._functions:
            ref = self._refs[number]
            self._functions[number] = (
                find(ref) if ref.code is None else self._loaded.function(ref.code, self._setup.keys)
            )
        return self._functions[number]

    def _receive(self) -> bytes | None:
        while not self._frames:
            data = self._sock.recv(frames.CHUNK)
            if not data:
                return None
            self._frames += self._inbox.feed(data)
        return self._frames.pop(0)

    def _shall_end(self) -> bool:
        """Whether `END` has come, or the parent is gone."""
        if self._is_orphan or self._frames or not self._inbox.is_empty:
            return True
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    stderr, parent = int(sys.argv[2]), int(sys.argv[3])
    sys.argv[1:] = []
    sock.set_inheritable(False)
    os.dup2(stderr, 2)  # what was printed until here is part of the parent's error
    os.close(stderr)
    faulthandler.enable()
    _show_prints_at_once()
    child = Child(sock)
    threading.Thread(target=_watch, args=(child, sock, parent), daemon=True).start()
    os.register_at_fork(
        # Blocked meanwhile: the forked process would take it with this one's handler, and lose it.
        before=_block_sigterm,
        after_in_parent=_unblock_sigterm,
        after_in_child=child.on_fork,
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, child.on_sigterm)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        child.serve()
    except Terminated:
        pass
    except OSError as error:
        sys.exit(f"leveret: a child process lost its connection to the worker: {error}")


def _block_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))


def _unblock_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))


def _show_prints_at_once() -> None:
    """Even where they go to a file or a pipe; a child that dies would take them along, too."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # it may have none
    if reconfigure is not None:
        reconfigure(line_buffering=True)


def _watch(child: Child, sock: socket.socket, parent: int) -> None:
    """Sleep until the parent is gone."""
    poll = select.poll()
    poll.register(sock, select.POLLHUP)
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        # The socket may be held open by a process that the parent forked.
        poll.register(os.pidfd_open(parent), select.POLLIN)
    if os.getppid() == parent:  # else it died before we looked
        poll.poll()
    child.on_parent_death()


if __name__ == "__main__":
    main()
