"""Several processes in one thread: each has an event loop of its own, and all share one time.

The world takes turns: by the seed it picks one process that has something to do, and runs one
callback of it. When nobody has anything to do, time jumps to the next timer. So a process can be
killed between any two of its awaits (its loop gets no turn any more, not even for a `finally`),
and stopped for a while, as by SIGSTOP.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START = 1_000_000.0
"""Seconds since the Unix epoch at which every world begins."""


class Deadlock(AssertionError):
    """Nobody has anything to do, and no timer is set."""


class Turn(asyncio.TimerHandle):
    """One callback of a process, soon or at a time."""

    __slots__ = ("args", "at", "callback", "context", "is_off", "process")

    def __init__(
        self,
        process: "Process",
        at: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> None:
        # The base's fields are left out: there are many turns, and nobody looks at those.
        self.process = process
        self.at = at
        self.callback = callback
        self.args = args
        self.context = context if context is not None else copy_context()
        self.is_off = False

    def cancel(self) -> None:
        self.is_off = True

    def cancelled(self) -> bool:
        return self.is_off

    def when(self) -> float:
        return self.at

    def __repr__(self) -> str:
        return f"<turn of {self.process.name}: {self.callback!r}>"

    def take(self) -> None:
        try:
            self.context.run(self.callback, *self.args)
        except Exception as error:
            self.process.call_exception_handler({"message": repr(self), "exception": error})


class World:
    """The processes, the time that they share, and whose turn it is."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.time = START
        self.turns = 0
        self.errors: list[str] = []
        """What callbacks and tasks raised and nobody caught."""
        self.trace: list[tuple[float, str, str]] | None = None
        """What happened, as time, process and event, if anybody wants to know."""
        self._timers: list[tuple[float, int, Turn]] = []
        self._timers_set = 0
        self._processes: list[Process] = []
        self._running: Process | None = None

    def process(self, name: str) -> "Process":
        """Start one."""
        process = Process(self, name)
        self._processes.append(process)
        return process

    def take_turn(self) -> None:
        """Run one callback of one process; let time pass if there is none."""
        while not (
            able := [each for each in self._processes if each.ready and not each.is_stopped]
        ):
            self._pass_time()
        self.turns += 1
        process = able[0] if len(able) == 1 else able[int(self.rng.random() * len(able))]
        turn = process.ready.popleft()
        if not turn.is_off:
            self.enter(process)
            turn.take()

    def enter(self, process: "Process | None") -> None:
        """What runs now belongs to this process."""
        if process is not self._running:
            self._running = process
            asyncio._set_running_loop(process)  # pyright: ignore[reportPrivateUsage]

    def note(self, who: str, what: str) -> None:
        """Write it into the trace."""
        if self.trace is not None:
            self.trace.append((self.time, who, what))

    def end(self) -> None:
        """Kill everybody."""
        for process in list(self._processes):
            process.kill()
        self._timers.clear()

    def set_timer(self, turn: Turn) -> None:
        self._timers_set += 1
        heapq.heappush(self._timers, (turn.at, self._timers_set, turn))

    def forget(self, process: "Process") -> None:
        self._processes.remove(process)

    def _pass_time(self) -> None:
        """Until the next timer; all that are due by then are."""
        timers, is_due = self._timers, False
        while timers and (not is_due or timers[0][0] <= self.time):
            when, _, turn = heapq.heappop(timers)
            if not turn.is_off and not turn.process.is_closed():
                self.time = max(self.time, when)
                turn.process.ready.append(turn)
                is_due |= not turn.process.is_stopped
        if not is_due:
            raise Deadlock("nobody has anything to do, and no timer is set")


class Process(asyncio.BaseEventLoop):
    """One process of a world: an event loop that is given turns."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__()
        self.name = name
        self.ready: deque[Turn] = deque()
        self.is_stopped = False
        """By SIGSTOP: it gets no turns, and learns of nothing."""
        self._world = world
        self._tasks: dict[asyncio.Task[Any], None] = {}

    @property
    def world(self) -> World:
        return self._world

    def kill(self) -> None:
        """End it here and now. What it left unfinished is never run on; nobody hears its last."""
        if self.is_closed():
            return
        self._world.forget(self)
        self.ready.clear()
        self.close()
        self._world.enter(self)
        for task in list(self._tasks):
            _drop(task.get_coro())
        self._tasks.clear()
        self._world.enter(None)

    # -- what asyncio asks of an event loop -------------------------------------------------------

    def time(self) -> float:
        return self._world.time

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        turn = Turn(self, self._world.time, callback, args, context)
        if not self.is_closed():
            self.ready.append(turn)
        return turn

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._world.time + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        turn = Turn(self, when, callback, args, context)
        if not self.is_closed():
            self._world.set_timer(turn)
        return turn

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=str(name or "task"), context=context)
        if self.is_closed():
            _drop(coro)
        else:
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_closed():
            error = context.get("exception")
            self._world.errors.append(f"{self.name}: {context.get('message')}: {error!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """asyncio tells of cancelled timers; here they are passed over when they are due."""


def _drop(coroutine: Any) -> None:
    """Let go of what is suspended: whatever it tries in its last moment reaches nobody."""
    with suppress(Exception):
        coroutine.close()
