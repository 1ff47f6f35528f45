"""What a type checker knows of a program that uses leveret, asked of mypy and pyright."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RIGHT = """
import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator
from typing import assert_type

import leveret
from leveret import Call, Retry, Run, Task, Workflow, define


@define.task
def plain(a: int, *, b: str = "") -> float:
    return a


@define.task(name="configured", version="1.0")
async def configured(a: int) -> bytes:
    return b""


@define.workflow
async def flow(numbers: list[int]) -> list[float]:
    results = await asyncio.gather(*[plain(number) for number in numbers])
    assert_type(results, list[float])
    return results


@define.workflow(name="other", retries=Retry(3, on=OSError), timeout=5)
async def other() -> str:
    now = await leveret.now()
    assert_type(now, datetime.datetime)
    assert_type(await leveret.uuid(), uuid.UUID)
    assert_type(await leveret.random(), float)
    await leveret.sleep(5)
    await leveret.sleep(datetime.timedelta(hours=1))
    assert_type(await leveret.step(sync_step, 1, b="x"), list[int])
    assert_type(await leveret.step(async_step, 1), bytes)
    assert_type(await leveret.step.options(key="a")(async_step, 1), bytes)
    assert_type(await asyncio.create_task(leveret.step(async_step, 1)), bytes)
    assert_type(await leveret.step(lambda: 3), int)
    return ""


@define.task(retries=3, backoff=0.5, retry_on=(OSError, KeyError), timeout=5, total_timeout=60)
async def patient(a: int) -> bytes:
    return b""


def sync_step(a: int, *, b: str) -> list[int]:
    return [a]


async def async_step(a: int) -> bytes:
    return b""


async def use() -> None:
    assert_type(plain(1, b="x"), Call[float])
    assert_type(await plain(1, b="x"), float)
    assert_type(await configured(1), bytes)
    assert_type(await flow([1]), list[float])
    assert_type(await other(), str)
    assert_type(await asyncio.wait_for(configured(1), 5), bytes)
    assert_type(await leveret.gather([plain(1), plain(2)]), list[float])
    assert_type(leveret.result_of(configured(1)), bytes)
    assert_type(await plain(leveret.result_of(configured(1)).count(b"")), float)
    assert_type(await flow([leveret.result_of(plain(1)).__trunc__()]), list[float])
    assert_type(leveret.map(configured, [1, 2], limit=2), AsyncIterator[bytes])
    assert_type(await leveret.watch(flow([1])), list[float])
    assert_type(patient.options(retries=1)(1), Call[bytes])
    assert_type(await patient.options(timeout=None, key="a")(1), bytes)
    assert_type(await other.options(retries=Retry(initial=datetime.timedelta(1)))(), str)
    async with leveret.local() as client:
        run = await client.start(configured(1))
        assert_type(run, Run[bytes])
        assert_type(await run.result(), bytes)
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(configured(1)), asyncio.Task[bytes])
    print(Task, Workflow)


assert_type(asyncio.run(other()), str)
"""

WRONG = """
import asyncio

import leveret
from leveret import define


@define.task
def plain(a: int, *, b: str = "") -> float:
    return a


@define.task(version="1.0")
async def configured(a: int) -> bytes:
    return b""


async def use() -> None:
    plain("one")  # wrong
    plain(1, c=2)  # wrong
    plain()  # wrong
    plain.fn("one")  # wrong
    plain(leveret.result_of(configured(1)))  # wrong
    leveret.result_of(1)  # wrong
    configured(a=None)  # wrong
    text: str = await configured(1)  # wrong
    asyncio.run(plain)  # wrong
    define.task(version=1)  # wrong
    define.task(retries="3")  # wrong
    define.task(retry_on=int)  # wrong
    define.task(key="a")  # wrong
    plain.options(timeout="3")  # wrong
    plain.options(retry=3)  # wrong
    plain.options(key="a")("one")  # wrong
    leveret.Retry(3, 4)  # wrong
    leveret.Retry(then="explode")  # wrong
    await leveret.step(plain.fn, "one")  # wrong
    await leveret.sleep("1")  # wrong
    print(text)


@define.workflow  # wrong
def not_async() -> None: ...
"""


def mypy(program: Path) -> set[int]:
    """The lines that mypy reports."""
    command = [sys.executable, "-m", "mypy", "--strict", "--output", "json", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=program.parent, check=False)
    assert done.returncode in (0, 1), done.stderr
    return {json.loads(line)["line"] for line in done.stdout.splitlines() if line.startswith("{")}


def pyright(program: Path) -> set[int]:
    """The lines that pyright reports."""
    config = program.parent / "pyrightconfig.json"
    config.write_text(json.dumps({"typeCheckingMode": "strict", "include": [program.name]}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=program.parent, check=False)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {item["range"]["start"]["line"] + 1 for item in found if item["severity"] == "error"}


Checker = Callable[[Path], set[int]]
CHECKERS = pytest.mark.parametrize("checker", [mypy, pyright])


@CHECKERS
def test_results_and_arguments_are_known(
    checker: Callable[[Path], set[int]], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(RIGHT)
    assert checker(program) == set()


@CHECKERS
def test_wrong_use_is_reported_where_it_stands(
    checker: Callable[[Path], set[int]], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(WRONG)
    lines = WRONG.splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if line.endswith("# wrong")}
    assert checker(program) == wrong
