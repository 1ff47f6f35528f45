"""The work itself, as plain functions: every peer runs these same ones."""

import asyncio
import time
from typing import Any

NAP = 0.01
"""Seconds that a napping task takes."""
BURST = 0.05
"""Seconds of CPU time that a burning task takes."""


def noop(value: Any) -> Any:
    """Return what is given, at once."""
    return value


async def noop_async(value: Any) -> Any:
    """The same as a coroutine."""
    return value


def step(number: int) -> int:
    """One step of a workflow."""
    return number + 1


async def step_async(number: int) -> int:
    """The same as a coroutine."""
    return number + 1


def nap(value: int) -> int:
    """Wait a little, as for a database."""
    time.sleep(NAP)
    return value


async def nap_async(value: int) -> int:
    """The same as a coroutine."""
    await asyncio.sleep(NAP)
    return value


def block(seconds: float) -> float:
    """Take long."""
    time.sleep(seconds)
    return seconds


def burn(value: int) -> int:
    """Use the processor for `BURST` seconds of its time, however much of it others take."""
    until = time.thread_time() + BURST
    while time.thread_time() < until:
        sum(divisor for divisor in range(1, 2000) if value % divisor == 0)
    return value


def shift(array: Any) -> Any:
    """Another array of the same size: nothing of it was there before."""
    return array + 1
