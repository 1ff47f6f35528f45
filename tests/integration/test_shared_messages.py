"""Tiny tasks share messages wherever they run; all end as they would alone."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import leveret
from leveret import Task, define
from leveret.embedded import CATALOG

RUNS = 40
ROUNDS = 50


@define.task(name="tiny-on-the-loop")
async def on_the_loop(number: int) -> int:
    return number


@define.task(name="tiny-in-a-thread", runs_in="thread")
def in_a_thread(number: int) -> int:
    return number


@define.task(name="tiny-in-a-process")
def in_a_process(number: int) -> int:
    return number


@define.task(name="slow-in-shared-messages")
async def slow(number: int) -> int:
    await asyncio.sleep(0.05)
    return number


def _together(state: Path, task: Task[..., Any]) -> int:
    with closing(sqlite3.connect(state / CATALOG)) as catalog:
        (most,) = catalog.execute(
            "SELECT together FROM definitions WHERE name = ?", [task.name]
        ).fetchone()
    return int(most)


async def _fan_out(task: Task[..., Any]) -> None:
    assert await asyncio.gather(*(task(number) for number in range(RUNS))) == list(range(RUNS))


@pytest.mark.parametrize("task", [on_the_loop, in_a_thread, in_a_process], ids=lambda t: t.name)
async def test_tiny_tasks_come_to_share_messages(task: Task[..., Any], tmp_path: Path) -> None:
    """As soon as it is known that they are tiny, which a loaded machine may hide for a while."""
    state = tmp_path / "state"
    async with leveret.local(state=state, processes=1):
        for _ in range(ROUNDS):
            await _fan_out(task)
            if _together(state, task) > 1:
                break
        assert _together(state, task) > 1
        await _fan_out(task)


async def test_tasks_that_take_long_share_none(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with leveret.local(state=state):
        await slow(0)
        await _fan_out(slow)
    assert _together(state, slow) == 1
