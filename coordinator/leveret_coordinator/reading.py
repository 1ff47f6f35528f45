"""What a decision needs to know, read from the catalog in as few statements as it takes."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from leveret_broker.messages import Finished
from leveret_coordinator import provisions, rows
from leveret_coordinator.facts import Facts, Needs
from leveret_coordinator.records import Definition, LostAttempt, Run, Waiter, Worker
from leveret_coordinator.resolution import Known
from leveret_coordinator.rows import as_array
from leveret_coordinator.statements import Statements


@dataclass(frozen=True, kw_only=True, slots=True)
class Liveness:
    """Which workers count as alive."""

    since: float
    """Those heard since then, in seconds since the Unix epoch."""
    gone: Collection[str] = ()
    """But not these: they were found to be gone."""


def load(sql: Statements, needs: Needs, *, alive: Liveness) -> Facts:
    """The rows that a batch names."""
    runs = _runs_named(sql, needs.runs | needs.inputs)
    below = _runs_below(sql, needs.below)
    stopped = [run for _, run in below if run.finished_at is None]
    edges = provisions.edges(sql, needs, runs, stopped)
    below += _runs_below(sql, frozenset(run.id for _, run in edges.missing))
    may_end = [*stopped, *edges.runs]
    ending = needs.runs | {run.id for run in may_end}
    told = needs.asked | needs.lost | needs.moved
    wanted = needs.definitions | {
        run.definition for run in (*runs, *may_end) if run.id in told or run.is_input
    }
    known = known_of(sql, wanted, needs.names)
    if needs.moved:
        known = known_of(sql, wanted, needs.names | {d.name for d in known.definitions})
    workers = needs.workers | {
        run.holder.worker for run in runs if run.holder is not None and run.id in needs.lost
    }
    served, deployed = _served(sql, (row.id for row in known.definitions), alive.since)
    return Facts(
        known=known,
        served=served,
        deployed=deployed,
        accepting=_accepting(sql, known, alive.since),
        runs=runs,
        below=below,
        waiters=_waiters(sql, ending) if runs else (),
        dependents=edges.dependents,
        missing=edges.missing,
        ended=ends(sql, needs.asked) if runs else (),
        workers=_workers(sql, workers, alive),
        lost=_lost(sql, needs.lost),
        foreseen=_bodies(sql, "foreseen_results", needs.sleeping, "result"),
        arguments=_bodies(sql, "arguments_of", needs.keyed if runs else (), "body"),
    )


def definitions(
    sql: Statements, *, ids: Iterable[str] = (), names: Iterable[str] = ()
) -> list[Definition]:
    """All definitions, of every project, with one of the ids or names."""
    found = sql.rows("definitions_wanted", ids=as_array(ids), names=as_array(names))
    return [rows.definition_of(row) for row in found]


def known_of(sql: Statements, ids: frozenset[str], names: frozenset[str]) -> Known:
    if not ids and not names:
        return Known(definitions=())
    found = definitions(sql, ids=ids, names=names)
    if names <= {definition.name for definition in found}:
        return Known(definitions=found)
    similar = sql.rows("all_names")
    return Known(
        definitions=found,
        names=frozenset((row["project"], row["name"]) for row in similar),
    )


def _served(
    sql: Statements, ids: Iterable[str], alive_since: float
) -> tuple[frozenset[str], frozenset[str]]:
    """Those that are served, and those of them that are served with the worker's own code."""
    wanted = list(ids)
    if not wanted:
        return frozenset(), frozenset()
    found = sql.rows("definitions_served", ids=as_array(wanted), alive_since=alive_since)
    return (
        frozenset(row["definition"] for row in found),
        frozenset(row["definition"] for row in found if row["is_deployed"]),
    )


def _accepting(sql: Statements, known: Known, alive_since: float) -> frozenset[str]:
    if all(definition.code is None for definition in known.definitions):
        return frozenset()
    found = sql.rows("accepting_projects", alive_since=alive_since)
    return frozenset(row["project"] for row in found)


def _runs_named(sql: Statements, ids: frozenset[str]) -> list[Run]:
    if not ids:
        return []
    return [rows.run_of(row) for row in sql.rows("runs_named", ids=as_array(ids))]


def _runs_below(sql: Statements, ids: frozenset[str]) -> list[tuple[str, Run]]:
    if not ids:
        return []
    found = sql.rows("runs_below", ids=as_array(ids))
    return [(row["top"], rows.run_of(row)) for row in found]


def _waiters(sql: Statements, runs: frozenset[str]) -> list[Waiter]:
    found = sql.rows("waiters_of", ids=as_array(runs))
    return [Waiter(run=row["run_id"], session=row["session"]) for row in found]


def ends(sql: Statements, runs: Iterable[str]) -> list[Finished]:
    return [rows.finished_of(row) for row in sql.rows("ended", ids=as_array(runs))]


def _workers(sql: Statements, ids: frozenset[str], alive: Liveness) -> dict[str, Worker]:
    if not ids:
        return {}
    found = sql.rows("workers_named", ids=as_array(ids))
    workers = [rows.worker_of(row, alive_since=alive.since, gone=alive.gone) for row in found]
    return {worker.id: worker for worker in workers}


def _lost(sql: Statements, runs: frozenset[str]) -> dict[str, list[LostAttempt]]:
    lost: dict[str, list[LostAttempt]] = {}
    if not runs:
        return lost
    for row in sql.rows("lost_attempts", ids=as_array(runs)):
        attempt = LostAttempt(
            number=row["number"],
            host=row["host"],
            finished_at=row["finished_at"],
            reason=row["failure_message"] or "unknown",
        )
        lost.setdefault(row["id"], []).append(attempt)
    return lost


def _bodies(
    sql: Statements, statement: str, runs: Collection[str], column: str
) -> dict[str, bytes]:
    if not runs:
        return {}
    found = sql.rows(statement, ids=as_array(runs))
    return {row["id"]: row[column] for row in found if row[column] is not None}
