"""From samples to medians, ratios and the report, with given figures."""

from collections.abc import Sequence
from io import StringIO

from rich.console import Console

from benchmarks import plot, report, results
from benchmarks.results import Cell, Sample, Verdict


def sample(peer: str, rate: float, number: int = 0) -> Sample:
    return Sample(
        peer=peer, workload="W1", round=number, verdict="measured", figures={"rate": rate}
    )


def unmeasured(peer: str, verdict: Verdict, error: str) -> Sample:
    return Sample(peer=peer, workload="W1", round=0, verdict=verdict, error=error)


def cells(samples: Sequence[Sample]) -> dict[str, Cell]:
    (row,) = results.rows(samples, "leveret")
    return {cell.peer: cell for cell in row.cells}


def printed(samples: Sequence[Sample]) -> str:
    output = StringIO()
    console = Console(width=100, file=output)
    report.show(results.rows(samples, "leveret"), {}, "leveret", console)
    return output.getvalue()


def test_a_figure_is_the_median_of_all_rounds_and_tells_their_spread() -> None:
    cell = cells([sample("leveret", rate, number) for number, rate in enumerate((5, 90, 20))])
    assert (cell["leveret"].median, cell["leveret"].least, cell["leveret"].most) == (20, 5, 90)
    assert cell["leveret"].rounds == 3


def test_a_ratio_above_one_means_that_the_baseline_is_better() -> None:
    ratio = cells([sample("leveret", 100), sample("slow", 50), sample("fast", 400)])
    assert ratio["slow"].ratio == 2
    assert ratio["fast"].ratio == 0.25


def test_of_times_less_is_better() -> None:
    times = [
        Sample(peer=peer, workload="W2", round=0, verdict="measured", figures={"p50": time})
        for peer, time in (("leveret", 2.0), ("slow", 8.0))
    ]
    row = next(row for row in results.rows(times, "leveret") if row.metric.name == "p50")
    assert row.cells[1].ratio == 4


def test_a_peer_that_failed_in_one_round_has_failed() -> None:
    samples = [sample("leveret", 100), sample("shaky", 70), unmeasured("shaky", "failed", "boom")]
    assert cells(samples)["shaky"].verdict == "failed"
    assert "W1, shaky: failed: boom" in printed(samples)


def test_what_a_peer_can_not_do_is_told_in_its_place() -> None:
    samples = [sample("leveret", 100), unmeasured("plain", "unsupported", "it has no workflows")]
    text = printed(samples)
    assert "unsupported" in text
    assert "W1, plain: unsupported: it has no workflows" in text


def test_the_table_has_the_ratio_beside_the_figure() -> None:
    lines = printed([sample("leveret", 12345), sample("slow", 4115)]).splitlines()
    assert ["slow", "4,115", "3.00"] in [line.split() for line in lines]


def test_the_document_keeps_every_sample() -> None:
    samples = [sample("leveret", 1, number) for number in range(3)]
    document = results.document(samples, baseline="leveret", about={}, run={"rounds": 3})
    assert len(document["samples"]) == 3
    assert document["rows"][0]["cells"][0]["median"] == 1


def test_the_best_bar_is_the_top_one() -> None:
    (row,) = results.rows([sample("fast", 3), sample("slow", 1), sample("middling", 2)], "leveret")
    assert [cell.peer for cell in plot.bars(row)] == ["slow", "middling", "fast"]
