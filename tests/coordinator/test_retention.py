"""Runs are removed by trees, long after they ended, and never while anything needs them."""

import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from leveret_broker.messages import AttemptEnd, Prune, Pruned, Refused, Retry, Ship
from leveret_coordinator import retention
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.pruner import PAUSE, Pruner
from leveret_coordinator.records import Confirmed, Waiter
from leveret_coordinator.retention import LEAST_AGE
from tests.coordinator import build
from tests.coordinator.build import NOW
from tests.worker.clocks import START, HandClock

ROOT, CHILD, GRANDCHILD, OTHER, THIRD = (build.run_id(number) for number in range(1, 6))
LATER = NOW + 10 * LEAST_AGE
TABLES = ("runs", "arguments", "results", "attempts", "inputs", "doomed", "waiters", "timers")


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    catalog = await Catalog.open(tmp_path / "catalog.sqlite")
    fit = build.spec("fit", kind="task", version="0.1")
    await build.apply(catalog, build.register(build.spec("flow"), fit))
    await build.apply(catalog, build.register(build.spec("mix"), project="q"))
    yield catalog
    await catalog.close()


async def ask(
    catalog: Catalog,
    *runs: str,
    parent: str | None = None,
    of: str = "p:flow:1",
    inputs: tuple[str, ...] = (),
    key: str | None = None,
) -> None:
    wanted = [build.submission(run, of, parent=parent, inputs=inputs, key=key) for run in runs]
    await build.apply(catalog, build.submit(*wanted))


async def told(catalog: Catalog, *runs: str) -> None:
    """Who waits for them was told."""
    settled = tuple(Waiter(run=run, session="s") for run in runs)
    await catalog.confirm(Confirmed(settled=settled), now=NOW)


async def end(catalog: Catalog, *runs: str, now: float = NOW) -> None:
    ended = build.outcomes(*(build.outcome(run) for run in runs))
    await build.apply(catalog, ended, now=now)
    await told(catalog, *runs)


async def prune(
    catalog: Catalog,
    *,
    older_than: float = LEAST_AGE,
    now: float = LATER,
    project: str | None = None,
    dry_run: bool = False,
) -> Pruned:
    """As the command does, portion by portion."""
    done = Pruned(request="r")
    while True:
        question = Prune(
            session="s",
            request="r",
            project=project,
            older_than=older_than,
            after=done.place,
            dry_run=dry_run,
        )
        portion = await retention.answer(question, catalog, now=now)
        assert isinstance(portion, Pruned), portion
        done = Pruned(
            request="r",
            trees=done.trees + portion.trees,
            runs=done.runs + portion.runs,
            code=done.code + portion.code,
            place=portion.place,
        )
        if done.place is None:
            return done


async def kept(catalog: Catalog) -> set[str]:
    every = [ROOT, CHILD, GRANDCHILD, OTHER, THIRD]
    return {run for run in every if await catalog.rows("run_row", run=run)}


async def sizes(path: Path) -> Mapping[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        counts = [f"SELECT '{table}', count(*) FROM {table}" for table in TABLES]
        return dict(connection.execute(" UNION ALL ".join(counts)).fetchall())


async def tree(catalog: Catalog) -> None:
    await ask(catalog, ROOT)
    await ask(catalog, CHILD, parent=ROOT)
    await ask(catalog, GRANDCHILD, parent=CHILD, of="fit:0.1")
    await end(catalog, GRANDCHILD, CHILD, ROOT)


async def test_a_tree_goes_with_all_that_belongs_to_it(catalog: Catalog, tmp_path: Path) -> None:
    await tree(catalog)
    assert (done := await prune(catalog)).runs == 3, done
    assert done.trees == 1
    assert await kept(catalog) == set()
    assert await sizes(tmp_path / "catalog.sqlite") == dict.fromkeys(TABLES, 0)


async def test_a_dry_run_counts_and_removes_nothing(catalog: Catalog) -> None:
    await tree(catalog)
    assert (await prune(catalog, dry_run=True)).runs == 3
    assert await kept(catalog) == {ROOT, CHILD, GRANDCHILD}


async def test_what_ended_later_is_kept_with_its_whole_tree(catalog: Catalog) -> None:
    await ask(catalog, ROOT)
    await ask(catalog, CHILD, parent=ROOT)
    await end(catalog, ROOT)
    assert (await prune(catalog)).runs == 0
    await end(catalog, CHILD)
    assert (await prune(catalog)).runs == 2
    await ask(catalog, OTHER)
    await ask(catalog, THIRD, parent=OTHER)
    await end(catalog, THIRD, OTHER, now=LATER - LEAST_AGE)
    assert (await prune(catalog)).runs == 0
    assert (await prune(catalog, now=LATER + 1)).runs == 2


async def test_a_child_that_was_executed_again_keeps_its_tree(catalog: Catalog) -> None:
    await ask(catalog, ROOT)
    await ask(catalog, CHILD, parent=ROOT, of="fit:0.1")
    failed = build.outcomes(build.outcome(CHILD, "failed"))
    await build.apply(catalog, failed)
    await end(catalog, ROOT)
    await told(catalog, CHILD)
    await build.apply(catalog, Retry(session="s", request="again", run=CHILD))
    assert (await prune(catalog)).runs == 0
    await build.apply(catalog, build.outcomes(build.outcome(CHILD, attempt=2)), now=LATER - 10)
    await told(catalog, CHILD)
    assert (await prune(catalog)).runs == 0, "it has ended just now"
    assert (await prune(catalog, now=2 * LATER)).runs == 2


async def test_what_has_not_ended_is_kept(catalog: Catalog) -> None:
    await ask(catalog, ROOT, OTHER)
    await end(catalog, OTHER)
    assert (await prune(catalog)).runs == 1
    assert await kept(catalog) == {ROOT}


async def test_what_a_session_waits_for_is_kept(catalog: Catalog) -> None:
    await tree(catalog)
    await ask(catalog, OTHER)
    await build.apply(catalog, build.outcomes(build.outcome(OTHER)))
    await prune(catalog)
    assert await kept(catalog) == {OTHER}
    await told(catalog, OTHER)
    await prune(catalog)
    assert await kept(catalog) == set()


async def test_an_input_is_kept_as_long_as_what_has_it(catalog: Catalog) -> None:
    await ask(catalog, OTHER, of="fit:0.1")
    await end(catalog, OTHER)
    await ask(catalog, ROOT)
    await ask(catalog, CHILD, parent=ROOT, of="fit:0.1", inputs=(OTHER,))
    await end(catalog, CHILD, ROOT, now=LATER)
    assert (await prune(catalog)).runs == 0
    assert (await prune(catalog, dry_run=True)).runs == 0
    much_later = LATER + 2 * LEAST_AGE
    assert (await prune(catalog, now=much_later, dry_run=True)).runs == 3
    assert (await prune(catalog, now=much_later)).runs == 3, "the newer first, then its input"


async def test_inputs_within_a_tree_do_not_keep_it(catalog: Catalog, tmp_path: Path) -> None:
    await ask(catalog, ROOT)
    await ask(catalog, CHILD, parent=ROOT, of="fit:0.1")
    await ask(catalog, GRANDCHILD, parent=ROOT, of="fit:0.1", inputs=(CHILD,))
    await end(catalog, CHILD)
    await end(catalog, GRANDCHILD, ROOT)
    assert (await prune(catalog)).runs == 3
    assert (await sizes(tmp_path / "catalog.sqlite"))["inputs"] == 0


async def test_only_the_project_that_was_named_is_pruned(catalog: Catalog) -> None:
    await ask(catalog, ROOT)
    await ask(catalog, OTHER, of="q:mix:1")
    await end(catalog, ROOT, OTHER)
    assert (await prune(catalog, project="q")).runs == 1
    assert await kept(catalog) == {ROOT}


async def test_a_key_is_free_when_its_run_is_gone(catalog: Catalog) -> None:
    await ask(catalog, ROOT, key="order 17")
    await end(catalog, ROOT)
    await ask(catalog, ROOT, key="order 17")
    [row] = await catalog.rows("run_row", run=ROOT)
    assert row["state"] == "succeeded", "as long as the run is kept, the key means it"
    await told(catalog, ROOT)
    await prune(catalog)
    await ask(catalog, ROOT, key="order 17")
    [row] = await catalog.rows("run_row", run=ROOT)
    assert row["state"] == "pending"


async def test_what_ended_just_now_is_never_removed(catalog: Catalog) -> None:
    question = Prune(session="s", request="r", older_than=LEAST_AGE - 1)
    refused = await retention.answer(question, catalog, now=LATER)
    assert isinstance(refused, Refused)
    assert "3600 seconds" in refused.message


# -- portions -------------------------------------------------------------------------------------


async def large_tree(catalog: Catalog, *, first: AttemptEnd = "succeeded") -> list[str]:
    children = [build.run_id(100 + number) for number in range(20)]
    await ask(catalog, ROOT)
    for position, child in enumerate(children):
        asked = build.submission(child, "fit:0.1", parent=ROOT)
        asked = asked.model_copy(update={"ordinal": position})
        await build.apply(catalog, build.submit(asked))
    await build.apply(catalog, build.outcomes(build.outcome(children[0], first)))
    await told(catalog, children[0])
    await end(catalog, *children[1:], ROOT)
    return children


async def test_a_large_tree_is_gone_at_once_and_removed_by_portions(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST_RUNS", 8)
    await large_tree(catalog)
    question = Prune(session="s", request="r", older_than=LEAST_AGE)
    first = await retention.answer(question, catalog, now=LATER)
    assert isinstance(first, Pruned)
    assert (first.trees, first.runs) == (1, 21)
    assert await kept(catalog) == set(), "nobody can open the root again"
    assert (await sizes(tmp_path / "catalog.sqlite"))["runs"] == 21 - 1 - 8
    while await retention.finish(catalog):
        pass
    assert await sizes(tmp_path / "catalog.sqlite") == dict.fromkeys(TABLES, 0)


async def test_what_is_opened_or_needed_before_its_portion_is_not_removed(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST_RUNS", 8)
    opened, needed, *_ = await large_tree(catalog, first="failed")
    question = Prune(session="s", request="r", older_than=LEAST_AGE)
    await retention.answer(question, catalog, now=LATER)
    await build.apply(catalog, Retry(session="s", request="again", run=opened))
    await ask(catalog, OTHER, inputs=(needed,))
    while await retention.finish(catalog):
        pass
    left = [row["id"] for row in await catalog.rows("runs_named", ids=json.dumps([opened, needed]))]
    assert sorted(left) == [opened, needed]
    assert (await sizes(tmp_path / "catalog.sqlite"))["runs"] == 3
    await end(catalog, OTHER)


async def test_a_dry_run_looks_at_all_portions(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST_RUNS", 8)
    monkeypatch.setattr(retention, "MOST_ROOTS", 2)
    await ask(catalog, OTHER, THIRD, CHILD)
    await end(catalog, OTHER, THIRD, CHILD)
    await large_tree(catalog)
    counted = await prune(catalog, dry_run=True)
    assert (counted.trees, counted.runs) == (4, 24)
    removed = await prune(catalog)
    assert (removed.trees, removed.runs) == (4, 24)


async def test_pages_of_the_file_are_used_again(catalog: Catalog, tmp_path: Path) -> None:
    pages: list[int] = []
    for beginning in range(1000, 4000, 1000):
        runs = [build.run_id(beginning + number) for number in range(200)]
        await ask(catalog, *runs)
        await end(catalog, *runs)
        pages.append(await catalog.value("page_count"))
        assert (await prune(catalog)).runs == 200
    assert pages[2] <= pages[0] * 1.1, pages


# -- code -----------------------------------------------------------------------------------------


def ship(digest: str) -> Ship:
    spec = build.spec("shipped", kind="task", version="0").model_copy(update={"place": "thread"})
    return Ship(
        session="s", request="ship", project="p", digest=digest, body=b"code", definitions=(spec,)
    )


async def digests(catalog: Catalog) -> set[str]:
    known = ["one", "two", "three"]
    return {
        digest
        for digest in known
        if await catalog.value("code_body", project="p", digest=digest) is not None
    }


async def test_code_goes_when_no_definition_and_no_run_is_of_it(catalog: Catalog) -> None:
    await build.apply(catalog, ship("one"))
    await ask(catalog, ROOT, of="p:shipped:0")
    await build.apply(catalog, ship("two"))
    await build.apply(catalog, ship("three"))
    await prune(catalog, now=NOW + LEAST_AGE - 1)
    assert await digests(catalog) == {"one", "two", "three"}, "what is young may be called yet"
    counted = await prune(catalog, dry_run=True)
    assert (counted.code, await digests(catalog)) == (1, {"one", "two", "three"})
    assert (await prune(catalog)).code == 1
    assert await digests(catalog) == {"one", "three"}, (
        "a run is of one, the definition of the other"
    )
    await end(catalog, ROOT)
    assert (await prune(catalog, project="q")).code == 0
    assert (await prune(catalog)).code == 1
    assert await digests(catalog) == {"three"}


# -- by itself ------------------------------------------------------------------------------------


async def proceed(pruner: Pruner, catalog: Catalog, clock: HandClock, seconds: float) -> None:
    """Time passes, and whatever is due is done."""
    until = clock.now() + seconds
    while clock.now() < until:
        await clock.let_pass(min(PAUSE, until - clock.now()))
        if pruner.is_due:
            await pruner.proceed(catalog, heard_until=clock.now())


async def test_the_coordinator_removes_by_itself_what_was_kept_long_enough(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST_ROOTS", 1)
    clock = HandClock()
    assert clock.now() == START == NOW
    pruner = Pruner(clock, lambda: None, keep=100.0, every=10.0)
    pruner.start()
    await ask(catalog, ROOT, OTHER)
    await end(catalog, ROOT, OTHER)
    await proceed(pruner, catalog, clock, 99)
    assert await kept(catalog) == {ROOT, OTHER}
    await proceed(pruner, catalog, clock, 15)
    assert await kept(catalog) == set()
    pruner.clear()


async def test_it_waits_until_all_is_heard_that_was_told_before_its_start(catalog: Catalog) -> None:
    clock = HandClock()
    pruner = Pruner(clock, lambda: None, keep=1.0, every=10.0)
    pruner.start()
    await ask(catalog, ROOT)
    await end(catalog, ROOT)
    await clock.let_pass(10)
    assert pruner.is_due
    await pruner.proceed(catalog, heard_until=START - 1)
    assert await kept(catalog) == {ROOT}
    await clock.let_pass(10)
    assert pruner.is_due
    await pruner.proceed(catalog, heard_until=START)
    assert await kept(catalog) == set()
    pruner.clear()


async def test_without_a_setting_it_only_finishes_what_was_given_up(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST_RUNS", 8)
    await large_tree(catalog)
    await ask(catalog, OTHER)
    await end(catalog, OTHER)
    question = Prune(session="s", request="r", older_than=LEAST_AGE)
    monkeypatch.setattr(retention, "MOST_ROOTS", 1)
    await retention.answer(question, catalog, now=LATER)
    clock = HandClock()
    pruner = Pruner(clock, lambda: None, keep=None, every=10.0)
    pruner.start()
    await proceed(pruner, catalog, clock, 60)
    assert not pruner.is_due
    assert (await sizes(tmp_path / "catalog.sqlite"))["doomed"] == 0
    assert len(await kept(catalog)) <= 1
    pruner.clear()
