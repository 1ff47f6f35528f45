"""Rows of the catalog to values and back."""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from leveret_broker.messages import (
    AttemptRow,
    CodeRef,
    DefinitionRecord,
    Failure,
    Finished,
    RunOptions,
)
from leveret_broker.references import names_in
from leveret_broker.topology import work_queue_name
from leveret_coordinator.records import (
    USUAL,
    Attempt,
    ChangedRun,
    Definition,
    End,
    Holder,
    NewRun,
    PendingRun,
    Run,
    Waiter,
    Worker,
)

Row = dict[str, object]


def definition_of(row: Any) -> Definition:
    options = row["options"]
    return Definition(
        id=row["id"],
        project=row["project"],
        kind=row["kind"],
        name=row["name"],
        version=row["version"],
        fingerprint=row["fingerprint"],
        module=row["module"],
        qualname=row["qualname"],
        description=row["description"],
        registered_at=row["registered_at"],
        options=RunOptions.model_validate_json(options) if options is not None else None,
        code=code_of(row),
        shipped_at=row["shipped_at"],
    )


def definition_row(definition: Definition) -> Row:
    return {
        "id": definition.id,
        "project": definition.project,
        "kind": definition.kind,
        "name": definition.name,
        "version": definition.version,
        "revision": definition.revision,
        "fingerprint": definition.fingerprint,
        "module": definition.module,
        "qualname": definition.qualname,
        "description": definition.description,
        "options": _json(definition.options),
        "registered_at": definition.registered_at,
        "code": _json(definition.code),
        "shipped_at": definition.shipped_at,
    }


def run_of(row: Any) -> Run:
    holder = row["holder"]
    return Run(
        id=row["id"],
        project=row["project"],
        definition=row["definition"],
        kind=row["kind"],
        root=row["root"],
        parent=row["parent"],
        state=row["state"],
        since=row["since"],
        attempt=row["attempt"],
        round=row["round"],
        parent_round=row["parent_round"],
        failures=row["failures"],
        losses=row["losses"],
        options=_options(row["options"]),
        key=row["key"],
        digest=row["digest"],
        retried_by=row["retried_by"],
        stopped_by=row["stopped_by"],
        inputs=row["inputs"],
        waits_for=row["waits_for"],
        is_input=bool(row["is_input"]),
        blames=row["blames"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        failure=failure_of(row),
        holder=holder
        and Holder(worker=holder, started_at=row["held_since"], leased_at=row["leased_at"]),
    )


def new_run_row(new: NewRun) -> Row:
    run = new.run
    return {
        **_changing(run),
        "project": run.project,
        "kind": run.kind,
        "root": run.root,
        "parent": run.parent,
        "identity": new.identity,
        "ordinal": new.ordinal,
        "key": run.key,
        "digest": run.digest,
        "asked_for": new.asked_for,
        "inputs": run.inputs,
        "options": None if run.options is USUAL else _json(run.options),
        "created_at": new.created_at,
        "arguments": new.arguments,
        "code": _json(new.code),
    }


def changed_run_row(changed: ChangedRun) -> Row:
    return {
        **_changing(changed.run),
        "was_attempt": changed.was_attempt,
        "had_ended": changed.had_ended,
    }


def _changing(run: Run) -> Row:
    """What may change in a run's life."""
    failure = run.failure
    return {
        "id": run.id,
        "definition": run.definition,
        "state": run.state,
        "since": run.since,
        "attempt": run.attempt,
        "round": run.round,
        "parent_round": run.parent_round,
        "failures": run.failures,
        "losses": run.losses,
        "retried_by": run.retried_by,
        "stopped_by": run.stopped_by,
        "waits_for": run.waits_for,
        "is_input": run.is_input,
        "blames": run.blames,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "failure_type": failure.type if failure else None,
        "failure_message": failure.message if failure else None,
    }


def pending_run_of(row: Any) -> PendingRun:
    return PendingRun(
        run=run_of(row),
        queue=work_queue_name(row["queue_project"], row["name"], row["version"]),
        arguments=row["body"],
        code=code_of(row),
    )


def attempt_row(attempt: Attempt) -> Row:
    failure = attempt.failure
    return {
        "run": attempt.run,
        "number": attempt.number,
        "state": attempt.state,
        "worker": attempt.worker,
        "started_at": attempt.started_at,
        "leased_at": attempt.leased_at,
        "finished_at": attempt.finished_at,
        "failure_type": failure.type if failure else None,
        "failure_message": failure.message if failure else None,
        "failure_traceback": failure.traceback if failure else None,
    }


def attempt_message(row: Any) -> AttemptRow:
    return AttemptRow(
        number=row["number"],
        state=row["state"],
        worker=row["worker"],
        host=row["host"],
        pid=row["pid"],
        started_at=row["started_at"],
        leased_at=row["leased_at"],
        finished_at=row["finished_at"],
        failure=failure_of(row, row["failure_traceback"]),
    )


def result_row(end: End) -> Row:
    return {
        "run": end.run,
        "result": end.result,
        "error": end.error,
        "failure_traceback": end.failure.traceback if end.failure else None,
    }


def stored_rows_of_runs(runs: Iterable[NewRun]) -> list[Row]:
    """The objects that their arguments refer to."""
    return [
        {"run": new.run.id, "kind": "arguments", "name": name}
        for new in runs
        for name in names_in(new.arguments)
    ]


def stored_rows_of_ends(ends: Iterable[End]) -> list[Row]:
    """The objects that their results and errors refer to."""
    return [
        {"run": end.run, "kind": "end", "name": name}
        for end in ends
        for name in (*names_in(end.result), *names_in(end.error))
    ]


def finished_of(row: Any) -> Finished:
    return Finished(
        run=row["id"],
        state=row["state"],
        attempt=row["attempt"],
        parent_round=row["parent_round"],
        stopped_by=row["stopped_by"],
        has_parent_ended=bool(row["has_parent_ended"]),
        blames=row["blames"],
        result=row["result"],
        error=row["error"],
        failure=failure_of(row, row["failure_traceback"]),
    )


def worker_of(row: Any, *, alive_since: float, gone: Iterable[str]) -> Worker:
    return Worker(
        id=row["id"],
        host=row["host"],
        pid=row["pid"],
        heartbeat_at=row["heartbeat_at"],
        has_left=row["left_at"] is not None,
        is_alive=(
            row["left_at"] is None and row["heartbeat_at"] >= alive_since and row["id"] not in gone
        ),
    )


def waiter_rows(waiters: Iterable[Waiter]) -> list[Row]:
    return [{"run": waiter.run, "session": waiter.session} for waiter in waiters]


def failure_of(row: Any, traceback: str | None = None) -> Failure | None:
    """The failure in a row of a run or an attempt, `None` if it has none."""
    if row["failure_type"] is None:
        return None
    return Failure(
        type=row["failure_type"], message=row["failure_message"], traceback=traceback or ""
    )


@lru_cache(maxsize=1024)
def _options(text: str | None) -> RunOptions:
    return USUAL if text is None else RunOptions.model_validate_json(text)


def code_of(row: Any) -> CodeRef | None:
    """What was shipped of a definition, or for a run."""
    text = row["code"]
    return None if text is None else CodeRef.model_validate_json(text)


def definition_message(row: Any, code: CodeRef | None = None) -> DefinitionRecord:
    """A definition as it is told."""
    return DefinitionRecord(
        id=row["id"],
        project=row["project"],
        kind=row["kind"],
        name=row["name"],
        version=row["version"],
        queue=work_queue_name(row["project"], row["name"], row["version"]),
        description=row["description"],
        registered_at=row["registered_at"],
        code=code,
    )


def _json(value: RunOptions | CodeRef | None) -> str | None:
    return None if value is None else value.model_dump_json()


def as_array(texts: Iterable[str]) -> str:
    """A list as a parameter of a statement."""
    return json.dumps(list(texts))
