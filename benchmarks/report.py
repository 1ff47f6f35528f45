"""The report for a person: a table a workload, and what to know of each peer."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.results import Cell, Row
from benchmarks.workloads import WORKLOADS

ABREAST = 3
"""Metrics in one table, to fit a terminal."""


def show(rows: Sequence[Row], about: Mapping[str, Any], baseline: str, console: Console) -> None:
    """Print all of it."""
    for key, metrics in groupby(rows, lambda row: row.workload):
        for table in _tables(key, list(metrics)):
            console.print(table)
    console.print(f"×: how many times as good {baseline} is. spread: least and most of the rounds.")
    for line in [*notes(rows), *peers(about)]:
        console.print(line, highlight=False)


def _tables(key: str, rows: Sequence[Row]) -> Iterable[Table]:
    """One workload: a line a peer; of each metric its median, spread and ratio."""
    title = f"[bold]{key}[/]: {WORKLOADS[key].title}"
    for first in range(0, len(rows), ABREAST):
        yield _table(title if first == 0 else "", rows[first : first + ABREAST])


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=None)
    table.add_column("", no_wrap=True)
    for row in rows:
        heading = f"{row.metric.name}, {row.metric.unit}"
        table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("spread", justify="right", style="dim", no_wrap=True)
        table.add_column("×", justify="right", no_wrap=True)
    for cells in zip(*(row.cells for row in rows), strict=True):
        if any(cell.verdict == "measured" or cell.error for cell in cells):
            table.add_row(cells[0].peer, *(text for cell in cells for text in _texts(cell)))
    return table


def _texts(cell: Cell) -> tuple[str, str, str]:
    if cell.verdict != "measured":
        return (cell.verdict if cell.error else "–"), "", ""
    spread = f"{number(cell.least)}-{number(cell.most)}" if cell.rounds > 1 else ""
    ratio = "" if cell.ratio is None else f"{cell.ratio:.2f}"
    return number(cell.median), spread, ratio


def notes(rows: Iterable[Row]) -> Sequence[str]:
    """Why something was not measured, each reason once."""
    where: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for cell in row.cells:
            if cell.error:
                reason = cell.peer, f"{cell.verdict}: {cell.error}"
                where.setdefault(reason, {})[row.workload] = None
    return [
        f"{', '.join(workloads)}, {peer}: {escape(reason)}"
        for (peer, reason), workloads in where.items()
    ]


def peers(about: Mapping[str, Any]) -> Sequence[str]:
    """What to know of each."""
    return [
        f"[bold]{name}[/]: {escape(_versions(of))}. Durable: {escape(of['durable'])}. "
        f"Settings: {escape(of['settings'])}. Not asked: {escape(of['not_asked'])}."
        for name, of in about.items()
    ]


def _versions(of: Mapping[str, Any]) -> str:
    versions = of["versions"].items()
    return ", ".join(f"{package} {number}" for package, number in versions) or of["title"]


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
