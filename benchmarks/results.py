"""What was measured, and what follows from it: medians, spread and ratios."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from benchmarks.measuring import spread
from benchmarks.workloads import WORKLOADS, Metric

Verdict = Literal["measured", "unsupported", "unavailable", "failed"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one peer did in one workload and round."""

    peer: str
    workload: str
    round: int
    verdict: Verdict
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    error: str = ""
    seconds: float = 0.0
    """All of the workload, preparations included."""
    cpu: Mapping[str, float] = field(default_factory=dict[str, float])
    """Processor seconds meanwhile, by role; the servers' are not in it."""
    load: float = 0.0
    """The machine's load average before: above the number of cores others disturbed."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure over all rounds."""

    peer: str
    verdict: Verdict
    error: str = ""
    median: float = 0.0
    least: float = 0.0
    most: float = 0.0
    rounds: int = 0
    ratio: float | None = None
    """How many times as good the baseline is."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A metric of a workload for all peers."""

    workload: str
    metric: Metric
    cells: Sequence[Cell]


def rows(samples: Sequence[Sample], baseline: str) -> Sequence[Row]:
    """All metrics for which there is something to say, in the order of the workloads."""
    peers = list(dict.fromkeys(sample.peer for sample in samples))
    found: list[Row] = []
    for key, workload in WORKLOADS.items():
        mine = [sample for sample in samples if sample.workload == key]
        for metric in workload.metrics if mine else ():
            cells = [_cell(peer, metric, mine) for peer in peers]
            found.append(Row(workload=key, metric=metric, cells=_compared(cells, metric, baseline)))
    return found


def _cell(peer: str, metric: Metric, samples: Sequence[Sample]) -> Cell:
    mine = [sample for sample in samples if sample.peer == peer]
    values = [sample.figures[metric.name] for sample in mine if metric.name in sample.figures]
    failed = [sample for sample in mine if sample.verdict == "failed"]
    if failed or not values:
        said = failed or mine
        verdict: Verdict = said[0].verdict if said else "unsupported"
        if verdict == "measured":
            verdict = "unsupported"
        return Cell(peer=peer, verdict=verdict, error=said[0].error if said else "")
    median, least, most = spread(values)
    return Cell(
        peer=peer, verdict="measured", median=median, least=least, most=most, rounds=len(values)
    )


def _compared(cells: Sequence[Cell], metric: Metric, baseline: str) -> Sequence[Cell]:
    of = next((each for each in cells if each.peer == baseline and each.median), None)
    return [cell if of is None else _with_ratio(cell, of.median, metric) for cell in cells]


def _with_ratio(cell: Cell, of: float, metric: Metric) -> Cell:
    if not cell.median:
        return cell
    ratio = of / cell.median if metric.better == "more" else cell.median / of
    return replace(cell, ratio=ratio)


def document(
    samples: Sequence[Sample], *, baseline: str, about: Mapping[str, Any], run: Mapping[str, Any]
) -> dict[str, Any]:
    """All of it as one JSON document."""
    return {
        "run": run,
        "baseline": baseline,
        "peers": about,
        "rows": [asdict(row) for row in rows(samples, baseline)],
        "samples": [asdict(sample) for sample in samples],
    }
