"""The catalog: what a batch needs is read, what was decided is written, in a handful of statements.

Every statement stands in `catalog.sql`; here rows become values and values rows.
"""

import json
import math
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import Any

from leveret_broker.messages import Failure, Finished
from leveret_broker.topology import work_queue_name
from leveret_coordinator import statements, states
from leveret_coordinator.database import Database, in_a_thread, mapped_errors
from leveret_coordinator.decision import Answer, Decision
from leveret_coordinator.errors import CatalogConflict
from leveret_coordinator.facts import Facts, Needs
from leveret_coordinator.records import (
    Confirmed,
    Definition,
    FinishedAttempt,
    NewRun,
    PendingRun,
    Run,
    StartedAttempt,
    Waiter,
)
from leveret_coordinator.resolution import Known

WORKER_FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds of silence after which a worker's row is deleted."""


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

    # -- what a decision needs --------------------------------------------------------------------

    async def load(self, needs: Needs, *, alive_since: float) -> Facts:
        """The rows that a batch names."""
        runs = await self._runs_named(needs.runs)
        below = await self._runs_below(needs.cancelled)
        ending = needs.runs | {run.id for _, run in below if not states.has_ended(run.state)}
        definitions = needs.definitions | {run.definition for run in runs if run.id in needs.asked}
        known = await self._known(definitions, needs.names)
        return Facts(
            known=known,
            served=await self._served((row.id for row in known.definitions), alive_since),
            runs=runs,
            below=below,
            waiters=await self._waiters(ending) if runs else (),
            ended=await self._ended(needs.asked) if runs else (),
        )

    async def definitions(
        self, *, ids: Iterable[str] = (), names: Iterable[str] = ()
    ) -> list[Definition]:
        """All definitions, of every project, with one of the ids or names."""
        rows = await self.rows("definitions_wanted", ids=_array(ids), names=_array(names))
        return [Definition(**row) for row in rows]

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

    async def _served(self, ids: Iterable[str], alive_since: float) -> frozenset[str]:
        wanted = list(ids)
        if not wanted:
            return frozenset()
        rows = await self.rows("definitions_served", ids=_array(wanted), alive_since=alive_since)
        return frozenset(row["definition"] for row in rows)

    async def _runs_named(self, ids: frozenset[str]) -> list[Run]:
        return [Run(**row) for row in await self.rows("runs_named", ids=_array(ids))] if ids else []

    async def _runs_below(self, ids: frozenset[str]) -> list[tuple[str, Run]]:
        if not ids:
            return []
        rows = await self.rows("runs_below", ids=_array(ids))
        return [(row["top"], _run(row)) for row in rows]

    async def _waiters(self, runs: frozenset[str]) -> list[Waiter]:
        rows = await self.rows("waiters_of", ids=_array(runs))
        return [Waiter(run=row["run_id"], session=row["session"]) for row in rows]

    async def _ended(self, runs: Iterable[str]) -> list[Finished]:
        return [_finished(row) for row in await self.rows("ended", ids=_array(runs))]

    # -- what was decided -------------------------------------------------------------------------

    async def write(self, decision: Decision, confirmed: Confirmed, *, now: float) -> None:
        """Write it all, with what was confirmed meanwhile, in one transaction, or nothing.

        Raises `CatalogConflict` if a row isn't as it was when the decision was made.
        """
        async with self._database.transaction():
            await self._confirm(confirmed)
            await self._put_definitions(decision.definitions)
            await self._put_workers(decision, now)
            await self._insert_runs(decision.runs)
            await self._insert_waiters(decision.waiters)
            await self._start(decision.started)
            await self._finish(decision.finished)

    async def _many(self, statement: str, rows: Sequence[dict[str, object]]) -> int:
        query = getattr(self._database.sql, statement)
        changed: int = await query(self._database.connection, rows)
        return changed

    async def _many_expected(self, statement: str, rows: Sequence[dict[str, object]]) -> None:
        changed = await self._many(statement, rows)
        if changed != len(rows):
            raise CatalogConflict(
                f"{statement.replace('_', ' ')}: {len(rows) - changed} of {len(rows)} rows were "
                "changed by somebody else meanwhile"
            )

    async def _put_definitions(self, definitions: Sequence[Definition]) -> None:
        if not definitions:
            return
        rows: list[dict[str, object]] = [
            {
                "id": row.id,
                "project": row.project,
                "kind": row.kind,
                "name": row.name,
                "version": row.version,
                "revision": row.revision,
                "fingerprint": row.fingerprint,
                "module": row.module,
                "qualname": row.qualname,
                "description": row.description,
                "registered_at": row.registered_at,
            }
            for row in definitions
        ]
        await self._many("put_definition", rows)

    async def _put_workers(self, decision: Decision, now: float) -> None:
        if decision.heartbeats:
            rows: list[dict[str, object]] = [
                {
                    **heartbeat.model_dump(exclude={"type"}),
                    "definitions": _array(heartbeat.definitions),
                    "now": now,
                }
                for heartbeat in decision.heartbeats
            ]
            await self._many("put_worker", rows)
            await self._many("withdraw_definitions", rows)
            await self._many("serve_definitions", rows)
        if decision.heartbeats or decision.goodbyes:
            await self._database.sql.forget_workers(
                self._database.connection,
                ids=_array(decision.goodbyes),
                silent_since=now - WORKER_FORGOTTEN_AFTER,
            )

    async def _insert_runs(self, runs: Sequence[NewRun]) -> None:
        if runs:
            rows = [_new_run_row(new) for new in runs]
            await self._many_expected("insert_runs", rows)
            await self._many("insert_arguments", rows)

    async def _insert_waiters(self, waiters: Sequence[Waiter]) -> None:
        if waiters:
            await self._many("insert_waiters", _waiter_rows(waiters))

    async def _start(self, started: Sequence[StartedAttempt]) -> None:
        if started:
            rows: list[dict[str, object]] = [
                {
                    "run": attempt.run,
                    "attempt": attempt.attempt,
                    "worker": attempt.worker,
                    "started_at": attempt.started_at,
                }
                for attempt in started
            ]
            await self._many_expected("start_runs", rows)
            await self._many("start_attempts", rows)

    async def _finish(self, finished: Sequence[FinishedAttempt]) -> None:
        if not finished:
            return
        rows = [_finished_row(attempt) for attempt in finished]
        await self._many_expected("finish_runs", rows)
        told = [row for row in rows if row["worker"] is not None]
        if told:
            await self._many("insert_results", told)
            await self._many("finish_attempts", told)
        if len(told) < len(rows):
            await self._many("end_attempts", [row for row in rows if row["worker"] is None])

    # -- the outbox -------------------------------------------------------------------------------

    async def confirm(self, confirmed: Confirmed) -> None:
        """Write what the broker confirmed."""
        async with self._database.transaction():
            await self._confirm(confirmed)

    async def _confirm(self, confirmed: Confirmed) -> None:
        if confirmed.published:
            await self._many(
                "confirm_published",
                [{"run": each.run, "attempt": each.attempt} for each in confirmed.published],
            )
        if confirmed.settled:
            await self._many("remove_waiters", _waiter_rows(confirmed.settled))

    async def pending(self, *, page: int) -> AsyncGenerator[list[PendingRun], None]:
        """Runs whose invocation is not confirmed as published, oldest first, page by page.

        Each page begins behind the last one, whether or not that was confirmed meanwhile.
        """
        created_at, seq = -math.inf, 0
        while rows := await self.rows("pending_runs", created_at=created_at, seq=seq, most=page):
            created_at, seq = rows[-1]["created_at"], rows[-1]["seq"]
            yield [_pending_run(row) for row in rows]

    async def unanswered(self, *, page: int) -> AsyncGenerator[list[Answer], None]:
        """The ends of runs that sessions are to be told, page by page."""
        run, session = "", ""
        while rows := await self.rows("unanswered", run=run, session=session, most=page):
            run, session = rows[-1]["run_id"], rows[-1]["session"]
            ended = {end.run: end for end in await self._ended(row["run_id"] for row in rows)}
            yield [Answer(session=row["session"], reply=ended[row["run_id"]]) for row in rows]

    async def forget_published(self) -> None:
        """Every run that has not ended is to be published again."""
        async with self._database.transaction():
            await self._database.sql.forget_published(self._database.connection)

    async def queues(self) -> list[str]:
        """The work queues of all definitions."""
        return [
            work_queue_name(row["project"], row["name"], row["version"])
            for row in await self.rows("all_queues")
        ]


def failure_of(row: Any, traceback: str | None = None) -> Failure | None:
    """The failure in a row of a run, `None` if it has none."""
    if row["failure_type"] is None:
        return None
    return Failure(
        type=row["failure_type"], message=row["failure_message"], traceback=traceback or ""
    )


def _run(row: Any) -> Run:
    return Run(
        id=row["id"],
        project=row["project"],
        definition=row["definition"],
        root=row["root"],
        parent=row["parent"],
        state=row["state"],
        attempt=row["attempt"],
    )


def _pending_run(row: Any) -> PendingRun:
    return PendingRun(
        run=_run(row),
        queue=work_queue_name(row["queue_project"], row["name"], row["version"]),
        arguments=row["body"],
    )


def _finished(row: Any) -> Finished:
    return Finished(
        run=row["id"],
        state=row["state"],
        result=row["result"],
        error=row["error"],
        failure=failure_of(row, row["failure_traceback"]),
    )


def _new_run_row(new: NewRun) -> dict[str, object]:
    return {
        "id": new.run.id,
        "project": new.run.project,
        "definition": new.run.definition,
        "root": new.run.root,
        "parent": new.run.parent,
        "identity": new.identity,
        "ordinal": new.ordinal,
        "asked_for": new.asked_for,
        "state": new.run.state,
        "attempt": new.run.attempt,
        "created_at": new.created_at,
        "finished_at": new.finished_at,
        "arguments": new.arguments,
    }


def _finished_row(finished: FinishedAttempt) -> dict[str, object]:
    failure = finished.failure
    return {
        "run": finished.run,
        "attempt": finished.attempt,
        "state": finished.state,
        "worker": finished.worker,
        "started_at": finished.started_at,
        "finished_at": finished.finished_at,
        "result": finished.result,
        "error": finished.error,
        "failure_type": failure.type if failure else None,
        "failure_message": failure.message if failure else None,
        "failure_traceback": failure.traceback if failure else None,
    }


def _waiter_rows(waiters: Iterable[Waiter]) -> list[dict[str, object]]:
    return [{"run": waiter.run, "session": waiter.session} for waiter in waiters]


def _array(texts: Iterable[str]) -> str:
    return json.dumps(list(texts))
