"""Executes what was delivered: who may start, where it runs, and what its end means.

A run is known here from its delivery until its outcome is confirmed or unwanted, and remembered for
a while after that: a second delivery to the same worker is not a second execution.

Everything here runs on the loop that keeps the connection, user code never does: async functions
have an event loop of their own on another thread, sync tasks child processes or other threads.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, TypeVar

from leveret_broker import logs, messages
from leveret_broker.clock import Clock
from leveret_worker.execution import Attempt, Execution
from leveret_worker.perform import Ending
from leveret_worker.reporter import Reporter

log = logs.get_logger("leveret.worker")

ANNOUNCE_AFTER = 0.25
"""Seconds after which a run that is still executing is announced as running."""
REMEMBERED = 10_000
"""Cancelled runs, and confirmed attempts, that are kept in case they are delivered later."""

T = TypeVar("T")


class Runner(Protocol):
    """A place where user code runs."""

    def begin(self, execution: Execution, ended: Callable[[Ending | None], None]) -> None:
        """Run it and call back, once and on the connection's loop, with how it ended.

        `None` stands for no outcome: it was stopped, or never ran. Sets `execution.stop`.
        """
        ...


class Executor:
    """Starts executions in the order in which they came, as slots and processes allow."""

    def __init__(
        self,
        *,
        asynchronous: Runner,
        thread: Runner,
        process: Runner,
        slots: int,
        processes: int,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        self._asynchronous = asynchronous
        self._thread = thread
        self._process = process
        self._slots = slots
        self._processes = processes
        self._reporter = reporter
        self._clock = clock
        self._waiting: deque[Execution] = deque()
        self._executing: dict[Execution, None] = {}
        self._known: dict[Attempt, Execution] = {}
        self._confirmed: OrderedDict[Attempt, None] = OrderedDict()
        self._held: Counter[str] = Counter()
        self._busy_slots = 0
        self._busy_processes = 0
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self._busy_slots

    def limit(self, *, process: bool) -> int:
        """How many tasks of a kind can execute at once."""
        return min(self._slots, self._processes) if process else self._slots

    def held(self, queue: str) -> int:
        """Runs of one definition that wait here, execute, or are not confirmed yet."""
        return self._held[queue]

    def accept(self, execution: Execution) -> None:
        """Take one more; it starts as soon as there is room."""
        if execution.run in self._cancelled or execution.attempt in self._confirmed:
            execution.done()
        elif known := self._known.get(execution.attempt):
            known.bundles += execution.bundles
        else:
            self._known[execution.attempt] = execution
            self._held[execution.queue] += 1
            self._waiting.append(execution)
            self._start_next()

    def cancel(self, runs: Iterable[str]) -> None:
        """Stop these runs, now or when they arrive. Their outcomes are no longer wanted."""
        unwanted = set(runs)
        for run in unwanted:
            _remember(self._cancelled, run)
        for execution in [one for one in self._known.values() if one.run in unwanted]:
            execution.is_dropped = True
            execution.stop()
        for execution in [waiting for waiting in self._waiting if waiting.is_dropped]:
            self._waiting.remove(execution)
            self._forget(execution)

    def give_back_waiting(self) -> None:
        """Return what has not started to its queue, for other workers."""
        waiting, self._waiting = self._waiting, deque()
        for execution in waiting:
            execution.give_back()
            self._forget(execution)

    def give_back_executing(self, *, workflows_only: bool = False) -> None:
        """Stop what executes and return it to its queue. Workflows keep what they have called."""
        for execution in list(self._executing):
            if not (workflows_only and execution.needs_slot):
                execution.give_back()
                execution.stop()

    async def idle(self) -> None:
        """Return when nothing executes."""
        await self._idle.wait()

    def _start_next(self) -> None:
        blocked: deque[Execution] = deque()
        while self._waiting:
            execution = self._waiting.popleft()
            if self._has_room(execution):
                self._start(execution)
            else:
                blocked.append(execution)
        self._waiting = blocked

    def _has_room(self, execution: Execution) -> bool:
        if not execution.needs_slot:
            return True
        if self._busy_slots >= self._slots:
            return False
        return not execution.needs_process or self._busy_processes < self._processes

    def _start(self, execution: Execution) -> None:
        self._busy_slots += execution.needs_slot
        self._busy_processes += execution.needs_process
        self._executing[execution] = None
        self._idle.clear()
        execution.started_at = self._clock.now()
        loop = asyncio.get_running_loop()
        announcing = loop.call_later(ANNOUNCE_AFTER, self._announce, execution)

        def ended(ending: Ending | None) -> None:
            announcing.cancel()
            self._ended(execution, ending)

        self._runner(execution).begin(execution, ended)

    def _runner(self, execution: Execution) -> Runner:
        if execution.definition.is_async:
            return self._asynchronous
        return self._process if execution.needs_process else self._thread

    def _announce(self, execution: Execution) -> None:
        assert execution.started_at is not None
        self._reporter.announce(
            messages.Started(
                run=execution.run,
                attempt=execution.invocation.attempt,
                started_at=execution.started_at,
            )
        )

    def _ended(self, execution: Execution, ending: Ending | None) -> None:
        self._busy_slots -= execution.needs_slot
        self._busy_processes -= execution.needs_process
        del self._executing[execution]
        if execution.is_dropped:
            self._forget(execution)
        elif ending is None:
            execution.give_back()  # it has no outcome, so it is for somebody else to execute
            self._forget(execution)
        else:
            confirmed = partial(self._reported, execution)
            self._reporter.report(self._outcome(execution, ending), confirmed)
        self._start_next()
        if not self._executing:
            self._idle.set()

    def _reported(self, execution: Execution) -> None:
        """Its outcome is confirmed. After a lost connection it may still be delivered again."""
        _remember(self._confirmed, execution.attempt)
        self._forget(execution)

    def _forget(self, execution: Execution) -> None:
        """It is done with: its deliveries are settled."""
        del self._known[execution.attempt]
        self._held[execution.queue] -= 1
        execution.done()

    def _outcome(self, execution: Execution, ending: Ending) -> messages.Outcome:
        assert execution.started_at is not None
        return messages.Outcome(
            run=execution.run,
            attempt=execution.invocation.attempt,
            state="failed" if ending.result is None else "succeeded",
            result=ending.result,
            error=ending.error,
            failure=ending.failure,
            started_at=execution.started_at,
            finished_at=self._clock.now(),
        )


def _remember(kept: OrderedDict[T, None], item: T) -> None:
    kept[item] = None
    if len(kept) > REMEMBERED:
        kept.popitem(last=False)
