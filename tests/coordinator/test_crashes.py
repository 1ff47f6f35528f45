"""The coordinator dies at every step in turn; the next one, on the same catalog, carries on."""

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest

from leveret_broker.memory import MemoryBroker
from leveret_coordinator.service import CoordinatorService, CoordinatorSettings
from tests.coordinator import build, peers
from tests.coordinator.faults import Crash, CrashingTransport

ROOTS = [build.run_id(number) for number in range(1, 3)]
CHILDREN = [build.run_id(number) for number in range(11, 13)]
RUNS = [*ROOTS, *CHILDREN]
SMALL_BATCHES = CoordinatorSettings(largest_batch=2, page=2)
"""So that there are many steps to die at."""


@pytest.mark.parametrize("is_durable", [True, False], ids=["lasting broker", "broker in memory"])
@pytest.mark.parametrize("is_done", [True, False], ids=["after a step", "before a step"])
async def test_whatever_step_it_dies_at_every_run_ends_once(
    tmp_path: Path, is_done: bool, is_durable: bool
) -> None:
    step, has_crashed = 0, True
    while has_crashed:
        catalog = tmp_path / f"{step}"
        has_crashed = await _crash_and_recover(catalog, step, is_done, is_durable)
        _check_catalog(catalog)
        step += 1
    assert step > 8, "the scenario has more steps than that"


async def _crash_and_recover(catalog: Path, step: int, is_done: bool, is_durable: bool) -> bool:
    """Whether the first coordinator died before its work was done."""
    broker = MemoryBroker()
    async with peers.connected(broker) as callers, peers.connected(broker) as workers:
        caller = await peers.Caller(callers).open()
        worker = await peers.Worker(workers).serve("p:flow:1")
        await caller.request(
            build.register(build.spec("flow"), session="s"),
            build.submit(*map(build.submission, ROOTS)),
            *(
                build.submit(build.submission(child, "flow", parent=parent))
                for child, parent in zip(CHILDREN, ROOTS, strict=True)
            ),
        )
        async with peers.connected(broker) as transport:
            crashing = CrashingTransport(
                transport, after=step, is_done=is_done, is_durable=is_durable
            )
            await _serve_until_it_dies(crashing, catalog, caller)
        async with peers.connected(broker) as transport:
            lasting = CrashingTransport(transport, after=1_000_000, is_durable=is_durable)
            async with peers.coordinator(lasting, catalog, SMALL_BATCHES):
                await caller.until_finished(*RUNS)
                await _until_nobody_waits(catalog)
        _check_told(caller, worker)
        return crashing.has_crashed


async def _serve_until_it_dies(
    transport: CrashingTransport, catalog: Path, caller: peers.Caller
) -> None:
    service = CoordinatorService(transport, catalog, settings=SMALL_BATCHES)
    with suppress(Crash):
        await service.start()
        dying = asyncio.create_task(service.wait_ended())
        done = asyncio.create_task(caller.until_finished(*RUNS))
        await asyncio.wait([dying, done], return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        done.cancel()
        await asyncio.gather(dying, done, return_exceptions=True)
    await service.stop()


async def _until_nobody_waits(catalog: Path) -> None:
    with closing(sqlite3.connect(catalog)) as connection:
        async with asyncio.timeout(peers.PATIENCE):
            while connection.execute("SELECT count(*) FROM waiters").fetchone() != (0,):
                await asyncio.sleep(0)


def _check_told(caller: peers.Caller, worker: peers.Worker) -> None:
    for run, ends in caller.finished().items():
        assert {(end.state, end.result) for end in ends} == {("succeeded", b"arguments")}, run
    assert {invocation.run for invocation in worker.invocations} == set(RUNS)
    most = max(Counter(invocation.run for invocation in worker.invocations).values())
    assert most <= 2, "one crash, at most one copy"


def _check_catalog(catalog: Path) -> None:
    with closing(sqlite3.connect(catalog)) as connection:
        states = dict(connection.execute("SELECT id, state FROM runs").fetchall())
        assert states == dict.fromkeys(RUNS, "succeeded")
        attempts = connection.execute("SELECT state FROM attempts").fetchall()
        assert attempts == [("succeeded",)] * len(RUNS)
        assert connection.execute("SELECT count(*) FROM waiters").fetchone() == (0,)
