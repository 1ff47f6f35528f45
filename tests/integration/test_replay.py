"""A workflow run whose process is killed goes on in another one, and repeats nothing that ended.

Each process dies by SIGKILL at another place of the workflow, when what was called until there has
ended; the next one has another hash seed. A ledger shows what was executed.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

PROGRAM = """
import asyncio
import dataclasses
import os
import pathlib
import random
import signal
import sys

import numpy as np
from sklearn.neural_network import MLPClassifier

import leveret
from leveret import define

LEDGER = pathlib.Path("ledger")
WORDS = set("zero one two three four five six seven eight nine".split())


@dataclasses.dataclass(frozen=True)
class Order:
    articles: object
    note: str = ""


def model():
    made = MLPClassifier((3,), random_state=0, max_iter=2)
    return made.fit(np.arange(40.0).reshape(20, 2), np.arange(20) % 2)


def values():
    return {
        "array": np.arange(12.0).reshape(3, 4).T,
        "model": model(),
        "set": WORDS,
        "dict": {word: len(word) for word in WORDS},
        "dataclass": Order(frozenset(WORDS)),
        "set of instances": {Order(word) for word in WORDS},
        "models by name": {word: Order(model(), word) for word in WORDS},
    }


def write(line):
    with LEDGER.open("a") as file:
        file.write(line + "\\n")
    return line


@define.task
async def note(line: str) -> str:
    return write(line)


@define.task
async def take(name: str, value: object) -> str:
    return write(f"took {name}")


@define.workflow
async def inner(depth: int) -> str:
    if depth:
        await inner(depth - 1)
    return await note(f"inner {depth}")


def die(place: str) -> None:
    mark = pathlib.Path(place)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


async def equal_calls():
    calls = [note("equal") for _ in range(50)]
    await asyncio.gather(*calls[:25])
    die("died among equal calls")
    await asyncio.gather(*calls[25:])


async def branches():
    firsts, gate = asyncio.Semaphore(0), asyncio.Event()

    async def branch(number):
        first = await note(f"first {number}")
        firsts.release()
        if number % 2:
            await gate.wait()
        await asyncio.sleep(random.random() / 50)  # they finish in another order each time
        assert first == f"first {number}"
        return await note(f"second of {first}")

    numbers = random.sample(range(20), 20)
    tasks = {number: asyncio.create_task(branch(number)) for number in numbers}
    for _ in range(20):
        await firsts.acquire()
    await asyncio.gather(*[tasks[number] for number in range(0, 20, 2)])
    die("died among branches")
    gate.set()
    await asyncio.gather(*tasks.values())


@define.workflow
async def everything() -> str:
    await equal_calls()
    await branches()
    await asyncio.gather(*[take(name, value) for name, value in values().items()])
    die("died after arguments of all kinds")
    await inner(3)
    die("died after nested workflows")
    chosen = await asyncio.gather(*[leveret.step(random.random) for _ in range(20)])
    write(f"chosen {chosen}")
    started = await leveret.now()
    die("died after steps")
    sleeping = asyncio.ensure_future(leveret.sleep(1.0))
    await note("sleeping")
    die("died asleep")
    await sleeping
    return f"slept {(await leveret.now() - started).total_seconds() >= 1.0}"


async def main():
    async with leveret.local(project="p", state="state") as client:
        known = pathlib.Path("run")
        if known.exists():
            run = client.run(known.read_text())
        else:
            run = await client.start(everything.options(key="the one")())
            known.write_text(run.id)
        print(await run.result())


asyncio.run(main())
"""
DEATHS = 6


def test_whatever_kills_it_each_child_that_ended_was_executed_once(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    for seed in range(1, DEATHS + 1):
        assert run(tmp_path, seed).returncode == -signal.SIGKILL, f"it died {seed - 1} times"
    last = run(tmp_path, DEATHS + 1)
    assert (last.returncode, last.stdout) == (0, "slept True\n"), last.stderr

    executed = Counter((tmp_path / "ledger").read_text().splitlines())
    chosen = [line for line in executed if line.startswith("chosen")]
    assert len(chosen) == 1, "steps that ended gave other numbers"
    assert executed.pop("equal") == 50
    assert executed.pop(chosen[0]) == 3, "not recorded: the workflow itself wrote it"
    assert {line: times for line, times in executed.items() if times > 1} == {}
    assert len(executed) == 40 + 7 + 4 + 1


def run(folder: Path, seed: int) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEVERET_")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "program.py"],
        cwd=folder,
        env={**environment, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
