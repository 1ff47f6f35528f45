"""The catalog: every question and every decision is one trip to the database's thread.

Every statement stands in `catalog.sql`; `reading.py` and `writing.py` use them for decisions; in
`rows.py` rows become values and values rows.
"""

import math
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from leveret_broker.topology import work_queue_name
from leveret_coordinator import provisions, reading, rows, statements, writing
from leveret_coordinator.database import Database, in_a_thread
from leveret_coordinator.decision import Answer, Decision
from leveret_coordinator.facts import Facts, Needs
from leveret_coordinator.reading import Liveness
from leveret_coordinator.records import (
    TIMERS,
    Confirmed,
    Definition,
    Orphan,
    PendingRun,
    Timer,
    TimerKind,
    Vanished,
)
from leveret_coordinator.resolution import Known
from leveret_coordinator.rows import Row, as_array
from leveret_coordinator.statements import Statements

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueCount:
    """How many messages of a definition there must be, and how many of those workers have."""

    definition: str
    queue: str
    published: int
    held: int
    together: int = 1
    """How many of them a message may hold."""


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
        return await self._database.run(lambda sql: sql.rows(statement, **parameters))

    async def value(self, statement: str, **parameters: object) -> Any:
        """The one value of a statement that reads one."""
        return await self._database.run(lambda sql: sql.value(statement, **parameters))

    async def run(self, work: Callable[[Statements], T]) -> T:
        """Do all of it in one trip. `Statements.transaction` keeps what it changes whole."""
        return await self._database.run(work)

    async def count_start(self) -> int:
        """How often a coordinator has started on this catalog, this time included."""
        await self._database.write(lambda sql: sql.do("count_start"))
        number: int = await self.value("starts")
        return number

    # -- decisions --------------------------------------------------------------------------------

    async def load(self, needs: Needs, *, alive: Liveness) -> Facts:
        """The rows that a batch names."""
        return await self._database.run(lambda sql: reading.load(sql, needs, alive=alive))

    async def write(self, decision: Decision, confirmed: Confirmed, *, now: float) -> None:
        """Write it all, with what was confirmed meanwhile, in one transaction, or nothing.

        Raises `CatalogConflict` if a row isn't as it was when the decision was made.
        """
        await self._database.write(lambda sql: writing.write(sql, decision, confirmed, now=now))

    async def carry_out(
        self,
        needs: Needs,
        decide: Callable[[Facts], Decision],
        confirmed: Confirmed,
        *,
        alive: Liveness,
        now: float,
    ) -> Decision:
        """Load, decide and write, in one trip to the database's thread, where `decide` is called.

        Raises what `decide` and `write` raise.
        """

        def carried_out(sql: Statements) -> Decision:
            decision = decide(reading.load(sql, needs, alive=alive))
            if decision.writes or confirmed:
                with sql.transaction():
                    writing.write(sql, decision, confirmed, now=now)
            return decision

        return await self._database.run(carried_out)

    async def definitions(
        self, *, ids: Iterable[str] = (), names: Iterable[str] = ()
    ) -> list[Definition]:
        """All definitions, of every project, with one of the ids or names."""
        return await self._database.run(lambda sql: reading.definitions(sql, ids=ids, names=names))

    async def known(self, ids: Iterable[str], names: Iterable[str]) -> Known:
        """What resolving identifiers with these ids and names looks at."""
        wanted = frozenset(ids), frozenset(names)
        return await self._database.run(lambda sql: reading.known_of(sql, *wanted))

    # -- the outbox -------------------------------------------------------------------------------

    async def confirm(self, confirmed: Confirmed, *, now: float) -> None:
        """Write what the broker confirmed."""
        await self._database.write(lambda sql: writing.confirm(sql, confirmed, now))

    async def pending(self, *, page: int) -> AsyncGenerator[list[PendingRun], None]:
        """Runs whose invocation is not confirmed as published, oldest first, page by page.

        Each page begins behind the last one, whether or not that was confirmed meanwhile.
        """
        created_at, seq = -math.inf, 0
        while found := await self.rows("pending_runs", created_at=created_at, seq=seq, most=page):
            created_at, seq = found[-1]["created_at"], found[-1]["seq"]
            pending = [rows.pending_run_of(row) for row in found]
            yield await self._database.run(partial(provisions.provided, pending=pending))

    async def pending_named(self, runs: Iterable[str]) -> list[PendingRun]:
        """Those of the runs whose invocation is to be published."""

        def named(sql: Statements) -> list[PendingRun]:
            found = sql.rows("pending_named", ids=as_array(runs))
            return provisions.provided(sql, [rows.pending_run_of(row) for row in found])

        return await self._database.run(named)

    async def unanswered(self, *, page: int) -> AsyncGenerator[list[Answer], None]:
        """The ends of runs that sessions are to be told, page by page."""
        run, session = "", ""
        while found := await self.rows("unanswered", run=run, session=session, most=page):
            run, session = found[-1]["run_id"], found[-1]["session"]
            told = [row["run_id"] for row in found]
            ends = await self._database.run(partial(reading.ends, runs=told))
            ended = {end.run: end for end in ends}
            yield [Answer(session=row["session"], reply=ended[row["run_id"]]) for row in found]

    async def let_share(self, definitions: Iterable[str], *, most: int) -> None:
        """From now on up to `most` runs of each of these definitions share a message."""
        ids = as_array(definitions)
        await self._database.write(lambda sql: sql.do("let_share", ids=ids, most=most))

    async def forget_published(self, *, now: float) -> None:
        """Every run that has not ended is to be published again, and no worker lives any more."""

        def forget(sql: Statements) -> None:
            for statement in ("forget_attempts", "forget_published", "dismiss_all_workers"):
                sql.do(statement, now=now)

        await self._database.write(forget)

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
        found = await self.rows("timers_due", now=now, kinds=as_array(kinds), most=most)
        return [Timer(run=row["run"], kind=row["kind"], due_at=row["due_at"]) for row in found]

    async def put_off(self, timer: Timer, *, until: float) -> None:
        """Have a timer be due later."""
        row: Row = {"run": timer.run, "kind": timer.kind, "due_at": until}
        await self._database.write(lambda sql: sql.do_for_each("set_timers", [row]))

    async def orphans(self, alive: Liveness, *, most: int) -> list[Orphan]:
        """Attempts whose worker is gone."""
        found = await self.rows(
            "orphans", alive_since=alive.since, gone=as_array(alive.gone), most=most
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
                together=row["together"],
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
