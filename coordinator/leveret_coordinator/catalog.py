"""The catalog: what a batch needs is read, what was decided is written, in a handful of statements.

Every statement stands in `catalog.sql`; in `rows.py` rows become values and values rows.
"""

import json
import math
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leveret_broker.messages import Finished
from leveret_broker.topology import work_queue_name
from leveret_coordinator import provisions, rows, statements
from leveret_coordinator.database import Database, in_a_thread, mapped_errors
from leveret_coordinator.decision import Answer, Decision
from leveret_coordinator.errors import CatalogConflict
from leveret_coordinator.facts import Facts, Needs
from leveret_coordinator.records import (
    TIMERS,
    Attempt,
    ChangedRun,
    Confirmed,
    Definition,
    LostAttempt,
    NewCode,
    NewRun,
    Orphan,
    PendingRun,
    Run,
    Timer,
    TimerKind,
    Vanished,
    Waiter,
    Worker,
)
from leveret_coordinator.resolution import Known
from leveret_coordinator.rows import Row

WORKER_FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds of silence after which a worker's row is deleted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Liveness:
    """Which workers count as alive."""

    since: float
    """Those heard since then, in seconds since the Unix epoch."""
    gone: Collection[str] = ()
    """But not these: they were found to be gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueCount:
    """How many messages of a definition there must be, and how many of those workers have."""

    definition: str
    queue: str
    published: int
    held: int


class Catalog:
    """The truth about definitions, runs and workers. Used by one task at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(cls, path: Path | None, connect: statements.Connect = in_a_thread) -> "Catalog":
        """Open the file, or a catalog that lives as long as this object, for `None`.

        Raises `CatalogInUse`, `CatalogTooNew`, `NotACatalog` or `CatalogUnavailable`.
        """
        return cls(await Database.open(path, connect))

    async def close(self) -> None:
        await self._database.close()

    async def rows(self, statement: str, **parameters: object) -> list[Any]:
        """The rows of one of the reading statements of `catalog.sql`."""
        query = getattr(self._database.sql, statement)
        with mapped_errors(self._database.name):
            return [row async for row in query(self._database.connection, **parameters)]

    async def value(self, statement: str, **parameters: object) -> Any:
        """The one value of a statement that reads one."""
        query = getattr(self._database.sql, statement)
        with mapped_errors(self._database.name):
            return await query(self._database.connection, **parameters)

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """What is carried out in the block is kept as a whole, or not at all."""
        return self._database.transaction()

    async def carry_out(self, statement: str, **parameters: object) -> None:
        """One of the changing statements, within a transaction."""
        await getattr(self._database.sql, statement)(self._database.connection, **parameters)

    async def count_start(self) -> int:
        """How often a coordinator has started on this catalog, this time included."""
        async with self._database.transaction():
            await self._database.sql.count_start(self._database.connection)
        number: int = await self.value("starts")
        return number

    # -- what a decision needs --------------------------------------------------------------------

    async def load(self, needs: Needs, *, alive: Liveness) -> Facts:
        """The rows that a batch names."""
        runs = await self._runs_named(needs.runs | needs.inputs)
        below = await self._runs_below(needs.below)
        stopped = [run for _, run in below if run.finished_at is None]
        edges = await provisions.edges(self.rows, needs, runs, stopped)
        below += await self._runs_below(frozenset(run.id for _, run in edges.missing))
        may_end = [*stopped, *edges.runs]
        ending = needs.runs | {run.id for run in may_end}
        told = needs.asked | needs.lost | needs.moved
        definitions = needs.definitions | {
            run.definition for run in (*runs, *may_end) if run.id in told or run.is_input
        }
        known = await self._known(definitions, needs.names)
        if needs.moved:
            known = await self._known(
                definitions, needs.names | {d.name for d in known.definitions}
            )
        workers = needs.workers | {
            run.holder.worker for run in runs if run.holder is not None and run.id in needs.lost
        }
        served, deployed = await self._served((row.id for row in known.definitions), alive.since)
        return Facts(
            known=known,
            served=served,
            deployed=deployed,
            accepting=await self._accepting(known, alive.since),
            runs=runs,
            below=below,
            waiters=await self._waiters(ending) if runs else (),
            dependents=edges.dependents,
            missing=edges.missing,
            ended=await self._ended(needs.asked) if runs else (),
            workers=await self._workers(workers, alive),
            lost=await self._lost(needs.lost),
            foreseen=await self._bodies("foreseen_results", needs.sleeping, "result"),
            arguments=await self._bodies("arguments_of", needs.keyed if runs else (), "body"),
        )

    async def definitions(
        self, *, ids: Iterable[str] = (), names: Iterable[str] = ()
    ) -> list[Definition]:
        """All definitions, of every project, with one of the ids or names."""
        found = await self.rows("definitions_wanted", ids=_array(ids), names=_array(names))
        return [rows.definition_of(row) for row in found]

    async def known(self, ids: Iterable[str], names: Iterable[str]) -> Known:
        """What resolving identifiers with these ids and names looks at."""
        return await self._known(frozenset(ids), frozenset(names))

    async def _known(self, ids: frozenset[str], names: frozenset[str]) -> Known:
        if not ids and not names:
            return Known(definitions=())
        definitions = await self.definitions(ids=ids, names=names)
        if names <= {definition.name for definition in definitions}:
            return Known(definitions=definitions)
        similar = await self.rows("all_names")
        return Known(
            definitions=definitions,
            names=frozenset((row["project"], row["name"]) for row in similar),
        )

    async def _served(
        self, ids: Iterable[str], alive_since: float
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Those that are served, and those of them that are served with the worker's own code."""
        wanted = list(ids)
        if not wanted:
            return frozenset(), frozenset()
        found = await self.rows("definitions_served", ids=_array(wanted), alive_since=alive_since)
        return (
            frozenset(row["definition"] for row in found),
            frozenset(row["definition"] for row in found if row["is_deployed"]),
        )

    async def _accepting(self, known: Known, alive_since: float) -> frozenset[str]:
        if all(definition.code is None for definition in known.definitions):
            return frozenset()
        found = await self.rows("accepting_projects", alive_since=alive_since)
        return frozenset(row["project"] for row in found)

    async def _runs_named(self, ids: frozenset[str]) -> list[Run]:
        if not ids:
            return []
        return [rows.run_of(row) for row in await self.rows("runs_named", ids=_array(ids))]

    async def _runs_below(self, ids: frozenset[str]) -> list[tuple[str, Run]]:
        if not ids:
            return []
        found = await self.rows("runs_below", ids=_array(ids))
        return [(row["top"], rows.run_of(row)) for row in found]

    async def _waiters(self, runs: frozenset[str]) -> list[Waiter]:
        found = await self.rows("waiters_of", ids=_array(runs))
        return [Waiter(run=row["run_id"], session=row["session"]) for row in found]

    async def _ended(self, runs: Iterable[str]) -> list[Finished]:
        return [rows.finished_of(row) for row in await self.rows("ended", ids=_array(runs))]

    async def _workers(self, ids: frozenset[str], alive: Liveness) -> dict[str, Worker]:
        if not ids:
            return {}
        found = await self.rows("workers_named", ids=_array(ids))
        workers = [rows.worker_of(row, alive_since=alive.since, gone=alive.gone) for row in found]
        return {worker.id: worker for worker in workers}

    async def _lost(self, runs: frozenset[str]) -> dict[str, list[LostAttempt]]:
        lost: dict[str, list[LostAttempt]] = {}
        if not runs:
            return lost
        for row in await self.rows("lost_attempts", ids=_array(runs)):
            attempt = LostAttempt(
                number=row["number"],
                host=row["host"],
                finished_at=row["finished_at"],
                reason=row["failure_message"] or "unknown",
            )
            lost.setdefault(row["id"], []).append(attempt)
        return lost

    async def _bodies(self, statement: str, runs: Collection[str], column: str) -> dict[str, bytes]:
        if not runs:
            return {}
        found = await self.rows(statement, ids=_array(runs))
        return {row["id"]: row[column] for row in found if row[column] is not None}

    # -- what was decided -------------------------------------------------------------------------

    async def write(self, decision: Decision, confirmed: Confirmed, *, now: float) -> None:
        """Write it all, with what was confirmed meanwhile, in one transaction, or nothing.

        Raises `CatalogConflict` if a row isn't as it was when the decision was made.
        """
        async with self._database.transaction():
            await self._put_definitions(decision.definitions)
            await self._put_code(decision.code, now)
            await self._put_workers(decision, now)
            await self._insert_runs(decision.runs)
            await self._change_runs(decision.changed)
            await self._put_attempts(decision.attempts)
            await self._put_ends(decision)
            await self._put_timers(decision)
            # Before the waiters: of an answer that was confirmed, and is wanted once more.
            await self._confirm(confirmed, now)
            await self._insert_waiters(decision.waiters)

    async def _many(self, statement: str, parameters: Sequence[Row]) -> int:
        if not parameters:
            return 0
        query = getattr(self._database.sql, statement)
        changed: int = await query(self._database.connection, parameters)
        return changed

    async def _many_expected(self, statement: str, parameters: Sequence[Row]) -> None:
        changed = await self._many(statement, parameters)
        if changed != len(parameters):
            raise CatalogConflict(
                f"{statement.replace('_', ' ')}: {len(parameters) - changed} of {len(parameters)} "
                "rows were changed by somebody else meanwhile"
            )

    async def _put_definitions(self, definitions: Sequence[Definition]) -> None:
        await self._many("put_definition", [rows.definition_row(each) for each in definitions])

    async def _put_code(self, code: Sequence[NewCode], now: float) -> None:
        put: list[Row] = [
            {"project": new.project, "digest": new.digest, "body": new.body, "shipped_at": now}
            for new in code
        ]
        await self._many("put_code", put)

    async def _put_workers(self, decision: Decision, now: float) -> None:
        if decision.heartbeats:
            beats: list[Row] = [
                {
                    **heartbeat.model_dump(exclude={"type"}),
                    "definitions": _array(heartbeat.definitions),
                    "held": json.dumps(heartbeat.held),
                    "shipped": _array(heartbeat.shipped),
                    "now": now,
                }
                for heartbeat in decision.heartbeats
            ]
            await self._many("put_worker", beats)
            await self._many("withdraw_definitions", beats)
            await self._many("serve_definitions", beats)
            await self._database.sql.forget_workers(
                self._database.connection, silent_since=now - WORKER_FORGOTTEN_AFTER
            )
        if decision.goodbyes:
            await self._database.sql.dismiss_workers(
                self._database.connection, ids=_array(decision.goodbyes), now=now
            )

    async def _insert_runs(self, runs: Sequence[NewRun]) -> None:
        inserted = [rows.new_run_row(new) for new in runs]
        await self._many_expected("insert_runs", inserted)
        await self._many("insert_arguments", inserted)
        await self._many("put_stored", rows.stored_rows_of_runs(runs))
        inputs: list[Row] = [
            {"run": new.run.id, "inputs": _array(new.inputs)} for new in runs if new.inputs
        ]
        await self._many("insert_inputs", inputs)
        await self._many("insert_run_code", [row for row in inserted if row["code"] is not None])

    async def _change_runs(self, changed: Sequence[ChangedRun]) -> None:
        await self._many_expected("change_runs", [rows.changed_run_row(each) for each in changed])

    async def _put_attempts(self, attempts: Sequence[Attempt]) -> None:
        await self._many("put_attempts", [rows.attempt_row(each) for each in attempts])

    async def _put_ends(self, decision: Decision) -> None:
        reopened: list[Row] = [{"run": run} for run in decision.reopened]
        await self._many("forget_results", reopened)
        await self._many("forget_stored", reopened)
        await self._many("put_results", [rows.result_row(end) for end in decision.ends])
        await self._many("put_stored", rows.stored_rows_of_ends(decision.ends))

    async def _put_timers(self, decision: Decision) -> None:
        cleared: list[Row] = [{"run": run, "kind": kind} for run, kind in decision.cleared]
        await self._many("clear_timers", cleared)
        timers: list[Row] = [
            {"run": timer.run, "kind": timer.kind, "due_at": timer.due_at}
            for timer in decision.timers
        ]
        await self._many("set_timers", timers)

    async def _insert_waiters(self, waiters: Sequence[Waiter]) -> None:
        await self._many("insert_waiters", rows.waiter_rows(waiters))

    # -- the outbox -------------------------------------------------------------------------------

    async def confirm(self, confirmed: Confirmed, *, now: float) -> None:
        """Write what the broker confirmed."""
        async with self._database.transaction():
            await self._confirm(confirmed, now)

    async def _confirm(self, confirmed: Confirmed, now: float) -> None:
        published: list[Row] = [
            {"run": each.run, "attempt": each.attempt, "now": now} for each in confirmed.published
        ]
        await self._many("confirm_published", published)
        await self._many("remove_waiters", rows.waiter_rows(confirmed.settled))

    async def pending(self, *, page: int) -> AsyncGenerator[list[PendingRun], None]:
        """Runs whose invocation is not confirmed as published, oldest first, page by page.

        Each page begins behind the last one, whether or not that was confirmed meanwhile.
        """
        created_at, seq = -math.inf, 0
        while found := await self.rows("pending_runs", created_at=created_at, seq=seq, most=page):
            created_at, seq = found[-1]["created_at"], found[-1]["seq"]
            yield await provisions.provided(self.rows, [rows.pending_run_of(row) for row in found])

    async def pending_named(self, runs: Iterable[str]) -> list[PendingRun]:
        """Those of the runs whose invocation is to be published."""
        found = await self.rows("pending_named", ids=_array(runs))
        return await provisions.provided(self.rows, [rows.pending_run_of(row) for row in found])

    async def unanswered(self, *, page: int) -> AsyncGenerator[list[Answer], None]:
        """The ends of runs that sessions are to be told, page by page."""
        run, session = "", ""
        while found := await self.rows("unanswered", run=run, session=session, most=page):
            run, session = found[-1]["run_id"], found[-1]["session"]
            ended = {end.run: end for end in await self._ended(row["run_id"] for row in found)}
            yield [Answer(session=row["session"], reply=ended[row["run_id"]]) for row in found]

    async def forget_published(self, *, now: float) -> None:
        """Every run that has not ended is to be published again, and no worker lives any more."""
        sql, connection = self._database.sql, self._database.connection
        async with self._database.transaction():
            await sql.forget_attempts(connection, now=now)
            await sql.forget_published(connection, now=now)
            await sql.dismiss_all_workers(connection, now=now)

    async def queues(self) -> list[str]:
        """The work queues of all definitions."""
        return [
            work_queue_name(row["project"], row["name"], row["version"])
            for row in await self.rows("all_queues")
        ]

    # -- what is due, and what went wrong unheard -------------------------------------------------

    async def next_due(self) -> float | None:
        """When the next timer is due, `None` if there is none."""
        due: float | None = await self.value("next_due")
        return due

    async def timers_due(
        self, *, now: float, kinds: Sequence[TimerKind] = TIMERS, most: int
    ) -> list[Timer]:
        found = await self.rows("timers_due", now=now, kinds=_array(kinds), most=most)
        return [Timer(run=row["run"], kind=row["kind"], due_at=row["due_at"]) for row in found]

    async def put_off(self, timer: Timer, *, until: float) -> None:
        """Have a timer be due later."""
        async with self._database.transaction():
            row: Row = {"run": timer.run, "kind": timer.kind, "due_at": until}
            await self._many("set_timers", [row])

    async def orphans(self, alive: Liveness, *, most: int) -> list[Orphan]:
        """Attempts whose worker is gone."""
        found = await self.rows(
            "orphans", alive_since=alive.since, gone=_array(alive.gone), most=most
        )
        return [
            Orphan(run=row["run"], attempt=row["attempt"], worker=row["worker"]) for row in found
        ]

    async def late_holders(self, *, heard_since: float) -> list[str]:
        """Workers that execute something and were not heard since then."""
        found = await self.rows("late_holders", heard_since=heard_since)
        return [row["worker"] for row in found]

    async def old_in_queues(self, *, before: float, alive_since: float) -> list[QueueCount]:
        """The counts of those definitions that have runs in their queues since before then."""
        found = await self.rows("old_in_queues", before=before, alive_since=alive_since)
        return [
            QueueCount(
                definition=row["id"],
                queue=work_queue_name(row["project"], row["name"], row["version"]),
                published=row["published"],
                held=row["held"],
            )
            for row in found
        ]

    async def queued_before(self, definition: str, *, before: float, most: int) -> list[Vanished]:
        """Runs of a definition that were published before then and are not started."""
        found = await self.rows("queued_before", definition=definition, before=before, most=most)
        return [Vanished(run=row["run"], attempt=row["attempt"]) for row in found]

    async def has_pending(self, *, before: float) -> bool:
        """Whether a run was to be published before then and is not yet."""
        return bool(await self.value("pending_before", before=before))


def _array(texts: Iterable[str]) -> str:
    return json.dumps(list(texts))
