"""A catalog of the first version, with data of every kind, is brought up to date without loss."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest

from leveret_broker.messages import Attach, Finished, RunState, ShowRun, Tree
from leveret_coordinator import listings, migrations
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.facts import needs_of
from leveret_coordinator.reading import Liveness
from leveret_coordinator.records import USUAL, Holder, Waiter
from tests.coordinator import build

STATES = ("pending", "queued", "running", "succeeded", "failed", "cancelled")
RUNS = {state: build.run_id(number) for number, state in enumerate(STATES, start=1)}
CHILD = build.run_id(7)
FLOW, FIT = build.definition_id(1, "workflow"), build.definition_id(2)
KEPT = {
    "definitions": "id, project, kind, name, version, revision, fingerprint, module, qualname, "
    "description, registered_at",
    "runs": "seq, id, project, definition, root, parent, identity, ordinal, asked_for, state, "
    "attempt, created_at, started_at, finished_at, failure_type, failure_message",
    "arguments": "seq, body",
    "results": "seq, result, error, failure_traceback",
    "attempts": "seq, number, worker, host, pid, state, started_at, finished_at, failure_type, "
    "failure_message",
    "waiters": "run_id, session",
    "workers": "id, project, host, pid, slots, busy, started_at, heartbeat_at",
    "worker_definitions": "definition, worker",
}
"""The columns of the first version."""

Rows = dict[str, list[tuple[object, ...]]]


def _rows(connection: sqlite3.Connection) -> Rows:
    return {
        table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
        for table, columns in KEPT.items()
    }


def _insert(connection: sqlite3.Connection, table: str, *values: object) -> None:
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({KEPT[table]}) VALUES ({marks})", values)


def _fill(connection: sqlite3.Connection) -> None:
    """What coordinators of the first version may have written."""
    _insert(connection, "definitions", FLOW, "p", "workflow", "flow", "1", 1, "a", "m", "f", "d", 1)
    _insert(connection, "definitions", FIT, "p", "task", "fit", "0.1", None, "b", "m", "t", "", 2)
    _insert(connection, "workers", "w", "p", "host", 7, 4, 1, 10.0, 20.0)
    _insert(connection, "worker_definitions", FLOW, "w")
    _insert(connection, "worker_definitions", FIT, "w")
    for seq, (state, run) in enumerate(RUNS.items(), start=10):
        has_started = state not in ("pending", "queued")
        has_ended = state in ("succeeded", "failed", "cancelled")
        failure = ("ValueError", "no") if state == "failed" else (None, None)
        started_at = 100.0 + seq if has_started else None
        finished_at = 200.0 + seq if has_ended else None
        _insert(
            connection, "runs", seq, run, "p", FLOW, run, None, f"i{seq}", seq, "p:flow",
            state, 2, 50.0 + seq, started_at, finished_at, *failure,
        )  # fmt: skip
        _insert(connection, "arguments", seq, f"arguments {seq}".encode())
        _insert(connection, "waiters", run, f"s{seq}")
        if has_started:
            _insert(
                connection, "attempts", seq, 2, "w", "host", 7, state, started_at, finished_at,
                *failure,
            )  # fmt: skip
    _insert(connection, "results", 13, b"result", None, None)
    _insert(connection, "results", 14, None, b"error", "traceback")
    _insert(
        connection, "runs", 99, CHILD, "p", FIT, RUNS["running"], RUNS["running"], "c", 3, "fit",
        "queued", 1, 60.0, None, None, None, None,
    )  # fmt: skip
    _insert(connection, "arguments", 99, b"child")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A catalog of the first version."""
    path = tmp_path / "catalog"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(migrations.load()[0].script)
        connection.execute("PRAGMA foreign_keys = ON")
        _fill(connection)
        connection.commit()
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection


@pytest.fixture
async def catalog(path: Path) -> AsyncIterator[Catalog]:
    """The same, brought up to date."""
    catalog = await Catalog.open(path)
    yield catalog
    await catalog.close()


async def _bring_up_to_date(path: Path) -> None:
    await (await Catalog.open(path)).close()


async def test_every_row_and_column_is_there_still(
    path: Path, connection: sqlite3.Connection
) -> None:
    before = _rows(connection)
    assert all(before.values()), "there is something of every kind"
    await _bring_up_to_date(path)
    assert _rows(connection) == before
    newest = migrations.load()[-1].number
    assert connection.execute("PRAGMA user_version").fetchone() == (newest,)


async def test_every_reference_leads_where_it_led(
    path: Path, connection: sqlite3.Connection
) -> None:
    await _bring_up_to_date(path)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    referred = {
        table: {row[2] for row in connection.execute(f"PRAGMA foreign_key_list({table})")}
        for table in (*KEPT, "timers")
    }
    assert referred == {
        "definitions": set(),
        "runs": {"definitions"},
        "arguments": {"runs"},
        "results": {"runs"},
        "attempts": {"runs"},
        "waiters": {"runs"},
        "workers": set(),
        "worker_definitions": {"definitions", "workers"},
        "timers": {"runs"},
    }
    connection.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError):
        _insert(connection, "arguments", 12345, b"of no run")


async def test_a_file_that_was_brought_up_to_date_has_the_tables_of_a_fresh_one(
    path: Path, connection: sqlite3.Connection, tmp_path: Path
) -> None:
    await _bring_up_to_date(path)
    await _bring_up_to_date(tmp_path / "fresh")
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    with closing(sqlite3.connect(tmp_path / "fresh")) as fresh:
        assert connection.execute(query).fetchall() == fresh.execute(query).fetchall()


async def test_old_runs_have_what_a_run_has_now(catalog: Catalog) -> None:
    facts = await catalog.load(
        needs_of([Attach(session="s", runs=(*RUNS.values(), CHILD))]), alive=Liveness(since=0)
    )
    runs = {run.id: run for run in facts.runs}
    assert {state: runs[run].state for state, run in RUNS.items()} == {
        state: state for state in STATES
    }
    for run in runs.values():
        assert (run.round, run.parent_round, run.failures, run.losses) == (1, 1, 0, 0)
        assert (run.options, run.key, run.digest) == (USUAL, None, None)
    assert runs[RUNS["queued"]].since == 61.0, "since it was created"
    assert runs[RUNS["running"]].since == 112.0, "since it started"
    assert runs[RUNS["failed"]].since == 214.0, "since it ended"
    assert runs[RUNS["running"]].holder == Holder(worker="w", started_at=112.0)
    assert (runs[CHILD].kind, runs[RUNS["queued"]].kind) == ("task", "workflow")
    assert Waiter(run=RUNS["queued"], session="s11") in facts.waiters
    assert {end.run: end for end in facts.ended} == {
        RUNS["succeeded"]: Finished(
            run=RUNS["succeeded"], state="succeeded", attempt=2, result=b"result"
        ),
        RUNS["failed"]: Finished(
            run=RUNS["failed"],
            state="failed",
            attempt=2,
            error=b"error",
            failure=build.FAILURE.model_copy(update={"traceback": "traceback", "kinds": ()}),
        ),
        RUNS["cancelled"]: Finished(run=RUNS["cancelled"], state="cancelled", attempt=2),
    }


async def test_old_runs_go_on(catalog: Catalog) -> None:
    pending = [each async for page in catalog.pending(page=10) for each in page]
    assert [(each.run.id, each.arguments) for each in pending] == [
        (RUNS["pending"], b"arguments 10")
    ]
    told = build.outcomes(build.outcome(RUNS["running"], attempt=2), build.outcome(CHILD))
    await build.apply(catalog, told)
    question = ShowRun(session="s", request="r", run=RUNS["running"])
    tree = await listings.answer(question, catalog, alive_since=0)
    assert isinstance(tree, Tree)
    assert [(row.id, row.state, row.parent) for row in tree.runs] == [
        (RUNS["running"], "succeeded", None),
        (CHILD, "succeeded", RUNS["running"]),
    ]
    assert await catalog.next_due() is None
    assert await catalog.count_start() == 1


def test_states_of_the_first_version_are_states_still() -> None:
    assert set(STATES) <= set(get_args(RunState))
