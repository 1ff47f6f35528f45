"""The report for a person: a table a workload, and what to know of each peer."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.results import Cell, Row
from benchmarks.workloads import WORKLOADS


def show(rows: Sequence[Row], about: Mapping[str, Any], baseline: str, console: Console) -> None:
    """Print all of it."""
    for key, metrics in groupby(rows, lambda row: row.workload):
        console.print(_table(key, list(metrics)))
    console.print(f"×: how many times as good {baseline} is. spread: least and most of the rounds.")
    for line in [*notes(rows), *peers(about)]:
        console.print(line, highlight=False)


def _table(key: str, rows: Sequence[Row]) -> Table:
    """One workload: a line a peer; of a metric its median, spread and ratio."""
    table = Table(title=f"{key}: {WORKLOADS[key].title}", title_justify="left", box=None)
    table.add_column("")
    for row in rows:
        table.add_column(f"{row.metric.name}, {row.metric.unit}", justify="right")
        table.add_column("spread", justify="right", style="dim")
        table.add_column("×", justify="right")
    for cells in zip(*(row.cells for row in rows), strict=True):
        if any(cell.verdict == "measured" for cell in cells) or any(cell.error for cell in cells):
            table.add_row(cells[0].peer, *(text for cell in cells for text in _texts(cell)))
    return table


def _texts(cell: Cell) -> tuple[str, str, str]:
    if cell.verdict != "measured":
        return (cell.verdict if cell.error else "–"), "", ""
    spread = f"{number(cell.least)}-{number(cell.most)}" if cell.rounds > 1 else ""
    ratio = "" if cell.ratio is None else f"{cell.ratio:.2f}"
    return number(cell.median), spread, ratio


def notes(rows: Iterable[Row]) -> Sequence[str]:
    """Why something was not measured, each once."""
    found = {
        f"{row.workload}, {cell.peer}: {cell.verdict}: {escape(cell.error)}": None
        for row in rows
        for cell in row.cells
        if cell.error
    }
    return list(found)


def peers(about: Mapping[str, Any]) -> Sequence[str]:
    """What to know of each."""
    return [
        f"[bold]{name}[/]: {escape(_versions(of))}. Durable: {escape(of['durable'])}. "
        f"Settings: {escape(of['settings'])}. Not asked: {escape(of['not_asked'])}."
        for name, of in about.items()
    ]


def _versions(of: Mapping[str, Any]) -> str:
    return ", ".join(f"{package} {number}" for package, number in of["versions"].items())


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
