"""Asking before starting: what may have been stopped, finished or handed to somebody else.

Most executions start at once. A claim is needed where this worker may have missed that nobody wants
the attempt any more, or where somebody else may have it. It is made when the execution has got its
slot and would start, and repeated until there is a verdict: a claim asks, so asking twice is fine.
"""

from collections import OrderedDict
from collections.abc import Iterable

from leveret_broker.clock import Clock
from leveret_broker.messages import Claim, Verdict
from leveret_worker.alarms import Alarms
from leveret_worker.execution import Attempt, Execution
from leveret_worker.membership import Membership
from leveret_worker.reporter import Reporter
from leveret_worker.suspension import Suspension

CLAIM_AFTER_WAITING = 10.0
"""Seconds in this worker after which an attempt may have been given to another one."""
REPEAT_EVERY = 5.0
"""Seconds after which claims without a verdict are made again."""
REMEMBERED = 10_000
"""Claims that are kept in case their verdict comes when nothing waits for it any more."""


class Claims:
    """Who has to ask, and what waits for a verdict."""

    def __init__(
        self,
        *,
        reporter: Reporter,
        membership: Membership,
        suspension: Suspension,
        clock: Clock,
        alarms: Alarms,
    ) -> None:
        self._reporter = reporter
        self._membership = membership
        self._suspension = suspension
        self._clock = clock
        self._alarms = alarms
        self._open: dict[Attempt, Execution] = {}
        self._made: OrderedDict[Attempt, None] = OrderedDict()
        """The latest claims, with or without a verdict."""
        self._will_repeat = False

    def are_needed_for(self, execution: Execution) -> bool:
        """Whether it has to be claimed before it starts."""
        self._suspension.look()  # first: what it notices counts for this one
        return (
            execution.handed_out
            or execution.invocation.claim
            or execution.is_doubtful
            or not self._membership.covers(execution.generation)
            or self._clock.now() - execution.arrived_at > CLAIM_AFTER_WAITING
        )

    def make(self, execution: Execution) -> None:
        """Ask whether it may start."""
        self._open[execution.attempt] = execution
        self._made[execution.attempt] = None
        if len(self._made) > REMEMBERED:
            self._made.popitem(last=False)
        self._reporter.claim(_claim(execution))
        self._repeat_later()

    def withdraw(self, execution: Execution) -> None:
        """It is gone: no verdict is wanted, if one was."""
        self._open.pop(execution.attempt, None)

    def settle(self, verdict: Verdict) -> Execution | None:
        """What the verdict lets start or forget; `None` if nothing here waits for it."""
        return self._open.pop((verdict.run, verdict.attempt), None)

    def was_made(self, verdict: Verdict) -> bool:
        """Whether this worker has made the claim that the verdict is on."""
        return (verdict.run, verdict.attempt) in self._made

    def repeat(self) -> None:
        """Make all of them once more."""
        self._reporter.claim(*map(_claim, self._open.values()))

    def _repeat_later(self) -> None:
        if not self._will_repeat:
            self._will_repeat = True
            self._alarms.after(REPEAT_EVERY, self._repeat)

    def _repeat(self) -> None:
        self._will_repeat = False
        if self._open:
            self.repeat()
            self._repeat_later()


def is_possible(verdict: Verdict) -> bool:
    """Whether a coordinator may say it: a claim is granted as it is, or as the next attempt."""
    return verdict.granted in (None, verdict.attempt, verdict.attempt + 1)


def claims_of_running(executions: Iterable[Execution]) -> list[Claim]:
    """What a worker that joins again says of what it executes."""
    return [
        Claim(run=one.run, attempt=one.number, executing=True, started_at=one.started_at)
        for one in executions
    ]


def _claim(execution: Execution) -> Claim:
    return Claim(run=execution.run, attempt=execution.number, handed_out=execution.handed_out)
