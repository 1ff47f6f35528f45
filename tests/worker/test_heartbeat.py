"""A task that hogs a processor, or the interpreter's lock, costs no sign of life."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from leveret import define
from leveret_broker import topology
from leveret_broker.lifecycle import Connected
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_worker.heartbeat import Heart
from leveret_worker.service import WorkerService
from tests.worker.apps import jobs
from tests.worker.by_hand import CoordinatorByHand
from tests.worker.pooling import is_alive, text_in
from tests.worker.sites import invocation

SPEED = 20
SILENT_AFTER = 20.0
"""Seconds without a heartbeat after which a coordinator gives a worker up."""


class FastClock:
    """The system's time, twenty times as fast."""

    def now(self) -> float:
        return time.time() * SPEED

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / SPEED)


class Site:
    """A worker whose seconds are short, and a coordinator by hand."""

    def __init__(self) -> None:
        self.clock = FastClock()
        broker = MemoryBroker()
        self.coordinator = CoordinatorByHand(broker)
        transport = MemoryTransport(broker)
        definitions = [define.task(jobs.hold_the_lock), define.task(jobs.burn)]
        service = WorkerService(
            transport, definitions, project="p", keys=None, clock=self.clock, stop_grace=0.1
        )
        self.worker = Connected(transport, service)

    async def longest_silence(self, seconds: float) -> float:
        """The longest time between two heartbeats, while so many seconds pass."""
        until = last = self.clock.now()
        until += seconds
        longest, count = 0.0, len(self.coordinator.heartbeats)
        while last < until:
            await self.coordinator.until(lambda: len(self.coordinator.heartbeats) > count)  # noqa: B023
            count = len(self.coordinator.heartbeats)
            longest, last = max(longest, self.clock.now() - last), self.clock.now()
        return longest


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    made = Site()
    await made.coordinator.start()
    await made.worker.start()
    yield made
    await made.worker.stop()
    await made.coordinator.stop()


@pytest.mark.parametrize("name", ["hold_the_lock", "burn"])
async def test_a_task_that_never_lets_go_costs_no_heartbeat(
    site: Site, tmp_path: Path, name: str
) -> None:
    started = tmp_path / "started"
    run = invocation("run_1", [str(started)], timeout=150)
    await site.coordinator.submit(f"p:{name}:0", run)
    pid = int(await asyncio.to_thread(text_in, started))
    assert topology.HEARTBEAT_EVERY / 2 < await site.longest_silence(70) < SILENT_AFTER
    assert is_alive(pid)
    assert site.coordinator.ends == {}
    assert [told.leased for told in site.coordinator.started] == [False, True]
    await site.coordinator.until(lambda: site.coordinator.ends)
    assert site.coordinator.ends == {"run_1": "timed-out"}
    assert not is_alive(pid)


async def test_a_heartbeat_that_fails_is_not_the_last() -> None:
    beats = 0
    third = asyncio.Event()

    async def beat() -> None:
        nonlocal beats
        beats += 1
        if beats == 3:
            third.set()
        raise RuntimeError("of no kind that was expected")

    heart = Heart(beat, FastClock(), every=0.1)
    await heart.start()
    async with asyncio.timeout(5):
        await third.wait()
    await heart.stop()
