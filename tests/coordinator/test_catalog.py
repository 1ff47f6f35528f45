"""The catalog as a file: kept, recognized, brought up to date, held by one coordinator."""

import errno
import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from leveret_broker.messages import Attach, Cancel, Finished, ShowRun, Tree
from leveret_coordinator import listings, migrations, statements
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.database import Database
from leveret_coordinator.decision import Answer, Decision
from leveret_coordinator.errors import (
    CatalogConflict,
    CatalogInUse,
    CatalogTooNew,
    CatalogUnavailable,
    NotACatalog,
)
from leveret_coordinator.facts import needs_of
from leveret_coordinator.lock import CatalogLock
from leveret_coordinator.records import (
    Confirmed,
    FinishedAttempt,
    PendingRun,
    RefusedAttempt,
    Waiter,
)
from tests.coordinator import build

ROOT, CHILD, OTHER = (build.run_id(number) for number in range(1, 4))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "catalog.sqlite"


async def _filled(path: Path | None) -> Catalog:
    catalog = await Catalog.open(path)
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    return catalog


async def _pending(catalog: Catalog, page: int = 10) -> list[PendingRun]:
    return [pending async for runs in catalog.pending(page=page) for pending in runs]


async def _unanswered(catalog: Catalog, page: int = 10) -> list[Answer]:
    return [answer async for answers in catalog.unanswered(page=page) for answer in answers]


async def _show(catalog: Catalog, run: str) -> Tree:
    question = ShowRun(session="s", request="r", run=run)
    tree = await listings.answer(question, catalog, alive_since=0)
    assert isinstance(tree, Tree)
    return tree


# -- kept -----------------------------------------------------------------------------------------


async def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    catalog = await _filled(path)
    await build.apply(catalog, build.submit(build.submission(CHILD, "flow", parent=ROOT)))
    await build.apply(catalog, build.started(ROOT))
    await build.apply(catalog, build.outcomes(build.outcome(CHILD, "failed")))
    before = await _show(catalog, ROOT)
    await catalog.close()

    catalog = await Catalog.open(path)
    assert await _show(catalog, ROOT) == before
    assert [(row.id, row.state) for row in before.runs] == [(ROOT, "running"), (CHILD, "failed")]
    assert await catalog.queues() == ["p:flow:1"]
    failure = before.runs[1].failure
    assert failure is not None
    assert (failure.type, failure.message, failure.traceback) == ("ValueError", "no", "tb")
    await catalog.close()


async def test_the_outbox_survives_a_restart(path: Path) -> None:
    catalog = await _filled(path)
    await build.apply(catalog, build.submit(build.submission(OTHER)))
    await build.apply(catalog, build.outcomes(build.outcome(OTHER)))
    await catalog.close()

    catalog = await Catalog.open(path)
    [pending] = await _pending(catalog)
    assert (pending.run.id, pending.queue, pending.arguments) == (ROOT, "p:flow:1", b"arguments")
    told = Finished(run=OTHER, state="succeeded", result=b"result")
    assert await _unanswered(catalog) == [Answer(session="s", reply=told)]
    await catalog.close()


@pytest.mark.parametrize("page", [1, 2, 3, 100])
async def test_the_outbox_is_read_in_pages_without_gaps_confirmed_or_not(
    catalog: Catalog, page: int
) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    runs = [build.run_id(number) for number in range(9, 0, -1)]
    for position, run in enumerate(runs):  # two moments, and within each the order of acceptance
        now = build.NOW + position // 5
        await build.apply(catalog, build.submit(build.submission(run)), now=now)
    assert [pending.run.id for pending in await _pending(catalog, page)] == runs
    ended = build.outcomes(*map(build.outcome, runs))
    await build.apply(
        catalog, *(Attach(session=f"s{n}", runs=tuple(runs)) for n in range(3)), ended
    )
    answers = await _unanswered(catalog, page)
    assert len(answers) == len({(answer.session, str(answer.reply)) for answer in answers}) == 36


async def test_a_late_confirmation_of_another_attempt_changes_nothing(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    await catalog.confirm(Confirmed(published=(build.published(ROOT, 2),)))
    assert [pending.run.id for pending in await _pending(catalog)] == [ROOT]
    await catalog.confirm(Confirmed(published=(build.published(ROOT, 1),)))
    assert await _pending(catalog) == []


async def test_what_is_confirmed_leaves_the_outbox(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT), build.submission(OTHER)))
    await build.apply(catalog, build.outcomes(build.outcome(OTHER)))
    await catalog.confirm(
        Confirmed(
            published=(build.published(ROOT), build.published(OTHER)),
            settled=(Waiter(run=OTHER, session="s"),),
        )
    )
    assert await _pending(catalog) == []
    assert await _unanswered(catalog) == []
    states = {row.id: row.state for row in [*(await _show(catalog, ROOT)).runs]}
    assert states == {ROOT: "queued"}
    assert (await _show(catalog, OTHER)).runs[0].state == "succeeded"


async def test_a_broker_that_lost_everything_leaves_all_that_has_not_ended_pending(
    catalog: Catalog,
) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(*map(build.submission, (ROOT, CHILD, OTHER))))
    await catalog.confirm(Confirmed(published=tuple(map(build.published, (ROOT, CHILD, OTHER)))))
    await build.apply(catalog, build.started(ROOT))
    await build.apply(catalog, build.outcomes(build.outcome(OTHER)))
    await catalog.forget_published()
    assert [pending.run.id for pending in await _pending(catalog)] == [ROOT, CHILD]


# -- written all or not at all --------------------------------------------------------------------


async def test_a_second_end_of_a_run_is_refused_with_all_that_came_with_it(
    catalog: Catalog,
) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT), build.submission(OTHER)))
    await build.apply(catalog, build.outcomes(build.outcome(ROOT)))
    ends = tuple(
        FinishedAttempt(run=run, attempt=1, state="failed", finished_at=1, worker="w")
        for run in (OTHER, ROOT)
    )
    with pytest.raises(CatalogConflict, match="1 of 2 rows"):
        await catalog.write(Decision(finished=ends), Confirmed(), now=build.NOW)
    assert (await _show(catalog, ROOT)).runs[0].state == "succeeded"
    assert (await _show(catalog, OTHER)).runs[0].state == "pending"


async def test_the_end_of_another_attempt_is_refused(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    end = FinishedAttempt(run=ROOT, attempt=2, state="failed", finished_at=1, worker="w")
    with pytest.raises(CatalogConflict):
        await catalog.write(Decision(finished=(end,)), Confirmed(), now=build.NOW)


async def test_a_run_is_inserted_once(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    decision = await build.apply(catalog, build.submit(build.submission(ROOT)))
    with pytest.raises(CatalogConflict):
        await catalog.write(decision, Confirmed(), now=build.NOW)


async def test_cancelling_finds_the_whole_tree_however_deep(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    runs = [build.run_id(number) for number in range(1, 40)]
    for position, run in enumerate(runs):
        parent = runs[(position - 1) // 2] if position else None
        asked = build.submission(run, "p:flow:1", parent=parent)
        await build.apply(catalog, build.submit(asked))
    await build.apply(catalog, build.submit(build.submission(build.run_id(100))))
    # A run that has ended hides nothing that is still under way below it.
    await build.apply(catalog, build.outcomes(build.outcome(runs[1])))
    decision = await build.apply(catalog, Cancel(session="s", runs=(runs[0],)))
    assert set(decision.cancelled) == set(runs) - {runs[1]}
    assert (await _show(catalog, build.run_id(100))).runs[0].state == "pending"
    facts = await catalog.load(needs_of([Cancel(session="s", runs=(runs[0],))]), alive_since=0)
    assert {run.id for _, run in facts.below} == set(runs)
    assert {waiter.run for waiter in facts.waiters} <= {runs[0]}, "others have ended"


async def test_a_run_made_below_one_that_has_ended_is_cancelled_with_the_one_above(
    catalog: Catalog,
) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    await build.apply(catalog, build.submit(build.submission(CHILD, parent=ROOT)))
    await build.apply(catalog, build.outcomes(build.outcome(CHILD)))
    below = build.submit(build.submission(OTHER, parent=CHILD))
    decision = await build.apply(catalog, below, Cancel(session="s", runs=(ROOT,)))
    assert decision.cancelled == (ROOT, OTHER)
    assert decision.invocations == ()


async def test_a_run_that_can_not_be_published_fails_in_the_catalog(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    await build.apply(catalog, RefusedAttempt(run=ROOT, attempt=1, reason="over the limit"))
    [row] = (await _show(catalog, ROOT)).runs
    assert (row.state, row.worker) == ("failed", None)
    assert row.failure is not None
    assert row.failure.type == "leveret.errors.PayloadError"
    assert await _pending(catalog) == []


# -- durable --------------------------------------------------------------------------------------


async def test_a_commit_reaches_the_disk_before_it_returns(path: Path) -> None:
    database = await Database.open(path)
    try:
        for pragma, expected in (("synchronous", 2), ("journal_mode", "wal"), ("foreign_keys", 1)):
            [row] = await database.connection.execute_fetchall(f"PRAGMA {pragma}")
            assert row[0] == expected, pragma
    finally:
        await database.close()


async def test_a_new_catalog_is_told_in_the_log_and_an_old_one_is_not(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await (await Catalog.open(None)).close()
    assert "catalog made" not in caplog.text
    for _ in range(2):
        await (await Catalog.open(path)).close()
    assert caplog.text.count("catalog made") == 1


# -- migrations -----------------------------------------------------------------------------------


def test_migrations_are_numbered_without_gaps_and_set_their_number() -> None:
    scripts = migrations.load()
    assert [script.number for script in scripts] == list(range(1, len(scripts) + 1))
    for migration in scripts:
        assert "BEGIN IMMEDIATE;" in migration.script
        assert f"PRAGMA user_version = {migration.number};" in migration.script
        assert migration.script.rstrip().endswith("COMMIT;")


async def test_a_fresh_file_gets_all_tables_and_another_start_changes_nothing(path: Path) -> None:
    await (await Catalog.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        schema = connection.execute("SELECT * FROM sqlite_schema").fetchall()
        version = connection.execute("PRAGMA user_version").fetchone()
    assert version == (migrations.load()[-1].number,)
    await (await Catalog.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM sqlite_schema").fetchall() == schema


async def test_a_catalog_of_a_newer_version_is_refused(path: Path) -> None:
    await (await Catalog.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(CatalogTooNew, match=r"schema 999.*Upgrade leveret"):
        await Catalog.open(path)


async def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(NotACatalog, match="is not a catalog of leveret"):
        await Catalog.open(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("buy milk\n" * 1000, encoding="utf-8")
    with pytest.raises(NotACatalog):
        await Catalog.open(path)
    assert path.read_text(encoding="utf-8") == "buy milk\n" * 1000


async def test_a_path_that_can_not_be_a_file_is_refused_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailable, match="can't be used now"):
        await Catalog.open(tmp_path)
    blocking = tmp_path / "file"
    blocking.touch()
    with pytest.raises(CatalogUnavailable, match="can't be made"):
        await Catalog.open(blocking / "catalog.sqlite")


# -- one coordinator ------------------------------------------------------------------------------


async def test_a_catalog_in_use_is_refused_naming_the_holder(path: Path) -> None:
    catalog = await Catalog.open(path)
    with pytest.raises(CatalogInUse, match=f"{os.getpid()}@{socket.gethostname()}"):
        await Catalog.open(path)
    await catalog.close()
    await (await Catalog.open(path)).close()


async def test_a_catalog_in_use_is_refused_by_its_other_names_too(path: Path) -> None:
    catalog = await Catalog.open(path)
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(CatalogInUse):
        await Catalog.open(link)
    await catalog.close()


@pytest.mark.parametrize("operation", ["fcntl.flock", "os.ftruncate", "os.write"])
def test_files_that_can_not_be_locked_are_refused_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = set(Path("/dev/fd").iterdir())
    lock = CatalogLock(tmp_path / "catalog")
    with monkeypatch.context() as patch:
        patch.setattr(operation, fail)
        with pytest.raises(CatalogUnavailable, match=r"can't be locked: No locks available"):
            lock.acquire()
    assert set(Path("/dev/fd").iterdir()) == before, "nothing is left open"
    lock.acquire()
    lock.release()


async def test_a_refused_catalog_is_not_kept_locked(path: Path) -> None:
    await (await Catalog.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    for _ in range(2):
        with pytest.raises(CatalogTooNew):
            await Catalog.open(path)


async def test_catalogs_in_memory_are_apart() -> None:
    one, other = await _filled(None), await Catalog.open(None)
    assert await other.queues() == []
    await one.close()
    await other.close()


# -- statements -----------------------------------------------------------------------------------


def _plan(statement: str) -> str:
    """How SQLite would carry out a statement on an empty catalog."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for migration in migrations.load():
            connection.executescript(migration.script)
        query = getattr(statements.load(), statement)
        names: list[str] = query.parameters or []
        parameters: dict[str, str] = dict.fromkeys(names, "[]")
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
    ],
)
def test_listings_go_by_an_index_and_never_scan_or_sort_all_runs(
    statement: str, index: str
) -> None:
    plan = _plan(statement)
    assert index in plan, plan
    assert "SCAN runs\n" not in plan, plan
    if statement not in ("runs_of_definitions", "tree", "runs_below", "definitions_wanted"):
        assert "TEMP B-TREE" not in plan, plan
