"""What holds after every commit, whatever happened."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

States = Mapping[str, tuple[str, int]]
"""The state and the latest attempt of each run."""

ENDED = frozenset({"succeeded", "failed", "cancelled"})

_RUNS = "SELECT id, state, attempt FROM runs"
_EQUAL = """
SELECT group_concat(id) FROM runs WHERE parent IS NOT NULL
GROUP BY parent, definition, identity, ordinal HAVING count(*) > 1
"""
_EXECUTING = """
SELECT runs.id FROM runs JOIN attempts ON attempts.seq = runs.seq
WHERE runs.finished_at IS NOT NULL AND attempts.state = 'running'
"""
_EARLY = """
SELECT runs.id FROM inputs
JOIN runs ON runs.seq = inputs.seq
JOIN runs AS made ON made.seq = inputs.input
WHERE made.state != 'succeeded' AND runs.state IN ('pending', 'queued', 'running', 'succeeded')
"""
_MISCOUNTED = """
SELECT runs.id, runs.waits_for FROM runs
WHERE runs.waits_for != (
    SELECT count(*) FROM inputs JOIN runs AS made ON made.seq = inputs.input
    WHERE inputs.seq = runs.seq AND made.state != 'succeeded' AND runs.finished_at IS NULL
)
"""
_HOPELESS = """
SELECT runs.id FROM inputs
JOIN runs ON runs.seq = inputs.seq
JOIN runs AS made ON made.seq = inputs.input
WHERE made.state IN ('failed', 'cancelled') AND runs.finished_at IS NULL
"""
_DUE = """
SELECT runs.id FROM runs JOIN timers ON timers.seq = runs.seq WHERE runs.finished_at IS NOT NULL
"""


class Violation(AssertionError):
    """An invariant does not hold."""


class Invariants:
    """Compares each commit with the one before."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._before: States = {}
        self._has_timers = bool(self.rows("SELECT 1 FROM sqlite_schema WHERE name = 'timers'"))
        self._has_inputs = bool(self.rows("SELECT 1 FROM sqlite_schema WHERE name = 'inputs'"))

    def rows(self, statement: str) -> Sequence[Any]:
        cursor = self._database.cursor()
        cursor.row_factory = None
        return cursor.execute(statement).fetchall()

    def check(self) -> list[str]:
        """Raise `Violation`, or return what has changed, in words."""
        now = {run: (state, attempt) for run, state, attempt in self.rows(_RUNS)}
        changes: list[str] = []
        for run, (state, attempt) in self._before.items():
            if run not in now:
                raise Violation(f"the accepted run {run} is gone")
            new_state, new_attempt = now[run]
            if state in ENDED and new_state != state:
                raise Violation(f"the run {run} was {state} and is {new_state}")
            if new_attempt < attempt:
                raise Violation(f"the run {run} was in attempt {attempt}, is in {new_attempt}")
        for run, (state, attempt) in now.items():
            if self._before.get(run) != (state, attempt):
                changes.append(f"{run[-5:]} {state} {attempt}")
        self._before = now
        self._check_none(_EQUAL, "two rows for one call")
        self._check_none(_EXECUTING, "a run has ended, and an attempt at it is said to execute")
        if self._has_inputs and self.rows("SELECT 1 FROM inputs LIMIT 1"):
            self._check_none(_EARLY, "a run is executed without one of its inputs")
            self._check_none(_MISCOUNTED, "a run waits for another number of inputs")
            self._check_none(_HOPELESS, "a run waits for what has failed")
        if self._has_timers:
            self._check_none(_DUE, "a run has ended, and a timer of it is set")
        return changes

    @property
    def committed(self) -> States:
        """As of the latest commit; another one the next time, so it can be kept."""
        return self._before

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self._before.values()]

    def _check_none(self, statement: str, what: str) -> None:
        if found := self.rows(statement):
            raise Violation(f"{what}: {found}")


def check_may_begin(run: str, states: States) -> None:
    """A run whose result is recorded is not executed again."""
    state, _ = states.get(run, ("absent", 0))
    if state in ("succeeded", "absent"):
        raise Violation(f"the run {run} is executed, and is {state}")
