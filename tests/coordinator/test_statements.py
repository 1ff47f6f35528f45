"""How SQLite carries out the statements: none looks at all runs."""

import re
import sqlite3
from contextlib import closing

import pytest

from leveret_coordinator import migrations, statements


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
        ("runs_of_definitions", "runs_by_definition (definition=? AND created_at>?)"),
        ("runs_in_state", "runs_by_state (state=? AND created_at>?)"),
        ("root_runs", "runs_roots (created_at>?)"),
        ("runs_of_project", "runs_by_project (project=? AND created_at>?)"),
        ("recent_runs", "runs_by_time (created_at>?)"),
        ("tree", "runs_by_parent (parent=?)"),
        ("runs_below", "runs_by_parent (parent=?)"),
        ("pending_runs", "runs_by_state (state=? AND created_at>?)"),
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
        "runs_of_definitions",
        "tree",
        "runs_below",
        "definitions_wanted",
        "unended_children",  # in the order of acceptance, of one parent's children
    ):
        assert "TEMP B-TREE" not in plan, plan


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
        ("pending_before", ["runs_by_state (state=?)"]),
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
