"""Answers to those who look: definitions, runs, the tree of a run, workers."""

import json
import math
from collections.abc import Sequence
from typing import Any

from leveret_broker.identifiers import is_database_id, version_order
from leveret_broker.messages import (
    AttemptRow,
    DefinitionRow,
    ListDefinitions,
    ListRuns,
    ListWorkers,
    Refused,
    Reply,
    Rows,
    RunRow,
    ShowRun,
    Tree,
    WorkerRow,
)
from leveret_coordinator import confinement, resolution, rows, states, submissions
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.errors import RequestRefused, UnknownRun

Listing = ListDefinitions | ListRuns | ShowRun | ListWorkers


async def answer(question: Listing, catalog: Catalog, *, alive_since: float) -> Reply:
    """The reply, a `Refused` if the question names what does not exist."""
    try:
        match question:
            case ListDefinitions():
                return await _definitions(question, catalog, alive_since)
            case ListRuns():
                return await _runs(question, catalog)
            case ShowRun():
                return await _tree(question, catalog)
            case ListWorkers():
                return await _workers(question, catalog, alive_since)
    except RequestRefused as refusal:
        return Refused(request=question.request, code=refusal.code, message=str(refusal))


async def _definitions(question: ListDefinitions, catalog: Catalog, alive_since: float) -> Rows:
    found = await catalog.rows("definition_rows", project=question.project, alive_since=alive_since)
    found.sort(key=lambda row: (row["project"], row["name"], version_order(row["version"])))
    return Rows(
        request=question.request,
        definitions=tuple(
            DefinitionRow(definition=rows.definition_message(row), workers=row["workers"])
            for row in found
        ),
    )


async def _workers(question: ListWorkers, catalog: Catalog, alive_since: float) -> Rows:
    found = await catalog.rows("worker_rows", project=question.project, alive_since=alive_since)
    return Rows(request=question.request, workers=tuple(_worker_row(row) for row in found))


async def _tree(question: ShowRun, catalog: Catalog) -> Tree:
    found = await catalog.rows("tree", run=question.run)
    if not found or question.project not in (None, found[0]["project"]):
        raise UnknownRun(submissions.unknown(question.run))
    attempts: dict[str, list[AttemptRow]] = {row["id"]: [] for row in found}
    for row in await catalog.rows("attempts_of", runs=json.dumps(list(attempts))):
        attempts[row["run"]].append(rows.attempt_message(row))
    inputs = await _inputs(found, catalog)
    return Tree(
        request=question.request,
        runs=tuple(
            run_row(
                row,
                row["failure_traceback"],
                attempts=tuple(attempts[row["id"]]),
                inputs=tuple(inputs.get(row["id"], ())),
            )
            for row in found
        ),
    )


async def _inputs(found: Sequence[Any], catalog: Catalog) -> dict[str, list[str]]:
    """The ids of the inputs of those of the listed runs that have some."""
    inputs: dict[str, list[str]] = {row["id"]: [] for row in found if row["inputs"]}
    if inputs:
        for row in await catalog.rows("input_ids", ids=rows.as_array(inputs)):
            inputs[row["dependent"]].append(row["input"])
    return inputs


async def _runs(question: ListRuns, catalog: Catalog) -> Rows:
    found = await _run_rows(question, catalog)
    return Rows(request=question.request, runs=tuple(run_row(row) for row in found))


async def _run_rows(question: ListRuns, catalog: Catalog) -> list[Any]:
    """Ask by what an index has side by side, or go through what is under way."""
    state, roots_only = question.state, question.roots_only
    place = await _place(question, catalog)
    definitions: list[str] | None = None
    if question.definition is not None:
        definitions = await _definition_ids(question, catalog)
    if state is not None and not states.has_ended(state):
        return await catalog.rows(
            "unended_runs",
            state=state,
            project=question.project,
            definitions=None if definitions is None else json.dumps(definitions),
            roots_only=roots_only,
            **place,
        )
    if definitions is not None:
        of, within = "definitions", definitions
    elif question.project is not None:
        of, within = "projects", [question.project]
    else:
        of, within = "projects", [row["project"] for row in await catalog.rows("projects")]
    slices = json.dumps(
        [[each, root] for each in within for root in ((1,) if roots_only else (0, 1))]
    )
    if state is None:
        return await catalog.rows(f"runs_of_{of}", slices=slices, **place)
    return await catalog.rows(f"ended_of_{of}", slices=slices, state=state, **place)


async def _place(question: ListRuns, catalog: Catalog) -> dict[str, object]:
    """Where the listing begins and ends."""
    created_at, seq = math.inf, 0
    if question.after is not None:
        found = await catalog.rows("place_of", run=question.after)
        if not found or question.project not in (None, found[0]["project"]):
            raise UnknownRun(submissions.unknown(question.after, question.project))
        created_at, seq = found[0]["created_at"], found[0]["seq"]
    return {
        "since": question.since or 0.0,
        "created_at": created_at,
        "seq": seq,
        "most": question.limit,
    }


async def _definition_ids(question: ListRuns, catalog: Catalog) -> list[str]:
    """A bare name means all versions; every other identifier means one definition."""
    text = question.definition
    assert text is not None
    names, ids = resolution.identifier_names(text)
    known = await catalog.known(ids, names)
    if question.confined:
        known = confinement.known_within(known, question.project)
    own = [each for each in known.definitions if question.project in (None, each.project)]
    named = [each.id for each in own if each.name == text]
    if named and not is_database_id(text):
        return named
    meant = resolution.resolve(text, project=question.project, known=known)
    return [each.id for each in own if each.id == meant.id]


def run_row(
    row: Any,
    traceback: str | None = None,
    *,
    attempts: tuple[AttemptRow, ...] = (),
    inputs: tuple[str, ...] = (),
) -> RunRow:
    """A row of the view `run_rows`."""
    return RunRow(
        id=row["id"],
        project=row["project"],
        definition=row["definition"],
        kind=row["kind"],
        state=row["state"],
        attempt=row["attempt"],
        root=row["root"],
        parent=row["parent"],
        ordinal=row["ordinal"],
        asked_for=row["asked_for"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        worker=row["worker"],
        host=row["host"],
        failure=rows.failure_of(row, traceback),
        key=row["key"],
        due_at=row["due_at"],
        waits_for=row["waits_for"],
        inputs=inputs,
        attempts=attempts,
    )


def _worker_row(row: Any) -> WorkerRow:
    return WorkerRow(
        id=row["id"],
        project=row["project"],
        host=row["host"],
        pid=row["pid"],
        slots=row["slots"],
        busy=row["busy"],
        started_at=row["started_at"],
        heartbeat_at=row["heartbeat_at"],
        definitions=tuple(sorted(json.loads(row["definitions"]))),
        accepts_code=bool(row["accepts_code"]),
    )
