"""What is known once all is over: rows of the catalog, lines of the ledger, entries of the journal.

The catalog is read as the file it is: whoever is judged is not asked.
"""

import json
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.chaos import driver, ledger

ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run in the catalog, with its attempts."""

    id: str
    name: str
    kind: str
    root: str
    parent: str | None
    state: str
    attempt: int
    created_at: float
    finished_at: float | None
    everything: dict[str, Any]
    attempts: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """News of an attempt that the coordinator refused."""

    run: str
    attempt: int
    started_at: float
    """When the worker began it."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    seed: int
    rows: dict[str, Row]
    refused: list[Refused]
    lines: list[ledger.Line]
    journal: list[driver.Entry]
    timers: list[dict[str, Any]]
    waiters: list[dict[str, Any]]
    changed_ends: list[str]
    """Ends that were seen, and seen otherwise later."""
    left: dict[str, int]
    """Messages by queue, once all was quiet and nobody held any."""
    examples: list[str]
    """Some of those."""
    memory: dict[str, list[float]]
    """MiB over time by process."""
    troubles: list[str]


@contextmanager
def opened(catalog: Path) -> Generator[sqlite3.Connection]:
    """The catalog, to be read while somebody writes."""
    with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def rows(catalog: Path) -> dict[str, Row]:
    with opened(catalog) as connection:
        attempts: dict[int, list[dict[str, Any]]] = {}
        for row in connection.execute("SELECT * FROM attempts ORDER BY seq, number"):
            attempts.setdefault(row["seq"], []).append(dict(row))
        found = connection.execute(
            "SELECT runs.*, definitions.name AS of_name, definitions.kind AS of_kind"
            " FROM runs JOIN definitions ON definitions.id = runs.definition ORDER BY seq"
        )
        return {row["id"]: _row(dict(row), attempts.get(row["seq"], [])) for row in found}


def refused(logs: Iterable[Path]) -> list[Refused]:
    """What the coordinator's logs tell of it. Killed, it may have left half a line."""
    found: list[Refused] = []
    for log in logs:
        for line in log.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                told = json.loads(line)
                if told["message"] == "outcome refused":
                    fields = {name: told[name] for name in ("run", "attempt", "started_at")}
                    found.append(Refused(**fields))
    return found


def waiting(catalog: Path) -> dict[str, int]:
    """How many runs are in each work queue, as the catalog has it."""
    try:
        with opened(catalog) as connection:
            found = connection.execute(
                "SELECT definitions.project || ':' || definitions.name || ':' || version, ("
                " SELECT count(*) FROM runs WHERE definition = definitions.id AND state = 'queued'"
                ") FROM definitions WHERE kind IN ('task', 'workflow')"
            )
            return dict(found.fetchall())
    except sqlite3.OperationalError:
        return {}


def table(catalog: Path, name: str) -> list[dict[str, Any]]:
    """A table's rows; none if there is no such table."""
    with opened(catalog) as connection:
        known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        return [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] if known else []


def _row(row: dict[str, Any], attempts: list[dict[str, Any]]) -> Row:
    return Row(
        id=row["id"],
        name=row["of_name"],
        kind=row["of_kind"],
        root=row["root"],
        parent=row["parent"],
        state=row["state"],
        attempt=row["attempt"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        everything=row,
        attempts=attempts,
    )


@dataclass(kw_only=True)
class Watch:
    """Looks at the catalog now and then: what has succeeded stays as it is."""

    catalog: Path
    states: dict[str, int] = field(default_factory=dict[str, int])
    """How many runs are in each state."""
    changed: list[str] = field(default_factory=list[str])
    _ends: dict[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])

    def look(self) -> None:
        try:
            with opened(self.catalog) as connection:
                self._look(connection)
        except sqlite3.OperationalError:
            pass  # not made yet, or its writer was killed a moment ago

    def _look(self, connection: sqlite3.Connection) -> None:
        counts = connection.execute("SELECT state, count(*) FROM runs GROUP BY state")
        self.states = dict(counts.fetchall())
        query = "SELECT id, state, attempt, finished_at FROM runs WHERE finished_at IS NOT NULL"
        now = {row["id"]: tuple(row) for row in connection.execute(query)}
        for run, end in self._ends.items():
            if end[1] == "succeeded" and now.get(run) != end:
                self.changed.append(f"{run} had ended: {end}, and then: {now.get(run)}")
        self._ends = now

    @property
    def unfinished(self) -> int:
        return sum(count for state, count in self.states.items() if state not in ENDED)
