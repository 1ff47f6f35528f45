"""A few tasks through real drivers, each in its own process."""

from benchmarks.running import Run
from benchmarks.workloads import Scale

TINY = Scale(tasks=10, calls=3, naps=3, workflows=3, arrays=2, bursts=2)


def measured(*peers: str, workloads: tuple[str, ...]) -> Run:
    run = Run(
        peers=peers,
        workloads=workloads,
        rounds=1,
        scale=TINY,
        within=60,
        report=lambda _line: None,
    )
    run.measure()
    return run


def test_the_embedded_runtime_is_measured() -> None:
    run = measured("embedded", workloads=("W1", "W4"))
    assert [sample.error for sample in run.samples] == ["", ""]
    assert run.samples[0].figures["rate"] > 0
    assert run.samples[1].figures.keys() == {"at 1", "at 50"}
    assert "leveret" in run.about["embedded"]["versions"]
