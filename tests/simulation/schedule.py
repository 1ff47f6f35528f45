"""What is simulated: a program, the weather, and what goes wrong when. All in one line of text.

    7:[t(rz)x]:storm:kill-coordinator@120+2,stop-worker1@300+40

The seed decides whose turn it is and what becomes of each message; the text is what a failing test
prints, and what `python -m tests.simulation` takes.
"""

import random
import re
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from tests.simulation.network import FAIR, Weather

L = TypeVar("L", bound=str)

Sky = Literal["fair", "rain", "storm", "echo"]
SKIES: tuple[Sky, ...] = get_args(Sky)
WEATHER: dict[Sky, Weather] = {
    "fair": FAIR,
    "rain": Weather(late=0.3, delay=0.3, doubled=0.03),
    "storm": Weather(late=0.5, delay=2.0, doubled=0.15),
    "echo": Weather(late=0.5, delay=1.5, doubled=0.7),
}

FaultKind = Literal[
    "kill-coordinator",
    "kill-worker1",
    "kill-worker2",
    "kill-caller",
    "stop-coordinator",
    "stop-worker1",
    "stop-worker2",
    "freeze-worker1",
    "freeze-worker2",
    "drain-worker1",
    "break-coordinator",
    "break-worker1",
    "break-worker2",
    "break-caller",
    "restart-broker",
    "purge-work",
    "delete-work",
    "delete-replies",
    "delete-control",
    "cancel",
]
"""`stop` is a SIGSTOP during which the connection breaks, `freeze` one during which it holds."""
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

SECONDS = (0, 1, 4, 24)
"""How long faults last: the longest lets everything be finished elsewhere meanwhile."""
LEAVES = "ttttttttrrxxlozzppcijds"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something that goes wrong."""

    kind: FaultKind
    turn: int
    """Before which turn of the world."""
    seconds: int = 0
    """Until it is mended: a killed process started again, a stopped one going on."""

    def __str__(self) -> str:
        return f"{self.kind}@{self.turn}+{self.seconds}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """All that decides how a simulation goes."""

    seed: int
    tree: str
    sky: Sky
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return f"{self.seed}:{self.tree}:{self.sky}:{','.join(map(str, self.faults))}"


def parse(text: str) -> Schedule:
    """A schedule as it was printed, or a seed from which one is drawn."""
    if text.isdecimal():
        return draw(int(text))
    seed, tree, sky, faults = text.split(":")
    return Schedule(
        seed=int(seed),
        tree=tree,
        sky=_one_of(SKIES, sky),
        faults=tuple(_fault(each) for each in faults.split(",") if each),
    )


def _one_of(known: tuple[L, ...], text: str) -> L:
    for each in known:
        if each == text:
            return each
    raise ValueError(f"{text} is none of {known}")


def _fault(text: str) -> Fault:
    found = re.fullmatch(r"([a-z0-9-]+)@(\d+)\+(\d+)", text)
    if found is None:
        raise ValueError(f"no fault: {text}")
    return Fault(kind=_one_of(KINDS, found[1]), turn=int(found[2]), seconds=int(found[3]))


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = random.Random(seed)
    faults = [
        Fault(
            kind=rng.choice(KINDS),
            turn=int(rng.random() ** 2 * 1500),
            seconds=rng.choice(SECONDS),
        )
        for _ in range(rng.randrange(5))
    ]
    return Schedule(
        seed=seed,
        tree=_tree(rng, depth=0),
        sky=rng.choice(SKIES),
        faults=tuple(sorted(faults, key=lambda fault: fault.turn)),
    )


def _tree(rng: random.Random, *, depth: int) -> str:
    opening, closing = rng.choice(("[]", "()"))
    parts = [
        _tree(rng, depth=depth + 1) if depth < 2 and rng.random() < 0.15 else rng.choice(LEAVES)
        for _ in range(rng.randint(1, 3))
    ]
    return f"{opening}{''.join(parts)}{closing}"
