"""The filler makes a catalog that is like one that has served."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import leveret
from benchmarks.fill import Filling, fill
from leveret import define
from leveret_broker.messages import ListRuns, Rows, ShowRun, Tree
from leveret_coordinator import listings
from leveret_coordinator.catalog import Catalog


@define.task(name="fill-add")
async def add(a: int, b: int) -> int:
    return a + b


@define.task(name="fill-fail", retries=leveret.Retry(max=1, initial=0.01))
async def fail(a: int) -> int:
    raise ValueError(a)


@define.workflow(name="fill-flow")
async def flow(n: int) -> int:
    first = await leveret.step(lambda: n)
    with suppress(ValueError):
        await fail(first)
    return sum(await asyncio.gather(*[add(first, other) for other in range(3)]))


def _rows(path: Path, sql: str) -> Sequence[Any]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(sql).fetchall()


def _shapes(path: Path, table: str, of: str) -> set[tuple[object, ...]]:
    """Which columns are filled, and with what type, by what the rows are about."""
    found = _rows(path, f"SELECT {of} AS of, {table}.* FROM {table} JOIN runs USING (seq)")
    return {(row["of"], *(type(value) for value in tuple(row)[1:])) for row in found}


def _run_shapes(path: Path) -> set[tuple[object, ...]]:
    columns = [row["name"] for row in _rows(path, "SELECT name FROM pragma_table_info('runs')")]
    compared = [column for column in columns if column not in ("options", "seq")]
    found = _rows(path, f"SELECT {', '.join(compared)} FROM runs")
    return {tuple(value.__class__ for value in tuple(row)) for row in found}


async def test_rows_are_like_those_of_real_runs(tmp_path: Path) -> None:
    async with leveret.local(state=tmp_path):
        await flow(1)
        await add(2, 3)
    filled = tmp_path / "filled.sqlite"
    fill(filled, Filling(runs=2000))
    real = tmp_path / "catalog.sqlite"
    by_kind = "runs.kind || runs.state || (runs.parent IS NULL)"
    attempt = "runs.kind || attempts.state"
    for table, of in (("attempts", attempt), ("arguments", by_kind), ("results", by_kind)):
        assert _shapes(real, table, of) <= _shapes(filled, table, of), table
    assert _run_shapes(real) <= _run_shapes(filled)


async def test_a_coordinator_takes_it_as_its_own(tmp_path: Path) -> None:
    fill(tmp_path / "catalog.sqlite", Filling(runs=500, definitions=20))
    catalog = await Catalog.open(tmp_path / "catalog.sqlite")
    try:
        asked = ListRuns(session="s", request="r", project="default", roots_only=True, limit=1000)
        rows = await listings.answer(asked, catalog, alive_since=0)
        assert isinstance(rows, Rows)
        top = next(row.id for row in rows.runs[1:] if row.kind == "workflow")
        tree = await listings.answer(
            ShowRun(session="s", request="r", run=top), catalog, alive_since=0
        )
        assert isinstance(tree, Tree)
        assert [row.kind for row in tree.runs] == ["workflow", "step", *["task"] * 8]
        assert not await catalog.has_pending(before=1e12)
    finally:
        await catalog.close()


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        fill(path, Filling(runs=1))
    assert path.read_text() == "precious"
