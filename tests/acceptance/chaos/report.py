"""What a failing round tells: enough to find the mistake with nothing but a CI's log."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.acceptance.chaos.evidence import Evidence
from tests.acceptance.chaos.verdict import Violation

MOST_VIOLATIONS = 40
MOST_RUNS = 8
MOST_MENTIONS = 30
TAIL = 25
"""Lines of each process's latest log."""
IDS = re.compile(r"(run|session|worker)_\w+")
NUMBERS = re.compile(r"\d+")
BORING = ("seq", "project", "definition", "identity", "asked_for", "digest", "options")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A fault that was done."""

    at: float
    """Seconds after the start."""
    name: str
    details: str


def summary(evidence: Evidence, done: Sequence[Done]) -> str:
    kinds = ", ".join(f"{count} × {name}" for name, count in Counter(d.name for d in done).items())
    ended = len({entry.index for entry in evidence.journal if entry.has_ended})
    starts = sum(line.event == "start" for line in evidence.lines)
    attempts = sum(row.attempt for row in evidence.rows.values() if row.kind != "step")
    return (
        f"{len(done)} faults ({kinds}); {ended} root runs ended, {len(evidence.rows)} runs in all, "
        f"{attempts} attempts, {starts} executions"
    )


def told(
    violations: Sequence[Violation],
    evidence: Evidence,
    done: Sequence[Done],
    began: float,
    logs: Mapping[str, Sequence[Path]],
) -> str:
    """The whole report."""
    kinds = Counter(_kind(found.what) for found in violations)
    runs = _telling(violations)
    parts = [
        f"seed {evidence.seed}: {len(violations)} violations",
        *[f"  {count} × {kind}" for kind, count in kinds.most_common()],
        "\nviolations:",
        *[f"  {found.run or '-'}: {found.what}" for found in violations[:MOST_VIOLATIONS]],
        f"\nfaults (the start was at {_clock(began)}):",
        *_faults(done),
    ]
    parts += ["\nleft in queues:", *evidence.examples] if evidence.examples else []
    for run in runs:
        parts += [f"\nrun {run}:", *_story(run, evidence, began), *_mentions(run, logs)]
    return "\n".join([*parts, *_tails(logs)])


def interrupted(
    error: Exception, seed: int, done: Sequence[Done], logs: Mapping[str, Sequence[Path]]
) -> str:
    """The report of a round that did not get to its end."""
    head = f"seed {seed}: the round was interrupted by {error!r}"
    return "\n".join([head, "\nfaults:", *_faults(done), *_tails(logs)])


def keep(done: Sequence[Done], folder: Path) -> None:
    """For who looks at a round that went well, too."""
    (folder / "faults.txt").write_text("\n".join(_faults(done)) + "\n")


def _faults(done: Sequence[Done]) -> list[str]:
    return [f"  {fault.at:7.2f}  {fault.name}  {fault.details}" for fault in done]


def _kind(what: str) -> str:
    """The same for violations of the same kind."""
    return NUMBERS.sub("#", IDS.sub("…", what))[:70]


def _telling(violations: Sequence[Violation]) -> list[str]:
    """Runs to tell the stories of: one of each kind of violation, then more."""
    firsts = {_kind(found.what): found.run for found in reversed(violations) if found.run}
    runs = [*firsts.values(), *[found.run for found in violations if found.run]]
    return list(dict.fromkeys(runs))[:MOST_RUNS]


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _story(run: str, evidence: Evidence, began: float) -> Iterator[str]:
    """What the catalog and the ledger have of it, and of its callers."""
    row = evidence.rows.get(run)
    yield from _row(run, evidence, began)
    for line in evidence.lines:
        if line.run == run:
            yield (
                f"  ledger: {line.at - began:7.3f} {line.event} {line.name}"
                f" attempt {line.attempt}, process {line.pid}"
            )
    while row is not None and row.parent:
        yield f"  called by {row.parent}:"
        yield from _row(row.parent, evidence, began)
        row = evidence.rows.get(row.parent)


def _row(run: str, evidence: Evidence, began: float) -> Iterator[str]:
    row = evidence.rows.get(run)
    if row is None:
        yield "  not in the catalog"
        return
    kept = {name: value for name, value in row.everything.items() if name not in BORING}
    yield f"  {row.name}: {_values(kept, began)}"
    for attempt in row.attempts:
        yield f"    attempt: {_values(attempt, began)}"


def _values(row: Mapping[str, object], began: float) -> str:
    """Times are told in seconds after the start."""
    told = {
        name: f"{value - began:.3f}" if isinstance(value, float) and value > began / 2 else value
        for name, value in row.items()
        if value is not None
    }
    return ", ".join(f"{name} {value}" for name, value in told.items())


def _mentions(run: str, logs: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    found = [
        f"  {path.name}: {line}"
        for paths in logs.values()
        for path in paths
        for line in _lines(path)
        if run in line
    ]
    yield from found[:MOST_MENTIONS]


def _tails(logs: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    for name, paths in logs.items():
        yield f"\nthe last lines of {name} ({len(paths)} lives):"
        yield from (f"  {line}" for line in _lines(paths[-1])[-TAIL:]) if paths else ()


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()
