"""leveret beside its peers, in one run: `python -m benchmarks --help`."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import plot, report, results, workloads
from benchmarks.registry import PEERS
from benchmarks.running import Run
from benchmarks.workloads import WORKLOADS
from tests import rabbit

QUICK_PEERS = ("leveret", "embedded", "celery", "dramatiq", "pool")
QUICK_WORKLOADS = ("W1", "W2", "W4", "W7")


def _names(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Sequence[str]:
    chosen = [] if text is None else text.split(",")
    if unknown := [name for name in chosen if name not in PEERS]:
        raise click.BadParameter(
            f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}"
        )
    return chosen


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", callback=_names, metavar="PEER,…", help="These peers, not all.")
@click.option(
    "--workload",
    "chosen",
    multiple=True,
    type=click.Choice(list(WORKLOADS)),
    help="This workload, not all; may be given several times.",
)
@click.option("--rounds", type=click.IntRange(1), help="3, or 2 with --quick.")
@click.option("--quick", is_flag=True, help="Fewer peers, workloads, rounds and tasks.")
@click.option(
    "--growth",
    type=click.IntRange(1000),
    help="Runs on record in W9: 1,000,000, or 20,000 with --quick.",
)
@click.option(
    "--json",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("benchmarks/results/latest.json"),
    show_default=True,
    help="Where the figures go.",
)
@click.option("--baseline", default="leveret", show_default=True, help="What ratios refer to.")
def main(
    only: Sequence[str],
    chosen: Sequence[str],
    rounds: int | None,
    quick: bool,
    growth: int | None,
    path: Path,
    baseline: str,
) -> None:
    """Measure leveret and its peers in one run, interleaved, and compare them.

    Exits with 1 if a peer failed, or one that was asked for by name is not installed.
    """
    wanted = QUICK_WORKLOADS if quick else WORKLOADS
    scale = workloads.QUICK if quick else workloads.FULL
    run = Run(
        peers=only or (QUICK_PEERS if quick else list(PEERS)),
        workloads=[key for key in WORKLOADS if key in (chosen or wanted)],
        rounds=rounds or (2 if quick else 3),
        scale=scale if growth is None else replace(scale, growth=growth),
        within=60.0 if quick else 180.0,
        report=_reporter(),
    )
    when = datetime.now(UTC)
    try:
        with rabbit.interrupted_by_sigterm():
            run.measure()
    finally:
        _conclude(run, path, baseline if baseline in run.peers else run.peers[0], when)
    bad = {"failed", "unavailable"} if only else {"failed"}
    sys.exit(any(sample.verdict in bad for sample in run.samples))


def _reporter() -> Any:
    """Prints a line with the time that has passed."""
    began = time.monotonic()

    def tell(line: str) -> None:
        click.echo(f"{time.monotonic() - began:7.1f} s  {line}", err=True)

    return tell


def _conclude(run: Run, path: Path, baseline: str, when: datetime) -> None:
    """What there is, even if the run was interrupted."""
    described = {"when": when.isoformat(timespec="seconds"), "rounds": run.rounds, **_machine()}
    document = results.document(run.samples, baseline=baseline, about=run.about, run=described)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    rows = results.rows(run.samples, baseline)
    console = Console(width=None if sys.stdout.isatty() else 120)
    report.show(rows, run.about, baseline, console)
    click.echo(f"written to {path}{_drawn(rows, path, document['run'])}", err=True)


def _drawn(rows: Sequence[results.Row], path: Path, described: Mapping[str, Any]) -> str:
    """Draws the picture beside the figures, if it can."""
    picture = path.with_suffix(".png")
    try:
        plot.draw(rows, picture, f"{described['when']}, {described['cores']} cores")
    except ImportError as error:
        return f"; no picture: {error} (pip install --group bench)"
    return f" and {picture}"


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "system": platform.platform(), "python": sys.version}


if __name__ == "__main__":
    main()
