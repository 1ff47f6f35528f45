"""Workflows that are killed in the middle."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

import leveret
from leveret import define, result_of
from tests.acceptance.apps import book, tasks

WORDS = ("hare", "leveret", "form", "warren", "doe", "jack", "scut", "clover")


@dataclass(frozen=True)
class Point:
    name: str
    tags: frozenset[str]


@define.workflow
async def fan(count: int) -> list[int]:
    """Calls with equal arguments."""
    return list(await asyncio.gather(*[tasks.draw("the same") for _ in range(count)]))


@define.workflow
async def branches(count: int) -> list[list[int]]:
    """Two calls a branch, the second with what the first has given. Some branches are equal."""

    async def branch(kind: int) -> list[int]:
        first = await tasks.draw(kind)
        before, second = await tasks.follow(first)
        return [first, before, second]

    return list(await asyncio.gather(*[branch(number % 4) for number in range(count)]))


@define.workflow
async def relay(count: int) -> list[list[int]]:
    """Equal calls, each of which is passed on to another, and all of those to one."""
    calls = [tasks.follow(result_of(tasks.draw("the same"))) for _ in range(count)]
    return await tasks.together([result_of(call) for call in calls])


@define.workflow
async def objects() -> list[int]:
    """Calls with what no two processes pickle to the same bytes, each twice."""
    numbers = np.arange(12.0).reshape(4, 3)
    model = MLPClassifier(hidden_layer_sizes=(3,), max_iter=300, random_state=0)
    model.fit(numbers, np.array([0, 1, 0, 1]))
    values: list[Any] = [
        numbers,
        numbers.T,
        model,
        set(WORDS),
        frozenset(WORDS),
        Point("one", frozenset(WORDS)),
        {Point(word, frozenset(WORDS)) for word in WORDS},
        {"sets": [set(WORDS), {frozenset(WORDS)}]},
    ]
    return list(await asyncio.gather(*[tasks.draw(value) for value in values for _ in range(2)]))


@define.workflow
async def top(width: int) -> list[list[list[int]]]:
    with book.noted():
        return list(await asyncio.gather(*[middle(width) for _ in range(width)]))


@define.workflow
async def middle(width: int) -> list[list[int]]:
    with book.noted():
        return list(await asyncio.gather(*[low(number % 2) for number in range(width)]))


@define.workflow
async def low(kind: int) -> list[int]:
    with book.noted():
        return [await tasks.draw(kind), await tasks.draw(kind)]


@define.workflow
async def doze(seconds: float) -> list[Any]:
    """What differs from one execution to the next, then a sleep, then the same again."""
    before = await _chances()
    book.tell("before", before)
    await leveret.sleep(seconds)
    after = await _chances()
    book.tell("after", after)
    return [before, after]


async def _chances() -> list[Any]:
    return [
        await leveret.step(book.ticket),
        str(await leveret.now()),
        str(await leveret.uuid()),
        await leveret.random(),
    ]


@define.task
async def linger() -> int:
    """A number for each execution."""
    with book.noted() as note:
        note.value = number = book.ticket()
        await book.passed(number)
        return number
