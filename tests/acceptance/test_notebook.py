"""A notebook with a real kernel: what its cells define runs on a worker elsewhere."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.lab import Lab
from tests.acceptance.processes import Site

pytestmark = pytest.mark.rabbitmq

EXECUTE = "from nbclient.cli import main; main()"

DEFINE = """
import os
from dataclasses import dataclass
import leveret
from leveret import define

@dataclass
class Reading:
    value: float

class Implausible(ValueError):
    pass

def correct(value):
    return value + 1

@define.task
def calibrate(reading: Reading) -> tuple[Reading, int, str]:
    if reading.value < 0:
        raise Implausible(reading.value)
    return Reading(correct(reading.value)), os.getpid(), os.getcwd()

@define.task(retries=1, backoff=0.01, retry_on=Implausible)
def second_try() -> bool:
    if not os.path.exists("tried"):
        open("tried", "w").close()
        raise Implausible
    return True
"""
CONNECT = """
async with leveret.connect(project="lab") as client:
    reading, pid, folder = await calibrate(Reading(1.0))
assert reading == Reading(2.0) and type(reading) is Reading
assert pid != os.getpid() and folder != os.getcwd()
try:
    await calibrate(Reading(-1.0))
except Implausible as error:
    assert error.args == (-1.0,)
else:
    raise AssertionError("nothing was raised")
assert await second_try()
"""
EDITED_HELPER = """
def correct(value):
    return value + 10
"""
EDITED_TASK = """
@define.task
def calibrate(reading: Reading) -> tuple[Reading, int, str]:
    return Reading(-correct(reading.value)), os.getpid(), os.getcwd()
"""
WORKFLOW = """
import asyncio

@define.workflow
async def calibrate_all(values):
    found = await asyncio.gather(*[calibrate(Reading(value)) for value in values])
    return [reading for reading, _, _ in found]

assert await calibrate_all([1.0, 2.0]) == [Reading(-11.0), Reading(-12.0)]
"""


def call(expected: float) -> str:
    """A cell that calls the task outside of any block."""
    return f"""
reading, _, folder = await calibrate(Reading(1.0))
assert reading == Reading({expected}), reading
print("ran in", folder)
"""


def cell(source: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": f"cell-{abs(hash(source))}",
        "metadata": {},
        "outputs": [],
        "source": source.strip(),
    }


def executed(lab: Lab, *cells: str) -> str:
    """Execute a notebook by nbclient; what its cells printed."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    notebook = {
        "cells": [cell(source) for source in cells],
        "metadata": kernel,
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path = lab.write("notebook.ipynb", json.dumps(notebook))
    command = [sys.executable, "-c", EXECUTE, "--inplace", str(path)]
    done = lab.execute(command, LEVERET_PROJECT="lab")
    assert done.returncode == 0, done.stderr
    outputs = [
        output["text"]
        for each in json.loads(path.read_text())["cells"]
        for output in each["outputs"]
        if output["output_type"] == "stream" and output["name"] == "stdout"
    ]
    return "".join("".join(text) for text in outputs)


def test_a_notebooks_task_runs_elsewhere_as_its_cells_are_now(site: Site) -> None:
    lab = Lab(site)
    lab.worker("--project", "lab")
    printed = executed(
        lab,
        DEFINE,
        CONNECT,
        call(2.0),
        EDITED_HELPER,
        call(11.0),
        EDITED_TASK,
        call(-11.0),
        WORKFLOW,
    )
    assert printed == f"ran in {site.folder}\n" * 3
    assert not Path(site.folder, "notebook.ipynb").exists()
