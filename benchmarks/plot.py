"""A picture of the figures: a panel a metric, a bar a peer, by matplotlib."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.report import number
from benchmarks.results import Cell, Row
from benchmarks.workloads import WORKLOADS

COLUMNS = 3
MINE, OTHERS = "#c8511b", "#8a9aa9"


def draw(rows: Sequence[Row], path: Path, subtitle: str) -> None:
    """Write a PNG. Raises `ImportError` if matplotlib is not installed."""
    figure_module = import_module("matplotlib.figure")
    drawn = [row for row in rows if len(bars(row)) > 1 and any(cell.median for cell in bars(row))]
    if not drawn:
        return
    lines = -(-len(drawn) // COLUMNS)
    tallest = max(len(bars(row)) for row in drawn)
    size = (5 * COLUMNS, lines * (1.1 + 0.26 * tallest) + 0.8)
    figure = figure_module.Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    for panel, row in zip(panels, drawn, strict=False):
        _panel(panel, row)
    for panel in panels[len(drawn) :]:
        panel.set_axis_off()
    figure.suptitle(f"Medians, with least and most of the rounds. {subtitle}", fontsize=9)
    figure.savefig(path, dpi=110)


def bars(row: Row) -> Sequence[Cell]:
    """The peers that have a figure, from the worst, which is drawn at the bottom, to the best."""
    has = [cell for cell in row.cells if cell.verdict == "measured"]
    return sorted(has, key=lambda cell: cell.median, reverse=row.metric.better == "less")


def _panel(panel: Any, row: Row) -> None:
    shown = bars(row)
    names = [cell.peer for cell in shown]
    panel.barh(
        names,
        [cell.median for cell in shown],
        xerr=[
            [cell.median - cell.least for cell in shown],
            [cell.most - cell.median for cell in shown],
        ],
        color=[MINE if name.startswith(("leveret", "embedded")) else OTHERS for name in names],
        error_kw={"elinewidth": 0.8},
    )
    panel.bar_label(panel.containers[-1], [f" {number(cell.median)}" for cell in shown], fontsize=7)
    more = "more is better" if row.metric.better == "more" else "less is better"
    title = f"{row.workload}: {row.metric.name}, {row.metric.unit} ({more})"
    panel.set_title(f"{title}\n{_short(WORKLOADS[row.workload].title)}", fontsize=8, loc="left")
    panel.tick_params(labelsize=7)
    panel.margins(x=0.18)
    panel.spines[["top", "right"]].set_visible(False)


def _short(title: str) -> str:
    return title if len(title) <= 62 else f"{title[:60].rsplit(' ', 1)[0]} …"
