"""How long programs take to start: each is a process of its own, started several times."""

import os
import subprocess
import sys
from collections.abc import Mapping
from statistics import median

from benchmarks.measuring import Clock
from benchmarks.peer import ROOT


def imports(statement: str, times: int) -> float:
    """Milliseconds that an import takes, beyond Python's own start."""
    bare = median(_milliseconds("", {})[0] for _ in range(times))
    return median(_milliseconds(statement, {})[0] for _ in range(times)) - bare


def first_result(program: str, environment: Mapping[str, str], times: int) -> float:
    """Milliseconds from the start of a program until it prints its result."""
    took: list[float] = []
    for _ in range(times):
        milliseconds, printed = _milliseconds(program, environment)
        if printed.strip() != "1":
            raise AssertionError(f"printed {printed!r}, not a result")
        took.append(milliseconds)
    return median(took)


def _milliseconds(program: str, environment: Mapping[str, str]) -> tuple[float, str]:
    """Until it prints a line, or else ends; and the line."""
    with Clock() as clock:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        printed = process.stdout.readline()
    process.communicate()
    if process.returncode:
        raise RuntimeError(f"a program ended with {process.returncode}: {program.strip()}")
    return clock.seconds * 1000, printed
