"""The rows that a batch names, as they are after each of its messages, and what has changed.

A batch may hold a submission and its cancellation, or the same outcome twice: each message is
decided upon as if those before it had been written already.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from leveret_broker.messages import Finished
from leveret_coordinator import states
from leveret_coordinator.facts import Facts
from leveret_coordinator.records import (
    Definition,
    FinishedAttempt,
    NewRun,
    Run,
    StartedAttempt,
    Waiter,
)


class Ledger:
    """Made for one batch and thrown away with it."""

    def __init__(self, facts: Facts) -> None:
        self.known = facts.known
        self._definitions = {row.id: row for row in facts.known.definitions}
        self._served = set(facts.served)
        self._runs = {run.id: run for run in facts.runs}
        self._below: dict[str, dict[str, None]] = defaultdict(dict)
        for top, run in facts.below:
            self._below[top][run.id] = None
            self._runs[run.id] = run
        self._waiters: dict[str, dict[str, None]] = defaultdict(dict)
        for waiter in facts.waiters:
            self._waiters[waiter.run][waiter.session] = None
        self._ended = {finished.run: finished for finished in facts.ended}
        self.changed_definitions: dict[str, Definition] = {}
        self.new_runs: dict[str, NewRun] = {}
        self.new_waiters: list[Waiter] = []
        self.started: list[StartedAttempt] = []
        self.finished: list[FinishedAttempt] = []

    # -- definitions --

    def definition(self, database_id: str) -> Definition:
        return self._definitions[database_id]

    def put_definitions(self, definitions: Iterable[Definition]) -> None:
        for definition in definitions:
            self._definitions[definition.id] = definition
            self.changed_definitions[definition.id] = definition
        self.known = replace(self.known, definitions=tuple(self._definitions.values()))

    def is_served(self, definition: str) -> bool:
        return definition in self._served

    def serve(self, definitions: Iterable[str]) -> None:
        self._served.update(definitions)

    # -- runs --

    def run(self, run: str) -> Run | None:
        return self._runs.get(run)

    def ended(self, run: str) -> Finished | None:
        """How the run ended, if it has and its outcome was asked for or told in this batch."""
        return self._ended.get(run)

    def insert(self, new: NewRun) -> None:
        self._runs[new.run.id] = new.run
        self.new_runs[new.run.id] = new
        if new.run.state == "cancelled":
            self._ended[new.run.id] = Finished(run=new.run.id, state="cancelled")

    def unended_below(self, top: str) -> list[Run]:
        """A run to cancel and all below it, those without what has ended."""
        tree = self._below[top]
        tree.setdefault(top)
        for new in self.new_runs.values():  # in the order of their insertion: parents first
            if new.run.parent in tree:
                tree[new.run.id] = None
        runs = (self._runs[run] for run in tree if run in self._runs)
        return [run for run in runs if not states.has_ended(run.state)]

    def start(self, started: StartedAttempt) -> None:
        run = self._runs[started.run]
        self._runs[run.id] = replace(run, state=states.after(run.state, "started"))
        self.started.append(started)

    def finish(self, finished: FinishedAttempt) -> None:
        run = self._runs[finished.run]
        self._runs[run.id] = replace(run, state=states.after(run.state, finished.state))
        self._ended[run.id] = finished.as_message()
        self.finished.append(finished)

    def pending(self) -> list[NewRun]:
        """The new runs that the batch leaves to be executed."""
        return [
            new
            for new in self.new_runs.values()
            if not states.has_ended(self._runs[new.run.id].state)
        ]

    # -- waiters --

    def wait(self, run: str, session: str) -> None:
        """Note that the session is to hear the end of the run.

        Of a run that has ended always anew: a confirmation of the last answer, which is not yet
        written, removes the note that the catalog has.
        """
        if session not in self._waiters[run] or run in self._ended:
            self._waiters[run][session] = None
            self.new_waiters.append(Waiter(run=run, session=session))

    def waiting(self, run: str) -> list[str]:
        """The sessions that want to hear how the run ends."""
        return list(self._waiters[run])
