"""Which runs need the results of which: the rows of the table `inputs`, read for a batch.

Nothing here asks the catalog anything about a run that neither has inputs nor is one.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from leveret_broker.messages import Input
from leveret_coordinator import rows
from leveret_coordinator.facts import Needs
from leveret_coordinator.records import PendingRun, Run
from leveret_coordinator.statements import Statements

MOST_INLINE = 64 * 1024
"""Bytes of results that an invocation brings along; of more, the worker asks for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edges:
    """What has an input, and what is one. Pairs of an id and the run at its other end."""

    dependents: Sequence[tuple[str, Run]] = ()
    """For what may end: what waits for it."""
    missing: Sequence[tuple[str, Run]] = ()
    """For what may be stopped or opened again: its inputs that have not succeeded, and theirs."""

    @property
    def runs(self) -> list[Run]:
        return [run for _, run in (*self.dependents, *self.missing)]


def edges(sql: Statements, needs: Needs, runs: Sequence[Run], stopped: Sequence[Run]) -> Edges:
    """What a batch has to know; `stopped` may be stopped by it."""
    missing = _missing(sql, needs, runs, stopped)
    released = [run for _, run in missing if run.finished_at is None]
    may_end = [run for run in runs if run.id in needs.ending]
    ending = {run.id for run in (*may_end, *stopped, *released) if run.is_input}
    succeeding = {run.id for run in runs if run.is_input and run.id in needs.succeeding}
    dependents = [
        *_pairs(sql, "all_dependents_of", "input", ending),
        *_pairs(sql, "dependents_of", "input", succeeding - ending),
    ]
    return Edges(dependents=dependents, missing=missing)


def _missing(
    sql: Statements, needs: Needs, runs: Sequence[Run], stopped: Sequence[Run]
) -> list[tuple[str, Run]]:
    waiting = {run.id for run in stopped if run.waits_for}
    opened = {
        run.id
        for run in runs
        if run.inputs and run.id in needs.asked and run.state in ("failed", "cancelled")
    }
    return _pairs(sql, "missing_inputs", "dependent", waiting | opened)


def _pairs(
    sql: Statements, statement: str, column: str, ids: Iterable[str]
) -> list[tuple[str, Run]]:
    wanted = json.dumps(list(ids))
    if wanted == "[]":
        return []
    return [(row[column], rows.run_of(row)) for row in sql.rows(statement, ids=wanted)]


def provided(sql: Statements, pending: Sequence[PendingRun]) -> list[PendingRun]:
    """The same runs with the results that they need, or with what these are the results of."""
    wanted = [each.run.id for each in pending if each.run.inputs]
    if not wanted:
        return list(pending)
    inputs: dict[str, list[Input]] = {run: [] for run in wanted}
    for row in sql.rows("input_results", ids=json.dumps(wanted), most=MOST_INLINE):
        inputs[row["dependent"]].append(Input(run=row["input"], result=row["result"]))
    return [replace(each, inputs=tuple(inputs.get(each.run.id, ()))) for each in pending]
