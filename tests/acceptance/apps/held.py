"""What goes on until it is stopped, and what waits for its next try."""

import asyncio
import signal
import time
from collections.abc import Sequence

from leveret import Retry, define
from tests.acceptance.apps.book import noted, passed, passed_in_a_process, ticket


@define.task
async def hold(name: str) -> str:
    with noted():
        await passed(ticket())
        return name


@define.task
def hold_in_a_process() -> None:
    with noted():
        passed_in_a_process(ticket())


@define.task
def hold_against_signals() -> None:
    """Hear no SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with noted():
        while True:
            time.sleep(0.05)


@define.task(retries=Retry(5, initial=3600))
async def stumble() -> None:
    with noted():
        raise ValueError("not yet")


@define.task(retries=Retry(0, then="park"))
async def need(first: int) -> int:
    """Park unless so many tickets were taken."""
    with noted() as note:
        note.value = number = ticket()
        if number < first:
            raise ValueError("too early")
        return number


@define.workflow
async def parent() -> Sequence[object]:
    with noted():
        return await asyncio.gather(inner(), hold_in_a_process(), hold_against_signals(), stumble())


@define.workflow
async def inner() -> str:
    with noted():
        return await hold("inner")


@define.workflow
async def needing(first: int) -> int:
    """A child that ends, and one that parks."""
    with noted():
        await hold("first")
        return await need(first)


@define.workflow
async def trying(first: int) -> int:
    """A child that ends, and one that fails."""
    with noted():
        await hold("first")
        return await need.options(retries=None)(first)
