"""What is measured: each workload is a function over a peer, and returns figures by name."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from benchmarks import jobs, measuring, starting
from benchmarks.measuring import Clock, percentile
from benchmarks.peer import Job, Peer, Shape, Unsupported

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
    starts: int = 5
    """Programs that are started one after the other."""
    long: float = 10.0
    """Seconds that a long task takes."""
    beside: int = 2000
    """Short tasks beside it."""
    growth: int = 1_000_000
    """Runs on record."""


FULL = Scale()
QUICK = Scale(
    tasks=2000,
    calls=100,
    naps=1000,
    workflows=50,
    arrays=10,
    bursts=32,
    starts=3,
    long=3.0,
    beside=400,
    growth=20_000,
)


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


async def fan_out(peer: Peer, job: Job, arguments: Sequence[Any]) -> Sequence[Any]:
    """Submit them all, and wait for all."""
    return await peer.collect(await peer.submit(job, arguments))


async def _rate(peer: Peer, job: Job, number: int) -> float:
    """Tasks a second; some run before, so that all connections are there."""
    _check(await fan_out(peer, job, range(20)), range(20))
    with Clock() as clock:
        results = await fan_out(peer, job, range(number))
    _check(results, range(number))
    return number / clock.seconds


async def w1(peer: Peer, scale: Scale) -> Figures:
    return {"rate": await _rate(peer, "noop", scale.tasks)}


async def w1_sync(peer: Peer, scale: Scale) -> Figures:
    return {"rate": await _rate(peer, "noop_sync", scale.tasks)}


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
    return {"rate": await _rate(peer, "nap", scale.naps)}


STEPS = 10
MILLION = 1_000_000
DEFINITIONS = 500


async def w4(peer: Peer, scale: Scale) -> Figures:
    figures: Figures = {}
    for at_once, number in ((1, max(10, scale.workflows // 4)), (50, scale.workflows)):
        _check(await peer.workflows(2, STEPS, 2), [STEPS, STEPS + 1])
        with Clock() as clock:
            ends = await peer.workflows(number, STEPS, at_once)
        _check(ends, range(STEPS, STEPS + number))
        figures[f"at {at_once}"] = number * STEPS / clock.seconds
    return figures


async def w5(peer: Peer, scale: Scale) -> Figures:
    """Both ways count."""
    numpy = import_module("numpy")
    random = numpy.random.default_rng(0)
    arrays = [random.random(MILLION) for _ in range(scale.arrays)]
    await fan_out(peer, "shift", [arrays[0][:10], arrays[0][:10]])
    with Clock() as clock:
        results = await fan_out(peer, "shift", arrays)
    if not all(numpy.array_equal(new, old + 1) for new, old in zip(results, arrays, strict=True)):
        raise AssertionError("wrong arrays")
    return {"rate": 2 * 8 * len(arrays) / clock.seconds}


async def w6(peer: Peer, scale: Scale) -> Figures:
    return {"speed-up": await _speed_up(peer, scale.bursts)}


async def _speed_up(peer: Peer, number: int) -> float:
    """How many times as fast as one after the other with nothing in between."""
    _check(await fan_out(peer, "burn", [1, 2]), [1, 2])
    with Clock() as clock:
        results = await fan_out(peer, "burn", range(number))
    _check(results, range(number))
    return number * jobs.BURST / clock.seconds


async def w7(peer: Peer, scale: Scale) -> Figures:
    services = peer.services()
    workers = services.get("worker", [os.getpid()])
    figures = {
        "process": measuring.resident(workers) / len(measuring.tree(workers)),
        "workers": measuring.resident(workers),
        "import": starting.imports(peer.imported, scale.starts),
    }
    if "coordinator" in services:
        figures["coordinator"] = measuring.resident(services["coordinator"])
    if peer.first is not None:
        figures["first"] = starting.first_result(peer.first, peer.environment(), scale.starts)
    return figures


async def w8(peer: Peer, scale: Scale) -> Figures:
    await _rate(peer, "noop_sync", 20)
    alone = scale.beside / await _rate(peer, "noop_sync", scale.beside)
    long = await peer.submit("block", [scale.long])
    await asyncio.sleep(scale.long / 10)  # it is being executed by now
    beside = scale.beside / await _rate(peer, "noop_sync", scale.beside)
    _check(await peer.collect(long), [scale.long])
    return {"alone": alone, "beside": beside, "waited": max(0.0, beside - 2 * alone)}


async def w9(peer: Peer, scale: Scale) -> Figures:
    """A run's cost is that of a fan-out, so it is what a run takes of everybody together."""
    figures: Figures = {}
    for name, runs, definitions in (("small", 1000, 1), ("grown", scale.growth, DEFINITIONS)):
        await peer.start_anew(runs, definitions)
        figures[f"{name}: run"] = 1e6 / await _rate(peer, "noop", scale.tasks)
        figures |= {f"{name}: {what}": value for what, value in (await peer.look()).items()}
        coordinator = peer.services().get("coordinator", [os.getpid()])
        figures[f"{name}: coordinator"] = measuring.resident(coordinator)
    return {**figures, "as dear": figures["grown: run"] / figures["small: run"]}


async def w10(peer: Peer, scale: Scale) -> Figures:
    if peer.shape.workers > (os.cpu_count() or 1):
        raise Unsupported(f"{peer.shape.workers} workers need as many cores")
    rate = await _rate(peer, "noop", scale.tasks)
    return {"rate": rate, "speed-up": await _speed_up(peer, scale.bursts)}


RATE = Metric(name="rate", unit="tasks/s", better="more")
SPEED_UP = Metric(name="speed-up", unit="times", better="more")


def less(name: str, unit: str) -> Metric:
    """A figure that should be small."""
    return Metric(name=name, unit=unit, better="less")


_ALL = (
    Workload(
        key="W7",
        title="Start and idle memory",
        metrics=[
            less("import", "ms"),
            less("first", "ms"),
            less("process", "MB"),
            less("workers", "MB"),
            less("coordinator", "MB"),
        ],
        run=w7,
    ),
    Workload(
        key="W1", title="Fan-out of no-op tasks, of each one's best kind", metrics=[RATE], run=w1
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
        metrics=[less(f"p{share}", "ms") for share in (50, 95, 99)],
        run=w2,
    ),
    Workload(
        key="W3",
        title=f"Tasks that wait {jobs.NAP * 1000:g} ms, 100 at a time",
        metrics=[RATE],
        run=w3,
        shape=Shape(slots=100),
    ),
    Workload(
        key="W4",
        title=f"Workflows of {STEPS} steps, one at a time and 50 at a time",
        metrics=[Metric(name=f"at {n}", unit="steps/s", better="more") for n in (1, 50)],
        run=w4,
    ),
    Workload(
        key="W5",
        title="Arrays of 8 MB there, and others back",
        metrics=[Metric(name="rate", unit="MB/s", better="more")],
        run=w5,
        shape=Shape(arrays=True),
    ),
    Workload(
        key="W6",
        title=f"Tasks of {jobs.BURST * 1000:g} ms of processor time, on two workers",
        metrics=[SPEED_UP],
        run=w6,
    ),
    Workload(
        key="W8",
        title="Short tasks alone, then beside a long one, on two workers with a slot each (waited: "
        "beyond twice the time, which one worker takes)",
        metrics=[less(name, "s") for name in ("alone", "beside", "waited")],
        run=w8,
        shape=Shape(slots=2),
    ),
    *(
        Workload(
            key=f"W10.{workers}",
            title=f"No-op and processor-bound tasks on {workers} worker{'s'[: workers - 1]}",
            metrics=[RATE, SPEED_UP],
            run=w10,
            shape=Shape(workers=workers),
        )
        for workers in (1, 2, 4)
    ),
    Workload(
        key="W9",
        title=f"Growth: 1,000 runs of one definition on record, and many of {DEFINITIONS}",
        metrics=[
            less("as dear", "times"),
            *(
                less(f"{size}: {what}", unit)
                for what, unit in (
                    ("run", "µs"),
                    ("list", "ms"),
                    ("show", "ms"),
                    ("disk", "MB"),
                    ("coordinator", "MB"),
                )
                for size in ("small", "grown")
            ),
        ],
        run=w9,
    ),
)
WORKLOADS: Mapping[str, Workload] = {workload.key: workload for workload in _ALL}
"""In the order in which they are measured: idle memory before, and growth after all others."""
