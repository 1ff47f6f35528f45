"""What lives long: one contract for starting and stopping, and the thread that keeps connections.

User code never runs on the thread that keeps a connection alive (`docs/architecture.md`), so every
program with a connection has an `IoThread`, and reaches it through `IoThread.call` and `post`.
"""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from leveret_broker import logs
from leveret_broker.loops import loop_factory
from leveret_broker.transport import Transport

log = logs.get_logger("leveret")

T = TypeVar("T")


class Service(Protocol):
    """Anything that lives long. Started once; stopping twice, or before the start, is fine."""

    async def start(self) -> None:
        """Return when it serves. A failed start leaves nothing running."""
        ...

    async def stop(self) -> None:
        """Return when all it started has ended."""
        ...


class Connected:
    """A service together with the transport that it uses, opened before it and closed after it."""

    def __init__(self, transport: Transport, service: Service) -> None:
        self._transport = transport
        self._service = service

    async def start(self) -> None:
        await self._transport.open()
        try:
            await self._service.start()
        except BaseException:
            await self._transport.close()
            raise

    async def stop(self) -> None:
        try:
            await self._service.stop()
        finally:
            await self._transport.close()


class LoopMailbox:
    """Runs plain functions on a loop, from any thread, waking the loop once for many of them.

    It doesn't keep the loop alive.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._waiting: deque[Callable[[], None]] = deque()
        self._woken = False
        self._lock = threading.Lock()

    def post(self, function: Callable[[], None]) -> bool:
        """Run it soon on the loop, in order. False if the loop is closed: it will never run."""
        with self._lock:
            self._waiting.append(function)
            if self._woken:
                return True
            self._woken = True
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._run)
                return True
        except RuntimeError:
            pass
        with self._lock:
            self._waiting.clear()
            self._woken = False
        return False

    def _run(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, deque()
            self._woken = False
        for function in batch:
            try:
                function()
            except Exception as error:
                context = {"message": "a posted function failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)


class IoThread:
    """An event loop on a daemon thread of its own."""

    def __init__(self, name: str = "leveret-io", *, for_user_code: bool = False) -> None:
        """`for_user_code`: the loop is asyncio's own, as users have it elsewhere."""
        self._name = name
        self._loop_factory = None if for_user_code else loop_factory()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._mailbox: LoopMailbox | None = None
        self._stopping = False

    @property
    def is_running(self) -> bool:
        return self._thread is not None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "the thread was not started"
        return self._loop

    def start(self) -> None:
        """Return when its loop runs. Raises `OSError` if there can be no loop."""
        ready: Future[None] = Future()
        self._stopping = False
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name=self._name, daemon=True
        )
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self._thread.join()
            self._thread = None
            raise

    def stop(self, timeout: float = 5.0) -> None:
        """End the loop, cancelling what still runs on it, and wait for the thread.

        A thread that doesn't end within so many seconds, because something on it blocks, is left
        behind; it ends with the process.
        """
        if self._thread is None:
            return
        self._stopping = True
        self.post(self.loop.stop)
        self._thread.join(timeout)
        self._thread = None

    def post(self, function: Callable[[], None]) -> bool:
        """Run a plain function soon on this thread. False if it is stopped."""
        assert self._mailbox is not None, "the thread was not started"
        return self._mailbox.post(function)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on this thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this thread and await it from another loop."""
        return await asyncio.wrap_future(self.submit(coroutine))

    def _run(self, ready: "Future[None]") -> None:
        try:
            runner = asyncio.Runner(loop_factory=self._loop_factory)
            self._loop = runner.get_loop()
        except BaseException as error:
            ready.set_exception(error)
            return
        with runner:
            self._mailbox = LoopMailbox(self._loop)
            self._loop.call_soon(ready.set_result, None)
            while not self._stopping:
                try:
                    self._loop.run_forever()
                except (SystemExit, KeyboardInterrupt) as error:
                    # Raised in a task of the user's, where it is seen as well. It ends that task,
                    # and nothing else that runs on this loop.
                    log.warning("a task tried to end the process", error=repr(error))
