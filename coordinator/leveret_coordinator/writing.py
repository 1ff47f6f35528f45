"""What was decided, written to the catalog: rows by the hundred, in a handful of statements."""

import json
from collections.abc import Sequence

from leveret_coordinator import rows
from leveret_coordinator.decision import Decision
from leveret_coordinator.errors import CatalogConflict
from leveret_coordinator.records import (
    Attempt,
    ChangedRun,
    Confirmed,
    Definition,
    NewCode,
    NewRun,
    Waiter,
)
from leveret_coordinator.rows import Row, as_array
from leveret_coordinator.statements import Statements

WORKER_FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds of silence after which a worker's row is deleted."""


def write(sql: Statements, decision: Decision, confirmed: Confirmed, *, now: float) -> None:
    """Write it all, with what was confirmed meanwhile.

    Raises `CatalogConflict` if a row isn't as it was when the decision was made.
    """
    _put_definitions(sql, decision.definitions)
    _put_code(sql, decision.code, now)
    _put_workers(sql, decision, now)
    _insert_runs(sql, decision.runs)
    _change_runs(sql, decision.changed)
    _put_attempts(sql, decision.attempts)
    _put_ends(sql, decision)
    _put_timers(sql, decision)
    # Before the waiters: of an answer that was confirmed, and is wanted once more.
    confirm(sql, confirmed, now)
    _insert_waiters(sql, decision.waiters)


def _many_expected(sql: Statements, statement: str, parameters: Sequence[Row]) -> None:
    changed = sql.do_for_each(statement, parameters)
    if changed != len(parameters):
        raise CatalogConflict(
            f"{statement.replace('_', ' ')}: {len(parameters) - changed} of {len(parameters)} "
            "rows were changed by somebody else meanwhile"
        )


def _put_definitions(sql: Statements, definitions: Sequence[Definition]) -> None:
    sql.do_for_each("put_definition", [rows.definition_row(each) for each in definitions])


def _put_code(sql: Statements, code: Sequence[NewCode], now: float) -> None:
    put: list[Row] = [
        {"project": new.project, "digest": new.digest, "body": new.body, "shipped_at": now}
        for new in code
    ]
    sql.do_for_each("put_code", put)


def _put_workers(sql: Statements, decision: Decision, now: float) -> None:
    if decision.heartbeats:
        beats: list[Row] = [
            {
                **heartbeat.model_dump(exclude={"type"}),
                "definitions": as_array(heartbeat.definitions),
                "held": json.dumps(heartbeat.held),
                "shipped": as_array(heartbeat.shipped),
                "now": now,
            }
            for heartbeat in decision.heartbeats
        ]
        sql.do_for_each("put_worker", beats)
        sql.do_for_each("withdraw_definitions", beats)
        sql.do_for_each("serve_definitions", beats)
        sql.do("forget_workers", silent_since=now - WORKER_FORGOTTEN_AFTER)
    if decision.goodbyes:
        sql.do("dismiss_workers", ids=as_array(decision.goodbyes), now=now)


def _insert_runs(sql: Statements, runs: Sequence[NewRun]) -> None:
    inserted = [rows.new_run_row(new) for new in runs]
    _many_expected(sql, "insert_runs", inserted)
    sql.do_for_each("insert_arguments", inserted)
    sql.do_for_each("put_stored", rows.stored_rows_of_runs(runs))
    inputs: list[Row] = [
        {"run": new.run.id, "inputs": as_array(new.inputs)} for new in runs if new.inputs
    ]
    sql.do_for_each("insert_inputs", inputs)
    sql.do_for_each("insert_run_code", [row for row in inserted if row["code"] is not None])


def _change_runs(sql: Statements, changed: Sequence[ChangedRun]) -> None:
    _many_expected(sql, "change_runs", [rows.changed_run_row(each) for each in changed])


def _put_attempts(sql: Statements, attempts: Sequence[Attempt]) -> None:
    sql.do_for_each("put_attempts", [rows.attempt_row(each) for each in attempts])


def _put_ends(sql: Statements, decision: Decision) -> None:
    reopened: list[Row] = [{"run": run} for run in decision.reopened]
    sql.do_for_each("forget_results", reopened)
    sql.do_for_each("forget_stored", reopened)
    sql.do_for_each("put_results", [rows.result_row(end) for end in decision.ends])
    sql.do_for_each("put_stored", rows.stored_rows_of_ends(decision.ends))


def _put_timers(sql: Statements, decision: Decision) -> None:
    cleared: list[Row] = [{"run": run, "kind": kind} for run, kind in decision.cleared]
    sql.do_for_each("clear_timers", cleared)
    timers: list[Row] = [
        {"run": timer.run, "kind": timer.kind, "due_at": timer.due_at} for timer in decision.timers
    ]
    sql.do_for_each("set_timers", timers)


def _insert_waiters(sql: Statements, waiters: Sequence[Waiter]) -> None:
    sql.do_for_each("insert_waiters", rows.waiter_rows(waiters))


def confirm(sql: Statements, confirmed: Confirmed, now: float) -> None:
    """Write what the broker confirmed."""
    published: list[Row] = [
        {"run": each.run, "attempt": each.attempt, "now": now} for each in confirmed.published
    ]
    sql.do_for_each("confirm_published", published)
    sql.do_for_each("remove_waiters", rows.waiter_rows(confirmed.settled))
