"""The program that is simulated: one workflow that does what a text says, and the tasks it calls.

A text is a tree: `[...]` calls its parts at the same time, `(...)` one after the other. The parts:

    t  a task that succeeds          l  one that takes so long that it becomes a lease
    r  fails twice, then succeeds    x  fails whenever it is tried
    o  hangs when first tried        c  is cancelled by its caller while it executes
    z  sleeps                        p  records a step
    i  gets results of other calls   j  gets that of one that fails
    d  gets results that others get, and that are awaited themselves
    s  is cancelled by its caller while it waits for a result
"""

import asyncio
import random
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Protocol

import leveret
from leveret import define, result_of
from leveret.context import current_run

LEASE_AFTER = 8.0
"""Seconds after which a run becomes a lease."""


class Ledger(Protocol):
    """What the code does beyond its results."""

    def began(self, run: str, attempt: int, path: str) -> None: ...
    def stepped(self, path: str) -> None: ...


class Nobody:
    """Takes no notes."""

    def began(self, run: str, attempt: int, path: str) -> None: ...
    def stepped(self, path: str) -> None: ...


class Failed(Exception):
    """What tasks raise."""


_ledger: Ledger = Nobody()
_tries: Counter[str] = Counter()
"""How often each task that misbehaves has done so."""


@contextmanager
def noting(ledger: Ledger) -> Generator[None]:
    """Take notes of what is executed, in a program that begins anew."""
    global _ledger
    _tries.clear()
    _ledger = ledger
    try:
        yield
    finally:
        _ledger = Nobody()


@define.task(name="simulated-work", lost_retries=1000)
async def work(path: str, kind: str) -> str:
    _begin(path)
    await asyncio.sleep({"l": LEASE_AFTER + 4, "c": 20.0}.get(kind, _moment(path)))
    return path


@define.task(name="simulated-failure", lost_retries=1000, retries=2, backoff=1.0, timeout=6.0)
async def unreliable(path: str, kind: str) -> str:
    _begin(path)
    await asyncio.sleep(_moment(path))
    _tries[path] += 1
    if kind == "x" or (kind == "r" and _tries[path] <= 2):
        raise Failed(path)
    if kind == "o" and _tries[path] == 1:
        await asyncio.sleep(1000)
    return path


@define.task(name="simulated-join", lost_retries=1000)
async def join(path: str, parts: list[str]) -> str:
    _begin(path)
    return f"<{'+'.join(parts)}>"


@define.workflow(name="simulated-flow", lost_retries=1000)
async def flow(path: str, tree: str) -> str:
    _begin(path)
    parts = [(f"{path}{number}", part) for number, part in enumerate(split(tree))]
    if tree[0] == "[":
        results = await leveret.gather([_do(where, part) for where, part in parts])
    else:
        results = [await _do(where, part) for where, part in parts]
    return ",".join(results)


async def _do(path: str, part: str) -> str:
    match part[0]:
        case "[" | "(":
            return f"({await flow(path, part)})"
        case "t" | "l":
            return await work(path, part)
        case "x" | "r" | "o":
            try:
                return await unreliable(path, part)
            except Failed:
                return "!"
        case "c":
            with suppress(TimeoutError, leveret.RunCancelled):
                async with asyncio.timeout(2.0):
                    await work(path, part)
            return "?"
        case "z":
            await leveret.sleep(3.0)
            return "z"
        case "p":
            return await leveret.step(_step, path)
        case "i" | "j" | "d" | "s":
            return await _join(path, part)
        case other:
            raise ValueError(other)


async def _join(path: str, part: str) -> str:
    """Calls as arguments of calls."""
    one = work(f"{path}a", "t")
    match part:
        case "i":
            inner = join(f"{path}b", [result_of(work(f"{path}c", "t"))])
            return await join(path, [result_of(one), result_of(inner)])
        case "d":
            both = [join(f"{path}{name}", [result_of(one)]) for name in "bc"]
            outer = join(path, [result_of(each) for each in both])
            return "".join(await leveret.gather([outer, one, both[0]]))
        case "j":
            failing = unreliable(f"{path}b", "x")
            try:
                return await join(path, [result_of(one), result_of(failing)])
            except leveret.InputFailed as error:
                return "!" if isinstance(error.__cause__, Failed) else repr(error.__cause__)
        case _:
            with suppress(TimeoutError, leveret.RunCancelled, leveret.InputFailed):
                async with asyncio.timeout(2.0):
                    await join(path, [result_of(one), result_of(work(f"{path}b", "c"))])
            return "?"


def _step(path: str) -> str:
    _ledger.stepped(path)
    return f"p{path}"


def _begin(path: str) -> None:
    run = current_run()
    assert run is not None
    _ledger.began(run.run, run.attempt, path)


def _moment(path: str) -> float:
    """Seconds that a task takes, the same for the same one."""
    return random.Random(path).random() * 1.5


def split(tree: str) -> list[str]:
    """The parts of a tree."""
    parts: list[str] = []
    depth = 0
    for letter in tree[1:-1]:
        depth -= letter in ")]"
        if depth == 0 and letter not in ")]":
            parts.append("")
        parts[-1] += letter
        depth += letter in "(["
    return parts


def expected(path: str, tree: str) -> str:
    """What the workflow returns."""

    def result(where: str, part: str) -> str:
        match part[0]:
            case "[" | "(":
                return f"({expected(where, part)})"
            case "x" | "j":
                return "!"
            case "c" | "s":
                return "?"
            case "i":
                return f"<{where}a+<{where}c>>"
            case "d":
                return f"<<{where}a>+<{where}a>>{where}a<{where}a>"
            case "z":
                return "z"
            case "p":
                return f"p{where}"
            case _:
                return where

    return ",".join(result(f"{path}{number}", part) for number, part in enumerate(split(tree)))
