"""Whatever lives long can be started and stopped, in any order and at any moment."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from leveret import define
from leveret.session import Session
from leveret_broker.lifecycle import Connected, Service
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_coordinator.service import CoordinatorService
from leveret_worker.processes import ProcessPool
from leveret_worker.service import WorkerService


@define.task
async def answer() -> int:
    return 42


def coordinator(broker: MemoryBroker, folder: Path) -> Service:
    transport = MemoryTransport(broker)
    return Connected(transport, CoordinatorService(transport, folder / "catalog.sqlite"))


def worker(broker: MemoryBroker, _: Path) -> Service:
    transport = MemoryTransport(broker)
    return Connected(transport, WorkerService(transport, [answer], project="p", keys=None))


def session(broker: MemoryBroker, _: Path) -> Service:
    transport = MemoryTransport(broker)
    return Connected(transport, Session(transport, where="memory"))


def pool(_: MemoryBroker, __: Path) -> Service:
    return ProcessPool(size=1, keys=None)


Make = Callable[[MemoryBroker, Path], Service]
SERVICES = pytest.mark.parametrize("make", [coordinator, worker, session, pool])


@SERVICES
async def test_stopping_twice_or_before_the_start_is_fine(make: Make, tmp_path: Path) -> None:
    broker = MemoryBroker()
    other = coordinator(broker, tmp_path / "other")
    if make is not coordinator:
        await other.start()
    await make(broker, tmp_path).stop()
    service = make(broker, tmp_path)
    await service.start()
    await service.stop()
    await service.stop()
    await other.stop()


@SERVICES
async def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing(
    make: Make, tmp_path: Path
) -> None:
    broker = MemoryBroker()
    other = coordinator(broker, tmp_path / "other")
    if make is not coordinator:
        await other.start()
    before = threading.active_count()
    tasks = len(asyncio.all_tasks())
    for turns in range(0, 60, 3):
        service = make(broker, tmp_path)
        starting = asyncio.ensure_future(service.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await service.stop()
    async with asyncio.timeout(10):
        while threading.active_count() > before or len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.01)
    service = make(broker, tmp_path)
    await service.start()
    await service.stop()
    await other.stop()
