"""Large arrays pass through a real cluster without filling anybody's memory."""

import json
import os
import sys
from pathlib import Path

import pytest

from leveret_broker.objects import is_name
from tests.acceptance.processes import Process, Site

pytestmark = [
    pytest.mark.rabbitmq,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

PAYLOAD = int(os.environ.get("LEVERET_TEST_PAYLOAD_MB", "256")) << 20
"""Bytes of the array that goes to a task and back."""

APP = """
import asyncio

import numpy as np

from leveret import define


@define.task
def add_one(array):
    return array + 1


@define.task
def pick(data, number):
    return float(data[number])


@define.task
def make(number, size):
    return np.full(size // 8, float(number))


@define.workflow
async def move(count, size):
    made = [make(number, size) for number in range(count)]
    more = [add_one(each) for each in made]
    return await asyncio.gather(*[pick(each, 0) for each in more])
"""

CALLER = """
import asyncio, json, sys
import numpy as np
import leveret
from app import add_one, move, pick


def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def is_one_more(result, array):
    step = 1 << 20
    return all(
        (result[start : start + step] == array[start : start + step] + 1).all()
        for start in range(0, len(array), step)
    )


async def there_and_back(size):
    array = np.arange(size // 8, dtype="f8")
    async with leveret.connect():
        return is_one_more(await add_one(array), array)


async def to_many(count):
    array = np.arange(1_000_000, dtype="f8")
    async with leveret.connect():
        calls = [pick(data=array, number=number) for number in range(count)]
        return await asyncio.gather(*calls) == list(range(count))


async def moved(size):
    async with leveret.connect():
        return await move(10, size) == [number + 1.0 for number in range(10)]


number = int(sys.argv[2])
what = {"back": there_and_back, "many": to_many, "moved": moved}[sys.argv[1]]
right = asyncio.run(what(number))
print(json.dumps({"right": bool(right), "peak": peak()}))
"""


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


class Cluster:
    def __init__(self, site: Site) -> None:
        (site.folder / "app.py").write_text(APP)
        (site.folder / "caller.py").write_text(CALLER)
        self.site = site
        self.store = site.folder / "store"
        store = ("--payload-store", str(self.store))
        self.coordinator: Process = site.start("coordinator", *store).ready("coordinator ready")
        self.worker: Process = site.worker("app", *store, "--processes", "2")

    def call(self, *what: str) -> dict[str, int]:
        """What the calling program tells when it is done."""
        done = self.site.execute(
            [sys.executable, "caller.py", *what],
            timeout=170,
            LEVERET_PAYLOAD_STORE=str(self.store),
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, int] = json.loads(done.stdout)
        return told

    @property
    def objects(self) -> list[Path]:
        return [path for path in self.store.rglob("*") if is_name(path.name)]


@pytest.fixture
def cluster(site: Site) -> Cluster:
    return Cluster(site)


def test_no_process_needs_more_than_two_and_a_half_times_an_array(cluster: Cluster) -> None:
    told = cluster.call("back", str(PAYLOAD))

    (child,) = children(cluster.worker.pid)
    peaks = {
        "caller": told["peak"],
        "coordinator": peak(cluster.coordinator.pid),
        "worker": peak(cluster.worker.pid),
        "child": peak(child),
    }
    shown = {name: f"{size / PAYLOAD:.2f}" for name, size in peaks.items()}
    print(f"\npeak memory by the array's {PAYLOAD >> 20} MB: {shown}")
    assert told["right"]
    assert max(peaks.values()) < 2.5 * PAYLOAD, shown
    assert max(peaks["coordinator"], peaks["worker"]) < 0.5 * PAYLOAD + (64 << 20), shown


def test_an_array_that_goes_to_a_hundred_tasks_is_stored_and_held_once(cluster: Cluster) -> None:
    told = cluster.call("many", "100")

    assert told["right"]
    assert [path.stat().st_size for path in cluster.objects] == [8_000_000]
    assert told["peak"] < 300 << 20  # a copy for each call would be 800 MB


def test_a_workflow_that_passes_results_on_never_holds_them(cluster: Cluster) -> None:
    told = cluster.call("moved", str(100 << 20))

    assert told["right"]
    assert len(cluster.objects) == 11  # of 20: what was made equals one more than the one before
    print(f"\npeak memory of the workflow's process: {peak(cluster.worker.pid) >> 20} MB")
    assert peak(cluster.worker.pid) < 100 << 20
    assert peak(cluster.coordinator.pid) < 100 << 20
