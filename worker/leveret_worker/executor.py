"""Executes what was delivered: who may start, where it runs, and what its end means.

Everything here runs on the loop that keeps the connection, user code never does: async functions
have an event loop of their own on another thread, sync tasks child processes or other threads.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from leveret_broker import logs, messages
from leveret_broker.clock import Clock
from leveret_worker.alarms import Alarms, Timeline
from leveret_worker.claims import Claims, is_possible
from leveret_worker.execution import Execution, StopCause
from leveret_worker.known import Known
from leveret_worker.outcomes import outcome_of
from leveret_worker.perform import Ending
from leveret_worker.reporter import Reporter
from leveret_worker.rooms import Line, Rooms
from leveret_worker.unreadable import Unreadable

log = logs.get_logger("leveret.worker")

ANNOUNCE_AFTER = 0.25
"""Seconds after which a run that is still executing is announced as running."""
DEFAULT_LEASE_AFTER = 60.0
DEFAULT_STOP_GRACE = 10.0


class Runner(Protocol):
    """A place where user code runs."""

    def begin(self, execution: Execution, ended: Callable[[Ending | None], None]) -> None:
        """Run it and call back, once and on the connection's loop, with how it ended.

        `None` stands for no outcome: it was stopped, or never ran. Sets `execution.stop`.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Runners:
    """Where each kind of definition runs."""

    loop: Runner
    thread: Runner
    process: Runner

    def of(self, execution: Execution) -> Runner:
        runner: Runner = getattr(self, execution.place)
        return runner


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds after which something is done about an execution."""

    lease_after: float = DEFAULT_LEASE_AFTER
    """Its delivery is acknowledged, and the coordinator answers for it. Well under RabbitMQ's
    acknowledgement timeout of 30 minutes."""
    stop_grace: float = DEFAULT_STOP_GRACE
    """Between asking it to end, and ending it or leaving it to itself."""


class Executor:
    """Starts executions in the order in which they came, as slots and processes allow."""

    def __init__(
        self,
        *,
        runners: Runners,
        rooms: Rooms,
        claims: Claims,
        reporter: Reporter,
        clock: Clock,
        alarms: Alarms,
        times: Times,
    ) -> None:
        self._runners = runners
        self._rooms = rooms
        self._claims = claims
        self._reporter = reporter
        self._clock = clock
        self._alarms = alarms
        self._times = times
        self.unreadable = Unreadable(clock)
        self._known = Known()
        self._line = Line(rooms)
        self._running: dict[Execution, Timeline] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self._rooms.busy

    def limit(self, *, process: bool) -> int:
        """How many tasks of a kind can execute at once."""
        return self._rooms.limit(process=process)

    def held(self, queue: str) -> int:
        """Runs of one definition whose deliveries are not settled."""
        return self._known.held(queue)

    @property
    def running(self) -> list[Execution]:
        """What the coordinator is to know of when this worker joins again."""
        unreported = [one for one in self._known if one.started_at is not None]
        return [one for one in unreported if not one.is_dropped]

    async def idle(self) -> None:
        """Return when nothing executes."""
        await self._idle.wait()

    # -- what arrives -----------------------------------------------------------------------------

    def accept(self, execution: Execution) -> None:
        """Take one more; it starts as soon as there is room."""
        execution.arrived_at = self._clock.now()
        if known := self._known.find(execution.run, execution.number):
            known.join(execution)
        elif self._is_over(execution):
            execution.settle()
        else:
            # It was published because those before it are over, wherever they were.
            self._stop_up_to(execution.run, execution.number - 1)
            self._known.add(execution)
            self._line.add(execution)
            self._start_next()

    def _is_over(self, execution: Execution) -> bool:
        """Whether there is nothing to execute.

        What this worker has not executed itself may have been stopped by a stranger. So that counts
        for what would start unasked only: what is claimed anyway starts as the coordinator says.
        """
        if self._known.is_confirmed(execution.run, execution.number):
            return True
        is_over = execution.number <= self._known.over_up_to(execution.run)
        return is_over and not self._claims.are_needed_for(execution)

    def stop(self, stops: Iterable[messages.Stop]) -> bool:
        """Execute these no more, now or when they arrive. The coordinator is told what executed:
        if it was not the coordinator who stopped that, it gives it to somebody again.

        Whether there were more than can be remembered: what arrives is to be claimed then.
        """
        has_forgotten = False
        for stop in stops:
            has_forgotten |= self._known.stop(stop)
            self._stop_up_to(stop.run, stop.attempt)
        return has_forgotten

    def decide(self, verdicts: Iterable[messages.Verdict]) -> None:
        """What the coordinator says to claims."""
        for verdict in filter(is_possible, verdicts):
            if execution := self._claims.settle(verdict):
                self._decide(execution, verdict.granted)
            elif verdict.granted != verdict.attempt:
                self._refuse(verdict)
            if verdict.granted is not None:
                self._return_unless_here(verdict, verdict.granted)
        self._start_next()

    def _refuse(self, verdict: messages.Verdict) -> None:
        """Nobody waits for it to start; but it may be executing."""
        execution = self._known.find(verdict.run, verdict.attempt)
        if execution is not None and execution.is_running:
            self._drop(execution)

    def _return_unless_here(self, verdict: messages.Verdict, granted: int) -> None:
        """This worker got what it claimed, and has given it back meanwhile.

        Of what it never claimed a stranger speaks, who could have it executed again and again.
        """
        run = verdict.run
        if self._known.find(run, granted) or self._known.is_confirmed(run, granted):
            return
        if not self._claims.was_made(verdict):
            return
        now = self._clock.now()
        returned = messages.Outcome(
            run=run, attempt=granted, state="returned", started_at=now, finished_at=now
        )
        self._reporter.report(returned, lambda: None)

    def _decide(self, execution: Execution, granted: int | None) -> None:
        if granted is None or self._is_unwanted(execution, granted):
            self._drop(execution)
            return
        if granted != execution.number:
            if known := self._known.find(execution.run, granted):
                known.join(execution)
                execution.bundles = []
                self._drop(execution)
                return
            self._known.rename(execution, granted)
        execution.is_claimed = True
        self._begin(execution)

    def _is_unwanted(self, execution: Execution, granted: int) -> bool:
        """Whether this attempt is over, as far as was heard since it was claimed.

        If a stranger has stopped it, it goes back to the coordinator as one that is not here.
        """
        over = self._known.over_up_to(execution.run)
        return over >= granted and over > execution.over_before

    def _stop_up_to(self, run: str, number: int) -> None:
        for execution in self._known.up_to(run, number):
            # A claim may be granted as a later attempt: its verdict decides.
            if execution.state != "claiming":
                self._drop(execution)

    # -- leaving ----------------------------------------------------------------------------------

    def doubt_waiting(self) -> None:
        """Something may have been missed that concerns what has not started."""
        for execution in self._known:
            execution.is_doubtful |= execution.state == "waiting"

    def give_back_waiting(self) -> None:
        """Return what waits for its turn to its queue, for other workers."""
        for execution in self._line.clear():
            execution.become("dropped")
            self._known.give_back(execution)

    def give_back_claiming(self) -> None:
        """Return what waits for a verdict to its queue. The verdict will find nobody here."""
        for execution in [one for one in self._known if one.state == "claiming"]:
            self._claims.withdraw(execution)
            self._rooms.leave(execution)
            execution.become("dropped")
            self._known.give_back(execution)

    def give_back_executing(self, *, workflows_only: bool = False) -> None:
        """Stop what executes and report it as returned. Workflows keep what they have called."""
        for execution in list(self._running):
            if not (workflows_only and execution.needs_slot):
                self._end(execution, "returned")

    # -- starting ---------------------------------------------------------------------------------

    def _start_next(self) -> None:
        while (execution := self._line.next()) is not None:
            if self._claims.are_needed_for(execution):
                execution.become("claiming")
                execution.over_before = self._known.over_up_to(execution.run)
                self._claims.make(execution)
            else:
                self._begin(execution)

    def _begin(self, execution: Execution) -> None:
        execution.become("executing")
        execution.started_at = self._clock.now()
        self._idle.clear()
        self._running[execution] = Timeline(self._alarms, self._steps(execution))
        if execution.invocation.announce:
            self._announce(execution)
        self._runners.of(execution).begin(execution, partial(self._ended, execution))

    def _steps(self, execution: Execution) -> list[tuple[float, Callable[[], None]]]:
        steps: list[tuple[float, Callable[[], None]]] = [
            (ANNOUNCE_AFTER, partial(self._announce, execution)),
            (self._times.lease_after, partial(self._lease, execution)),
        ]
        if execution.invocation.timeout is not None:
            steps.append((execution.invocation.timeout, partial(self._end, execution, "timed-out")))
        return steps

    # -- while it executes ------------------------------------------------------------------------

    def _announce(self, execution: Execution) -> None:
        self._reporter.announce(_started(execution))

    def _lease(self, execution: Execution) -> None:
        self._reporter.announce(_started(execution, leased=True), partial(self._leased, execution))

    def _leased(self, execution: Execution) -> None:
        """The coordinator knows that it executes here: its delivery is needed no more."""
        if execution.state == "executing":
            execution.become("leased")
            self._known.settle(execution)

    # -- ending -----------------------------------------------------------------------------------

    def _drop(self, execution: Execution) -> None:
        """Nobody wants its outcome: stop it, or forget it if it has not started."""
        if execution.state == "waiting":
            self._line.remove(execution)
            self._forget(execution)
        elif execution.state == "claiming":
            self._rooms.leave(execution)
            self._forget(execution)
        elif execution.is_running:
            self._end(execution, "unwanted")

    def _end(self, execution: Execution, cause: StopCause) -> None:
        """Ask it to end. What does not end within the grace is left to itself.

        Processes are killed after the grace, by their pool. Threads can't be asked at all.
        """
        if execution.state == "stopping":
            if cause == "unwanted":
                execution.stopped_for = cause
            return
        execution.become("stopping")
        execution.stopped_for = cause
        self._running[execution].cancel()
        if execution.place == "loop":
            patience = [(self._times.stop_grace, partial(self._abandon, execution))]
            self._running[execution] = Timeline(self._alarms, patience)
        execution.stop()
        if execution.place == "thread":
            self._abandon(execution)

    def _abandon(self, execution: Execution) -> None:
        if execution in self._running:
            log.warning("left to itself: it could not be stopped", run=execution.run)
            execution.become("abandoned")
            self._conclude(execution, None)

    def _ended(self, execution: Execution, ending: Ending | None) -> None:
        if execution in self._running:  # else it was abandoned
            execution.become("ended")
            self._conclude(execution, ending)

    def _conclude(self, execution: Execution, ending: Ending | None) -> None:
        self._running.pop(execution).cancel()
        self._rooms.leave(execution)
        outcome = outcome_of(execution, ending, now=self._clock.now())
        if not execution.is_dropped:
            self.unreadable.note(outcome, execution)
        self._reporter.report(outcome, partial(self._reported, execution))
        self._start_next()
        if not self._running:
            self._idle.set()

    def _reported(self, execution: Execution) -> None:
        execution.become("reported")
        self._known.confirm(execution)

    def _forget(self, execution: Execution) -> None:
        execution.become("dropped")
        self._known.forget(execution)


def _started(execution: Execution, *, leased: bool = False) -> messages.Started:
    assert execution.started_at is not None, "what executes was started"
    return messages.Started(
        run=execution.run,
        attempt=execution.number,
        started_at=execution.started_at,
        leased=leased,
    )
