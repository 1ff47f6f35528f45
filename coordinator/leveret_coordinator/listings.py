"""Answers to those who look: definitions, runs, the tree of a run, workers."""

import json
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
from leveret_coordinator import confinement, provisions, resolution, rows, submissions
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
    inputs = await provisions.ids(catalog.rows, found)
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


async def _runs(question: ListRuns, catalog: Catalog) -> Rows:
    found = await _run_rows(question, catalog)
    return Rows(request=question.request, runs=tuple(run_row(row) for row in found))


async def _run_rows(question: ListRuns, catalog: Catalog) -> list[Any]:
    """Ask by the condition that leaves the fewest rows to look at."""
    project, state, roots_only = question.project, question.state, question.roots_only
    since, most = question.since or 0.0, question.limit
    if question.definition is not None:
        return await catalog.rows(
            "runs_of_definitions",
            definitions=json.dumps(await _definition_ids(question, catalog)),
            project=project,
            state=state,
            since=since,
            roots_only=roots_only,
            most=most,
        )
    if state is not None:
        return await catalog.rows(
            "runs_in_state",
            state=state,
            project=project,
            since=since,
            roots_only=roots_only,
            most=most,
        )
    if roots_only:
        return await catalog.rows("root_runs", project=project, since=since, most=most)
    if project is not None:
        return await catalog.rows("runs_of_project", project=project, since=since, most=most)
    return await catalog.rows("recent_runs", since=since, most=most)


async def _definition_ids(question: ListRuns, catalog: Catalog) -> list[str]:
    """A bare name means all versions; every other identifier means one definition."""
    text = question.definition
    assert text is not None
    names, ids = resolution.identifier_names(text)
    known = await catalog.known(ids, names)
    if question.confined:
        known = confinement.known_within(known, question.project)
    named = [
        definition.id
        for definition in known.definitions
        if definition.name == text and question.project in (None, definition.project)
    ]
    if named and not is_database_id(text):
        return named
    return [resolution.resolve(text, project=question.project, known=known).id]


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
