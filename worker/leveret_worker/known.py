"""What a worker knows of attempts: those it has, those it is done with, and those it may not start.

An attempt is known from its delivery until its outcome is confirmed or unwanted, and remembered for
a while after that: a second delivery to the same worker is not a second execution.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from typing import TypeVar

from leveret_broker.messages import Stop
from leveret_worker.execution import Execution

REMEMBERED = 10_000
"""Stopped runs, and confirmed attempts, that are kept in case they are delivered later."""

K = TypeVar("K")
V = TypeVar("V")


class Known:
    """The executions by run and attempt."""

    def __init__(self) -> None:
        self._here: defaultdict[str, dict[int, Execution]] = defaultdict(dict)
        self._confirmed: OrderedDict[str, int] = OrderedDict()
        """The latest attempt of each run whose outcome is confirmed."""
        self._stopped: OrderedDict[str, int] = OrderedDict()
        """The latest attempt of each run that may not be executed any more."""
        self._held: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Execution]:
        return iter([one for attempts in self._here.values() for one in attempts.values()])

    def find(self, run: str, number: int) -> Execution | None:
        """The execution of this attempt, if it is here."""
        return self._here[run].get(number) if run in self._here else None

    def up_to(self, run: str, number: int) -> list[Execution]:
        """Those of this run's attempts up to this one that are here."""
        if run not in self._here:
            return []
        return [one for one in self._here[run].values() if one.number <= number]

    def held(self, queue: str) -> int:
        """Runs of one definition whose deliveries are not settled."""
        return self._held[queue]

    def is_confirmed(self, run: str, number: int) -> bool:
        """Whether the outcome of this attempt is confirmed, and no later one's."""
        return number == self._confirmed.get(run)

    def over_up_to(self, run: str) -> int:
        """The latest attempt that was stopped, or whose outcome is confirmed. Zero for none."""
        return max(self._stopped.get(run, 0), self._confirmed.get(run, 0))

    def add(self, execution: Execution) -> None:
        self._here[execution.run][execution.number] = execution
        self._held[execution.queue] += 1

    def rename(self, execution: Execution, number: int) -> None:
        """From now on it is another attempt at its run."""
        self._take_out(execution)
        execution.invocation = execution.invocation.model_copy(update={"attempt": number})
        self._here[execution.run][number] = execution

    def settle(self, execution: Execution) -> None:
        """Its deliveries may be acknowledged."""
        self._held[execution.queue] -= not execution.is_settled
        execution.settle()

    def give_back(self, execution: Execution) -> None:
        """Forget it, and return it to its queue."""
        self._take_out(execution)
        self._held[execution.queue] -= not execution.is_settled
        execution.give_back()

    def forget(self, execution: Execution) -> None:
        """It is done with: its deliveries are settled."""
        self._take_out(execution)
        self.settle(execution)

    def confirm(self, execution: Execution) -> None:
        """Its outcome is confirmed. After a lost connection it may still be delivered again."""
        latest = max(execution.number, self._confirmed.pop(execution.run, 0))
        _remember(self._confirmed, execution.run, latest)
        self.forget(execution)

    def stop(self, stop: Stop) -> bool:
        """Remember that these attempts may not be executed. Whether others had to be forgotten."""
        latest = max(stop.attempt, self._stopped.pop(stop.run, 0))
        return _remember(self._stopped, stop.run, latest)

    def _take_out(self, execution: Execution) -> None:
        del self._here[execution.run][execution.number]
        if not self._here[execution.run]:
            del self._here[execution.run]


def _remember(kept: OrderedDict[K, V], key: K, value: V) -> bool:
    kept[key] = value
    if len(kept) <= REMEMBERED:
        return False
    kept.popitem(last=False)
    return True
