"""What is asked for, made from a seed, and what must come out, worked out without leveret."""

import random
from collections.abc import Iterable
from typing import Literal, TypedDict

PRIME = 1_000_003
HOPELESS = 13
"""What a workflow makes of a call that fails for good."""

Leaf = Literal["compute", "wait", "block", "hopeless", "sleep", "step"]
Node = Literal["branch", "chain"]
LEAVES: tuple[Leaf, ...] = ("compute", "wait", "block", "hopeless", "sleep", "step")
WEIGHTS = (8, 8, 6, 1, 1, 2)
SALTS: dict[str, int] = {"compute": 17, "wait": 29, "block": 43, "step": 61}
DURATIONS = (0.0, 0.01, 0.05, 0.2, 0.6, 2.5)
"""Seconds; the longest outlasts the lease."""
DURATION_WEIGHTS = (30, 25, 20, 15, 8, 2)


class Call(TypedDict):
    """One call in a workflow, or several equal ones at once."""

    do: Leaf | Node
    number: int
    take: float
    """Seconds."""
    fails: int
    """How often it raises before it succeeds."""
    same: int
    """How many equal calls are made at once."""
    calls: list["Call"]
    """Of a branch: all at once. Of a chain: one after the other, each with the result before."""


def root(seed: int, index: int) -> list[Call]:
    """The calls of a root run."""
    chance = random.Random(f"{seed}/root/{index}")
    return [_call(chance, 2) for _ in range(chance.randint(2, 5))]


def _call(chance: random.Random, depth: int) -> Call:
    if depth and chance.random() < 0.45:
        return _node(chance, depth)
    (do,) = chance.choices(LEAVES, WEIGHTS)
    (take,) = chance.choices(DURATIONS, DURATION_WEIGHTS)
    flaky = do in ("compute", "wait", "block") and chance.random() < 0.15
    return Call(
        do=do,
        number=chance.randrange(40),  # few, so that equal calls come up by themselves too
        take=take,
        fails=chance.randint(1, 2) if flaky else 0,
        same=chance.choice((1, 1, 1, 1, 3, 6)),
        calls=[],
    )


def _node(chance: random.Random, depth: int) -> Call:
    return Call(
        do=chance.choice(("branch", "branch", "chain")),
        number=0,
        take=0.0,
        fails=int(chance.random() < 0.15),
        same=chance.choice((1, 1, 1, 2)),
        calls=[_call(chance, depth - 1) for _ in range(chance.randint(2, 5))],
    )


# -- what must come out ---------------------------------------------------------------------------


def expected(calls: list[Call]) -> int:
    """The result of a workflow that makes these calls at once."""
    return fold(_values(call, 0) for call in calls)


def size(calls: list[Call]) -> int:
    """How many runs are below a workflow that makes these calls."""
    return sum(call["same"] * (1 + size(call["calls"])) for call in calls)


def hopeless(calls: list[Call]) -> int:
    """How many of the runs below fail for good."""
    return sum(
        call["same"] * (int(call["do"] == "hopeless") + hopeless(call["calls"])) for call in calls
    )


def answer(do: str, number: int) -> int:
    """The result of a task, other for each kind and number."""
    return (number * number * SALTS[do] + number + SALTS[do]) % PRIME


def fold(values: Iterable[int]) -> int:
    """One number of many, other if any of them or their order is."""
    folded = 7
    for value in values:
        folded = (folded * 131 + value) % PRIME
    return folded


def _values(call: Call, carried: int) -> int:
    return fold([_value(call, carried)] * call["same"])


def _value(call: Call, carried: int) -> int:
    match call["do"]:
        case "branch":
            return expected(call["calls"])
        case "chain":
            last = 0
            for step in call["calls"]:
                last = _values(step, last)
            return last
        case "hopeless":
            return HOPELESS
        case "sleep":
            return 0
        case do:
            return answer(do, call["number"] + carried)
