"""What is measured: each workload is a function over a peer, and returns figures by name."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.measuring import Clock, percentile
from benchmarks.peer import Job, Peer, Shape

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is done of each."""

    tasks: int = 5000
    calls: int = 300
    naps: int = 2000
    workflows: int = 200
    arrays: int = 50
    bursts: int = 64


FULL = Scale()
QUICK = Scale(tasks=2000, calls=100, naps=1000, workflows=50, arrays=10, bursts=32)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of a workload."""

    name: str
    unit: str
    better: Literal["more", "less"]


USUAL = Shape()


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One kind of work."""

    key: str
    title: str
    metrics: Sequence[Metric]
    run: Callable[[Peer, Scale], Awaitable[Figures]]
    shape: Shape = USUAL
    """How the peer has to be set up for it."""


def _check(got: Sequence[Any], wanted: Sequence[Any]) -> None:
    if list(got) != list(wanted):
        raise AssertionError(f"wrong results: {str(got)[:200]}")


async def _fan_out(peer: Peer, job: Job, number: int) -> float:
    """Tasks a second; some run before, so that all connections are there."""
    _check(await peer.fan_out(job, range(20)), range(20))
    with Clock() as clock:
        results = await peer.fan_out(job, range(number))
    _check(results, range(number))
    return number / clock.seconds


async def w1(peer: Peer, scale: Scale) -> Figures:
    return {"rate": await _fan_out(peer, "noop", scale.tasks)}


async def w1_sync(peer: Peer, scale: Scale) -> Figures:
    return {"rate": await _fan_out(peer, "noop_sync", scale.tasks)}


async def w2(peer: Peer, scale: Scale) -> Figures:
    took: list[float] = []
    for number in range(-20, scale.calls):
        with Clock() as clock:
            result = await peer.call("noop", number)
        _check([result], [number])
        if number >= 0:
            took.append(clock.seconds * 1000)
    return {f"p{share}": percentile(took, share / 100) for share in (50, 95, 99)}


async def w3(peer: Peer, scale: Scale) -> Figures:
    return {"rate": await _fan_out(peer, "nap", scale.naps)}


STEPS = 10


async def w4(peer: Peer, scale: Scale) -> Figures:
    figures: Figures = {}
    for at_once, number in ((1, max(10, scale.workflows // 4)), (50, scale.workflows)):
        _check(await peer.workflows(2, STEPS, 2), [STEPS, STEPS + 1])
        with Clock() as clock:
            ends = await peer.workflows(number, STEPS, at_once)
        _check(ends, range(STEPS, STEPS + number))
        figures[f"at {at_once}"] = number * STEPS / clock.seconds
    return figures


RATE = Metric(name="rate", unit="tasks/s", better="more")

WORKLOADS: Mapping[str, Workload] = {
    workload.key: workload
    for workload in (
        Workload(
            key="W1",
            title="Fan-out of no-op tasks, the peer's natural kind",
            metrics=[RATE],
            run=w1,
        ),
        Workload(
            key="W1s",
            title="Fan-out of no-op tasks, ordinary functions in processes",
            metrics=[RATE],
            run=w1_sync,
        ),
        Workload(
            key="W2",
            title="One call after the other",
            metrics=[Metric(name=f"p{n}", unit="ms", better="less") for n in (50, 95, 99)],
            run=w2,
        ),
        Workload(
            key="W4",
            title=f"Workflows of {STEPS} steps, one at a time and 50 at a time",
            metrics=[Metric(name=f"at {n}", unit="steps/s", better="more") for n in (1, 50)],
            run=w4,
        ),
    )
}
