"""A few tasks through real drivers, each in its own process."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.peer import ROOT
from benchmarks.running import Run
from benchmarks.workloads import Scale

TINY = Scale(tasks=10, calls=3, naps=3, workflows=3, arrays=2, bursts=2)


def measured(*peers: str, workloads: tuple[str, ...], scale: Scale = TINY) -> Run:
    run = Run(
        peers=peers,
        workloads=workloads,
        rounds=1,
        scale=scale,
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


def test_a_workload_that_fails_leaves_the_others_alone() -> None:
    run = measured("pool", workloads=("W2", "W4"), scale=replace(TINY, calls=0))
    failed, fine = run.samples
    assert failed.verdict == "failed"
    assert "IndexError" in failed.error
    assert fine.verdict == "measured"


def test_what_a_peer_can_not_do_is_no_failure() -> None:
    (sample,) = measured("pool", workloads=("W3",)).samples
    assert sample.verdict == "unsupported"
    assert "100 processes" in sample.error


def test_peers_take_turns_at_being_first() -> None:
    run = Run(
        peers=("pool", "embedded"),
        workloads=("W2",),
        rounds=2,
        scale=TINY,
        within=60,
        report=lambda _line: None,
    )
    run.measure()
    assert [sample.peer for sample in run.samples] == ["pool", "embedded", "embedded", "pool"]


def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    options = ["--quick", "--only", "pool", "--workload", "W2", "--json", str(path)]
    command = [sys.executable, "-m", "benchmarks", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "W2: One call after the other" in done.stdout
    document = json.loads(path.read_text())
    (row,) = [row for row in document["rows"] if row["metric"]["name"] == "p50"]
    assert row["cells"][0]["median"] > 0
