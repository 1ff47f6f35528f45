"""What is measured of times and processes. Linux's /proc is read where others have nothing."""

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


class Clock:
    """Measures a block: `seconds` afterwards."""

    seconds = 0.0

    def __enter__(self) -> "Clock":
        self._began = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._began


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return median(values), min(values), max(values)


def tree(pids: Iterable[int]) -> set[int]:
    """These processes and all below them."""
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        for children in PROC.glob(f"{pid}/task/*/children"):
            try:
                waiting += [int(child) for child in children.read_text().split()]
            except OSError:  # a thread that ended
                continue
    return found


def resident(pids: Iterable[int]) -> float:
    """Megabytes of memory: the proportional set size of these processes and all below them."""
    total = 0
    for pid in tree(pids):
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(size) for size in re.findall(r"^Pss:\s+(\d+) kB$", text, re.M))
    return total / 1024


def used(pids: Iterable[int]) -> float:
    """Seconds of processor time that these processes, and all below them, have used so far."""
    total = 0
    for pid in tree(pids):
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def used_by_role(roles: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """The same for each role."""
    return {role: used(pids) for role, pids in roles.items()}
