"""What the chaos suite's workers serve: see `workload` for what it comes to."""

import asyncio
import time

import leveret
from leveret import Retry, define
from tests.acceptance.chaos.ledger import Stumble, noted
from tests.acceptance.chaos.workload import HOPELESS, Call, answer, fold

TRIES = Retry(3, initial=0.05)
LOSSES = 1000
"""Losses are what this suite is made of, and they strike at random."""


@define.task(retries=TRIES, lost_retries=LOSSES)
def compute(number: int, take: float, fails: int) -> int:
    """In a child process."""
    with noted("compute", fails):
        time.sleep(take)
        return answer("compute", number)


@define.task(retries=TRIES, lost_retries=LOSSES)
async def wait(number: int, take: float, fails: int) -> int:
    """On the loop."""
    with noted("wait", fails):
        await asyncio.sleep(take)
        return answer("wait", number)


@define.task(runs_in="thread", retries=TRIES, lost_retries=LOSSES)
def block(number: int, take: float, fails: int) -> int:
    """In a thread."""
    with noted("block", fails):
        time.sleep(take)
        return answer("block", number)


@define.task(retries=Retry(1, initial=0.05), lost_retries=LOSSES)
async def hopeless(number: int) -> int:
    with noted("hopeless"):
        raise Stumble(f"{number} is hopeless")


@define.workflow(retries=TRIES, lost_retries=LOSSES)
async def branch(calls: list[Call], fails: int) -> int:
    """All its calls at once."""
    with noted("branch", fails):
        return fold(await asyncio.gather(*[several(call, 0) for call in calls]))


@define.workflow(retries=TRIES, lost_retries=LOSSES)
async def chain(calls: list[Call], fails: int) -> int:
    """One call after the other, each with the result before."""
    with noted("chain", fails):
        last = 0
        for call in calls:
            last = await several(call, last)
        return last


@define.workflow(retries=TRIES, lost_retries=LOSSES)
async def campaign(index: int, calls: list[Call]) -> dict[str, int]:
    """A root run."""
    with noted("campaign"):
        value = fold(await asyncio.gather(*[several(call, 0) for call in calls]))
        return {"index": index, "value": value}


async def several(call: Call, carried: int) -> int:
    return fold(await asyncio.gather(*[one(call, carried) for _ in range(call["same"])]))


async def one(call: Call, carried: int) -> int:
    number, take, fails = call["number"] + carried, call["take"], call["fails"]
    match call["do"]:
        case "branch":
            return await branch(call["calls"], fails)
        case "chain":
            return await chain(call["calls"], fails)
        case "hopeless":
            return await resigned(number)
        case "sleep":
            await leveret.sleep(take)
            return 0
        case "step":
            return await leveret.step(answer, "step", number)
        case do:
            return await TASKS[do](number, take, fails)


async def resigned(number: int) -> int:
    try:
        return await hopeless(number)
    except Stumble:
        return HOPELESS


TASKS = {"compute": compute, "wait": wait, "block": block}
