"""How SQLite carries out the statements: none looks at all runs."""

import re
import sqlite3
from contextlib import closing

import pytest

from leveret_coordinator import migrations, statements

MERGED = ["runs_of_projects", "ended_of_projects", "runs_of_definitions", "ended_of_definitions"]
"""A few slices, the first rows of which are sorted."""
PLACE = "is_root=? AND created_at>? AND created_at<?"

SMALL = {"definitions", "workers", "worker_definitions", "starts", "catalog", "doomed"}
"""Tables that don't grow with history: what was deployed, who is there, what is being removed."""
UNDER_WAY = {"attempts_running", "runs_queued", "runs_unended"}
"""Indexes of what has not ended."""
EXEMPT = {
    "configure": "settings of the connection",
    "enforce_references": "settings of the connection",
    "begin": "of no table",
    "commit": "of no table",
    "application_id": "of no table",
    "schema_version": "of no table",
    "page_count": "of no table",
    "table_count": "of the schema",
}
"""Statements that SQLite has no plan for, or none that matters."""


def _plan(statement: str) -> str:
    """How SQLite would carry out a statement on an empty catalog."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for migration in migrations.load():
            connection.executescript(migration.script)
        query = getattr(statements.load(), statement)
        parameters = dict.fromkeys(re.findall(r":(\w+)", query.sql), "[]")
        rows = connection.execute(f"EXPLAIN QUERY PLAN {query.sql}", parameters)
        return "\n".join(row[3] for row in rows)


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("runs_of_projects", f"runs_by_project (project=? AND {PLACE})"),
        ("ended_of_projects", f"runs_ended (project=? AND state=? AND {PLACE})"),
        ("runs_of_definitions", f"runs_by_definition (definition=? AND {PLACE})"),
        (
            "ended_of_definitions",
            f"runs_ended_by_definition (definition=? AND state=? AND {PLACE})",
        ),
        ("unended_runs", "runs_unended (state=? AND created_at>?"),
        ("tree", "runs_by_parent (parent=?)"),
        ("runs_below", "runs_by_parent (parent=?)"),
        ("pending_runs", "runs_unended (state=? AND created_at>?)"),
        ("definitions_wanted", "definitions_by_name (name=?)"),
        ("unended_children", "runs_by_parent (parent=?)"),
        ("queued_before", "runs_queued (definition=? AND since<?)"),
    ],
)
def test_listings_go_by_an_index_and_never_scan_or_sort_all_runs(
    statement: str, index: str
) -> None:
    plan = _plan(statement)
    assert index in plan, plan
    assert "SCAN runs\n" not in plan, plan
    if statement not in (
        *MERGED,
        "tree",
        "runs_below",
        "definitions_wanted",
        "unended_children",  # in the order of acceptance, of one parent's children
    ):
        sorts = 1 if statement == "unended_runs" else 0  # the page, once it was found
        assert plan.count("TEMP B-TREE") == sorts, plan


@pytest.mark.parametrize(
    ("statement", "indexes"),
    [
        ("runs_named", ["runs USING INDEX sqlite_autoindex_runs_1 (id=?)"]),
        (
            "unreferred",
            ["stored_objects USING PRIMARY KEY (name=?)"],
        ),
        ("run_row", ["runs USING INDEX sqlite_autoindex_runs_1 (id=?)"]),
        ("lost_attempts", ["attempts USING PRIMARY KEY (seq=?)"]),
        ("attempts_of", ["attempts USING PRIMARY KEY (seq=?)"]),
        ("arguments_of", ["arguments USING INTEGER PRIMARY KEY (rowid=?)"]),
        ("foreseen_results", ["results USING INTEGER PRIMARY KEY (rowid=?)"]),
        ("ended", ["runs USING INDEX sqlite_autoindex_runs_1 (id=?)"]),
        ("timers_due", ["timers_by_time (due_at<?)"]),
        ("next_due", ["timers_by_time"]),
        ("clear_timers", ["timers USING PRIMARY KEY (seq=?)"]),
        ("set_timers", ["runs USING COVERING INDEX sqlite_autoindex_runs_1 (id=?)"]),
        ("put_attempts", ["runs USING COVERING INDEX sqlite_autoindex_runs_1 (id=?)"]),
        ("change_runs", ["runs USING INDEX sqlite_autoindex_runs_1 (id=?)"]),
        ("confirm_published", ["runs USING INDEX sqlite_autoindex_runs_1 (id=?)"]),
        ("forget_results", ["runs USING COVERING INDEX sqlite_autoindex_runs_1 (id=?)"]),
        ("pending_named", ["runs USING INDEX sqlite_autoindex_runs_1 (id=?)"]),
        ("pending_before", ["runs_unended (state=?)"]),
        ("orphans", ["attempts_running", "runs USING INTEGER PRIMARY KEY (rowid=?)"]),
        ("late_holders", ["attempts_running"]),
        ("old_in_queues", ["runs_queued", "attempts_running"]),
        ("forget_attempts", ["attempts_running"]),
        ("forget_workers", ["attempts_running (worker=?)"]),
        ("executing", ["attempts_running (worker=?)"]),
        ("servers", ["worker_definitions USING PRIMARY KEY (definition=?)"]),
        ("workers_named", ["workers USING PRIMARY KEY (id=?)"]),
    ],
)
def test_what_goes_on_all_the_time_goes_by_an_index(statement: str, indexes: list[str]) -> None:
    plan = _plan(statement)
    for index in indexes:
        assert index in plan, plan
    scanned = re.findall(r"SCAN (runs|attempts|results|arguments|running|timers)$", plan, re.M)
    assert not scanned, plan


def _statements() -> list[str]:
    return [name for name in statements.load().available_queries if not name.endswith("_cursor")]


def _scanned(plan: str, sql: str) -> list[str]:
    """What is gone through from end to end, of that which grows with history."""
    named = set(re.findall(r"(\w+) (?:\([\w, ]+\) )?AS \(\n", sql))
    aliases = {alias: table for table, alias in re.findall(r"(?:FROM|JOIN) (\w+) AS (\w+)", sql)}
    found: list[str] = []
    for line in plan.splitlines():
        scan = re.match(r"SCAN (\w+)(?:.* INDEX (\w+))?", line)
        if scan is None or "VIRTUAL TABLE" in line or "CONSTANT ROW" in line:
            continue
        table = aliases.get(scan[1], scan[1])
        if table not in named | SMALL and scan[2] not in UNDER_WAY:
            found.append(line)
    indexed = re.findall(r"\w+ (\w+) USING AUTOMATIC", plan)
    return found + [table for table in indexed if aliases.get(table, table) not in named | SMALL]


@pytest.mark.parametrize("statement", _statements())
def test_no_statement_goes_through_what_grows_with_history(statement: str) -> None:
    if statement in EXEMPT:
        return
    scanned = _scanned(_plan(statement), getattr(statements.load(), statement).sql)
    assert not scanned, _plan(statement)


def test_a_statement_that_goes_through_all_runs_is_noticed() -> None:
    assert _scanned("SCAN runs", "SELECT * FROM runs")
    assert _scanned("SCAN old", "SELECT * FROM runs AS old")
    assert _scanned("SCAN runs USING INDEX runs_ended", "SELECT * FROM runs")
    assert _scanned("SEARCH runs USING AUTOMATIC COVERING INDEX (x=?)", "SELECT * FROM runs")
    assert not _scanned("SCAN runs USING INDEX runs_unended", "SELECT * FROM runs")


def test_what_is_exempt_is_a_statement() -> None:
    assert EXEMPT.keys() <= set(_statements())
