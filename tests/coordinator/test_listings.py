import pytest

from leveret_broker.messages import (
    ListDefinitions,
    ListRuns,
    ListWorkers,
    Recorded,
    Refused,
    Reply,
    RetryPolicy,
    Rows,
    RunOptions,
    RunState,
    ShowRun,
    Submission,
    Submit,
    Target,
    Tree,
)
from leveret_coordinator import listings
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.records import STEP, Confirmed
from tests.coordinator import build

R1, R2, R3, R4, R5 = RUNS = [build.run_id(number) for number in range(1, 6)]


@pytest.fixture
async def filled(catalog: Catalog) -> Catalog:
    """Five runs, one second after the other; R3 and R4 below R2."""
    await build.apply(
        catalog,
        build.register(build.spec("flow", fingerprint="a"), project="p"),
        build.register(build.spec("flow", fingerprint="b"), project="p"),
        build.register(build.spec("fit", kind="task", version="0.10"), project="p"),
        build.register(build.spec("fit", kind="task", version="0.9"), project="p"),
        build.register(build.spec("mix"), project="q"),
    )
    asked = [
        build.submission(R1, "p:flow:1"),
        build.submission(R2, "p:flow:2"),
        build.submission(R3, "fit:0.9", parent=R2),
        build.submission(R4, "fit", parent=R2).model_copy(update={"ordinal": 1}),
        build.submission(R5, "q:mix:1"),
    ]
    for second, submission in enumerate(asked):
        await build.apply(catalog, build.submit(submission), now=build.NOW + second)
    await catalog.confirm(Confirmed(published=tuple(map(build.published, RUNS))), now=build.NOW)
    [fit] = [row for row in await catalog.definitions(names=["fit"]) if row.version == "0.9"]
    await build.apply(catalog, build.heartbeat(fit.id), now=build.NOW)
    await build.apply(catalog, build.started(R2))
    await build.apply(catalog, build.outcomes(build.outcome(R3)))
    await build.apply(catalog, build.outcomes(build.outcome(R4, "failed"), worker="unknown"))
    return catalog


async def _ask(catalog: Catalog, question: listings.Listing, *, later: float = 0.0) -> Reply:
    return await listings.answer(question, catalog, alive_since=build.NOW + later - 20)


async def _runs(
    catalog: Catalog,
    project: str | None = None,
    *,
    state: RunState | None = None,
    definition: str | None = None,
    since: float | None = None,
    limit: int = 50,
    after: str | None = None,
    roots_only: bool = False,
) -> list[str]:
    question = ListRuns(
        session="s",
        request="r",
        project=project,
        state=state,
        definition=definition,
        since=since,
        limit=limit,
        after=after,
        roots_only=roots_only,
    )
    rows = await _ask(catalog, question)
    assert isinstance(rows, Rows), rows
    return [row.id for row in rows.runs]


async def test_runs_are_listed_newest_first(filled: Catalog) -> None:
    assert await _runs(filled) == [R5, R4, R3, R2, R1]
    assert await _runs(filled, limit=2) == [R5, R4]


async def test_every_filter_narrows_and_filters_combine(filled: Catalog) -> None:
    assert await _runs(filled, "p") == [R4, R3, R2, R1]
    assert await _runs(filled, "p", limit=1) == [R4]
    assert await _runs(filled, "nothing") == []
    assert await _runs(filled, since=build.NOW + 3) == [R5, R4]
    assert await _runs(filled, "p", since=build.NOW + 3) == [R4]
    assert await _runs(filled, roots_only=True) == [R5, R2, R1]
    assert await _runs(filled, "p", roots_only=True, since=build.NOW + 1) == [R2]
    assert await _runs(filled, state="queued") == [R5, R1]
    assert await _runs(filled, "p", state="queued") == [R1]
    assert await _runs(filled, state="running", roots_only=True) == [R2]
    assert await _runs(filled, state="failed", roots_only=True) == []


async def test_a_page_goes_on_after_the_last_run_of_the_one_before(filled: Catalog) -> None:
    assert await _runs(filled, after=R5) == [R4, R3, R2, R1]
    assert await _runs(filled, after=R4, limit=2) == [R3, R2]
    assert await _runs(filled, after=R1) == []
    assert await _runs(filled, "p", after=R3) == [R2, R1]
    assert await _runs(filled, roots_only=True, after=R4) == [R2, R1]
    assert await _runs(filled, state="queued", after=R5) == [R1]
    assert await _runs(filled, definition="fit", after=R4) == [R3]
    assert await _runs(filled, definition="fit", state="failed", after=R5) == [R4]


async def test_pages_neither_repeat_nor_leave_out_runs_of_one_moment(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    runs = [build.run_id(number) for number in range(1, 8)]
    await build.apply(catalog, build.submit(*(build.submission(run) for run in runs)))
    listed: list[str] = []
    while page := await _runs(catalog, limit=3, after=listed[-1] if listed else None):
        listed += page
    assert listed == runs[::-1]


@pytest.mark.parametrize("run", [build.run_id(99), R5])
async def test_a_page_after_a_run_that_is_not_there_is_refused(filled: Catalog, run: str) -> None:
    question = ListRuns(session="s", request="r", project="p", after=run)
    refused = await _ask(filled, question)
    assert isinstance(refused, Refused)
    assert (refused.code, run in refused.message) == ("unknown-run", True)


async def test_a_bare_name_lists_all_versions_and_an_identifier_one(filled: Catalog) -> None:
    assert await _runs(filled, definition="flow") == [R2, R1]
    assert await _runs(filled, definition="fit", limit=1) == [R4]
    assert await _runs(filled, "p", definition="flow:1") == [R1]
    assert await _runs(filled, definition="p:fit:0.9") == [R3]
    assert await _runs(filled, definition="p:fit:0.9", state="failed") == []
    assert await _runs(filled, definition="fit", state="failed") == [R4]
    [mix] = await filled.definitions(names=["mix"])
    assert await _runs(filled, "p", definition=mix.id) == []
    assert await _runs(filled, definition=mix.id) == [R5]


async def test_an_unknown_definition_is_refused_with_similar_names(filled: Catalog) -> None:
    question = ListRuns(session="s", request="r", project="p", definition="flew")
    refused = await _ask(filled, question)
    assert isinstance(refused, Refused)
    assert refused.code == "unidentified"
    assert "Did you mean flow?" in refused.message


async def test_a_tree_has_parents_before_children_and_all_that_is_known(filled: Catalog) -> None:
    tree = await _ask(filled, ShowRun(session="s", request="r", run=R2))
    assert isinstance(tree, Tree)
    root, done, failed = tree.runs
    assert (root.id, root.state, root.kind, root.worker, root.host) == (
        R2,
        "running",
        "workflow",
        "w",
        "host",
    )
    assert (root.definition, root.asked_for, root.started_at) == (
        "p:flow:2",
        "p:flow:2",
        build.NOW + 0.5,
    )
    assert (done.id, done.parent, done.root, done.state) == (R3, R2, R2, "succeeded")
    assert (done.created_at, done.finished_at) == (build.NOW + 2, build.NOW + 1)
    assert (failed.definition, failed.ordinal, failed.worker) == ("p:fit:0.10", 1, "unknown")
    assert failed.host is None
    assert failed.failure is not None
    assert failed.failure.traceback == "tb"


async def test_a_tree_begins_at_the_run_that_is_asked_for(filled: Catalog) -> None:
    tree = await _ask(filled, ShowRun(session="s", request="r", run=R3))
    assert isinstance(tree, Tree)
    assert [row.id for row in tree.runs] == [R3]


async def test_definitions_are_listed_in_order_with_their_live_workers(filled: Catalog) -> None:
    question = ListDefinitions(session="s", request="r", project=None)
    rows = await _ask(filled, question)
    assert isinstance(rows, Rows)
    assert [(row.definition.queue, row.workers) for row in rows.definitions] == [
        ("p:fit:0.9", 1),
        ("p:fit:0.10", 0),
        ("p:flow:1", 0),
        ("p:flow:2", 0),
        ("q:mix:1", 0),
    ]
    of_q = await _ask(filled, ListDefinitions(session="s", request="r", project="q"))
    assert isinstance(of_q, Rows)
    assert [row.definition.queue for row in of_q.definitions] == ["q:mix:1"]


async def test_a_worker_that_fell_silent_is_not_listed_and_serves_nothing(filled: Catalog) -> None:
    question = ListWorkers(session="s", request="r", project=None)
    alive = await _ask(filled, question, later=20)
    assert isinstance(alive, Rows)
    assert [(row.id, row.host, row.definitions) for row in alive.workers] == [
        ("w", "host", ("p:fit:0.9",))
    ]
    silent = await _ask(filled, question, later=21)
    assert isinstance(silent, Rows)
    assert silent.workers == ()
    definitions = await _ask(
        filled, ListDefinitions(session="s", request="r", project="p"), later=21
    )
    assert isinstance(definitions, Rows)
    assert {row.workers for row in definitions.definitions} == {0}


async def test_workers_of_other_projects_are_not_listed(filled: Catalog) -> None:
    rows = await _ask(filled, ListWorkers(session="s", request="r", project="q"))
    assert isinstance(rows, Rows)
    assert rows.workers == ()


async def test_a_heartbeat_replaces_what_the_worker_serves(filled: Catalog) -> None:
    await build.apply(filled, build.heartbeat("task_unknown"), now=build.NOW)
    rows = await _ask(filled, ListWorkers(session="s", request="r", project="p"))
    assert isinstance(rows, Rows)
    assert [row.definitions for row in rows.workers] == [()]


async def test_workers_silent_for_a_day_are_deleted_unless_an_attempt_is_theirs(
    filled: Catalog,
) -> None:
    late = build.NOW + 24 * 3600 + 1
    question = ListWorkers(session="s", request="r", project=None)
    for known in (["new", "w"], ["new"]):
        await build.apply(filled, build.heartbeat(worker="new"), now=late)
        rows = await listings.answer(question, filled, alive_since=0)
        assert isinstance(rows, Rows)
        assert sorted(row.id for row in rows.workers) == known
        await build.apply(filled, build.outcomes(build.outcome(R2)))


# -- attempts, due times, steps -------------------------------------------------------------------


async def test_a_tree_tells_every_attempt_with_where_and_how_it_ended(filled: Catalog) -> None:
    options = RunOptions(retry=RetryPolicy(max=3, initial=60, factor=1, cap=60, jitter=0))
    run = build.run_id(6)
    await build.apply(filled, build.submit(build.submission(run, "p:flow:2", options=options)))
    await build.apply(filled, build.started(run))
    await build.apply(filled, build.outcomes(build.outcome(run, "failed")))
    waiting = await _ask(filled, ShowRun(session="s", request="r", run=run))
    assert isinstance(waiting, Tree)
    assert (waiting.runs[0].state, waiting.runs[0].due_at) == ("waiting", build.NOW + 60)
    await build.apply(filled, *await filled.timers_due(now=build.NOW + 60, most=10))
    await build.apply(filled, build.started(run, attempt=2, worker="x", leased=True))
    tree = await _ask(filled, ShowRun(session="s", request="r", run=run))
    assert isinstance(tree, Tree)
    [row] = tree.runs
    assert (row.state, row.attempt, row.due_at, row.worker) == ("running", 2, None, "x")
    first, second = row.attempts
    assert (first.number, first.state, first.worker, first.host, first.pid) == (
        1,
        "failed",
        "w",
        "host",
        7,
    )
    assert (first.started_at, first.leased_at, first.finished_at) == (
        build.NOW,
        None,
        build.NOW + 1,
    )
    assert first.failure is not None
    assert (first.failure.type, first.failure.traceback) == ("ValueError", "tb")
    assert (second.number, second.state, second.worker, second.host) == (2, "running", "x", None)
    assert (second.leased_at, second.finished_at) == (build.NOW, None)


async def test_attempts_are_told_in_trees_only(filled: Catalog) -> None:
    rows = await _ask(filled, ListRuns(session="s", request="r", project=None))
    assert isinstance(rows, Rows)
    assert {row.attempts for row in rows.runs} == {()}


async def test_a_listing_tells_when_a_run_goes_on(filled: Catalog) -> None:
    options = RunOptions(
        retry=RetryPolicy(max=3, initial=60, factor=1, cap=60, jitter=0), total_timeout=600
    )
    run = build.run_id(6)
    await build.apply(filled, build.submit(build.submission(run, "p:flow:2", options=options)))
    await build.apply(filled, build.outcomes(build.outcome(run, "failed")))
    assert await _runs(filled, state="waiting") == [run]
    rows = await _ask(filled, ListRuns(session="s", request="r", project=None, state="waiting"))
    assert isinstance(rows, Rows)
    assert rows.runs[0].due_at == build.NOW + 60, "not when its total time is over"
    others = await _ask(filled, ListRuns(session="s", request="r", project=None, state="queued"))
    assert isinstance(others, Rows)
    assert {row.due_at for row in others.runs} == {None}


async def test_steps_are_told_in_trees_and_listed_nowhere(filled: Catalog) -> None:
    before = await _runs(filled)
    step = Submission(
        run=build.run_id(6),
        target=Target(kind="step", name=STEP),
        project="p",
        arguments=b"",
        parent=R2,
        recorded=Recorded(name="app.roll", result=b"4"),
    )
    await build.apply(filled, Submit(session="s", submissions=(step,)))
    assert await _runs(filled) == before
    assert build.run_id(6) not in await _runs(filled, "p")
    assert build.run_id(6) not in await _runs(filled, state="succeeded")
    tree = await _ask(filled, ShowRun(session="s", request="r", run=R2))
    assert isinstance(tree, Tree)
    row = tree.runs[-1]
    assert (row.id, row.kind, row.asked_for, row.state) == (
        step.run,
        "step",
        "app.roll",
        "succeeded",
    )
    definitions = await _ask(filled, ListDefinitions(session="s", request="r", project="p"))
    assert isinstance(definitions, Rows)
    assert STEP not in {row.definition.name for row in definitions.definitions}
    assert not [queue for queue in await filled.queues() if STEP in queue]


async def test_a_key_is_told(filled: Catalog) -> None:
    asked = build.submission(build.run_id(6), "p:flow:2", key="nightly", digest="d")
    await build.apply(filled, build.submit(asked))
    rows = await _ask(filled, ListRuns(session="s", request="r", project=None, limit=1000))
    assert isinstance(rows, Rows)
    assert {row.key for row in rows.runs} == {None, "nightly"}
