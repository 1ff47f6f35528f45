"""Code that travels: what a script or a named module defines runs on workers that don't have it."""

import json
import signal
import socket
from pathlib import Path

import pytest

from tests.acceptance.lab import Lab
from tests.acceptance.processes import Site, until

pytestmark = pytest.mark.rabbitmq

SCRIPT = """
import asyncio, os, sys
from dataclasses import dataclass
from pathlib import Path
import leveret
from leveret import define

FACTOR = 2

@dataclass
class Point:
    x: int
    y: int

class TooFar(ValueError):
    pass

def helper(value):
    return FACTOR * value

@define.task
def scale(point: Point) -> Point:
    if point.x > 100:
        raise TooFar(point.x)
    return Point(helper(point.x), helper(point.y))

@define.task(retries=1, backoff=0.01, retry_on=TooFar)
def nearer() -> str:
    if not Path("tried").exists():
        Path("tried").touch()
        raise TooFar
    return "at last"

@define.task
async def where() -> tuple[int, str]:
    return os.getpid(), os.getcwd()

@define.workflow
async def both(points):
    scaled = await asyncio.gather(*[scale(point) for point in points])
    try:
        await scale(Point(101, 0))
    except TooFar:
        return list(scaled), await where()

async def main():
    assert await scale(Point(1, 2)) == Point(2, 4)
    points, (pid, folder) = await both([Point(1, 2), Point(3, 4)])
    assert points == [Point(2, 4), Point(6, 8)], points
    assert all(type(point) is Point for point in points)
    assert pid != os.getpid()
    try:
        await scale(Point(101, 0))
    except TooFar as error:
        assert error.args == (101,)
    else:
        raise AssertionError("nothing was raised")
    assert await nearer() == "at last"
    print("ran in", folder)
    async with leveret.connect() as client:
        run = await client.start(scale(Point(1, 2)))
        print(run.id)

async def fetch(run):
    async with leveret.connect() as client:
        point = await client.run(run).result()
    assert type(point) is Point
    print(point)

if __name__ == "__main__":
    asyncio.run(fetch(sys.argv[1]) if sys.argv[1:] else main())
"""


def test_a_script_runs_on_a_worker_that_has_no_app(site: Site) -> None:
    lab = Lab(site)
    lab.worker()
    ran, run = lab.printed("analysis.py", SCRIPT).splitlines()
    assert ran == f"ran in {site.folder}"
    assert lab.printed("analysis.py", SCRIPT, arguments=[run]) == "Point(x=2, y=4)\n"


EDITED = """
import asyncio
from leveret import define

def helper():
    return "{helper}"

@define.task
def tell() -> str:
    return helper() + "{task}"

@define.workflow
async def report() -> str:
    return "{workflow}" + await tell()

if __name__ == "__main__":
    print(asyncio.run(report()))
"""


def test_edited_code_runs_and_old_revisions_are_still_served(site: Site) -> None:
    lab = Lab(site)
    lab.worker()
    first = {"helper": "a", "task": "b", "workflow": "c"}
    assert lab.printed("report.py", EDITED.format(**first)) == "cab\n"
    second = {"helper": "A", "task": "b", "workflow": "c"}
    assert lab.printed("report.py", EDITED.format(**second)) == "cAb\n"
    third = {"helper": "A", "task": "b", "workflow": "C"}
    assert lab.printed("report.py", EDITED.format(**third)) == "CAb\n"
    assert site.json("resolve", "report")["version"] == "2"
    for revision, told in ((1, "cAb"), (2, "CAb")):
        done = lab.leveret("run", f"report:{revision}", "--json")
        assert json.loads(done.stdout)["result"] == told, done.stderr


MODULE = """
from dataclasses import dataclass
from leveret import define

VERSION = "{version}"

@dataclass
class Sample:
    text: str

    def {version}(self):
        return self

def describe(sample):
    return Sample(f"{{VERSION}} {{sample.text}}")

@define.task
def prepare(sample: Sample) -> Sample:
    return describe(sample)
"""
INSTALLED = """
import pipeline
from leveret import define

@define.task
def other() -> None: ...
"""
USER = """
import asyncio, leveret
from leveret import define
import pipeline
from pipeline import Sample

@define.workflow
async def whole() -> Sample:
    return (await pipeline.prepare(Sample("s").new())).new()

async def main():
    async with leveret.connect(ship=["pipeline"]):
        for found in (await pipeline.prepare(Sample("s")), await whole()):
            assert type(found) is Sample
            print(found.text)

asyncio.run(main())
"""


def test_a_named_module_is_carried_whatever_the_worker_has_of_that_name(site: Site) -> None:
    lab = Lab(site)
    (site.folder / "pipeline.py").write_text(MODULE.format(version="old"))
    lab.write("pipeline.py", MODULE.format(version="new"))
    (site.folder / "installed.py").write_text(INSTALLED)
    lab.worker("installed")
    assert lab.printed("user.py", USER) == "new s\nnew s\n"
    by_variable = USER.replace('ship=["pipeline"]', "")
    done = lab.run("user.py", by_variable, LEVERET_SHIP="other_module, pipeline")
    assert "leveret.errors.SettingError: ship: 'other_module' can't be imported" in done.stderr
    done = lab.run("user.py", by_variable, LEVERET_SHIP=" pipeline,")
    assert done.stdout == "new s\nnew s\n", done.stderr


MISSING = """
import asyncio
from leveret import MissingModuleError, define
import only_here

@define.task
def above() -> int:
    return only_here.NUMBER

@define.task
def within() -> int:
    from only_here.inner import NUMBER
    return NUMBER

async def main():
    for task in (above, within):
        try:
            await task()
        except MissingModuleError as error:
            print(error)

asyncio.run(main())
"""


def test_a_missing_import_names_the_module_and_the_host(site: Site) -> None:
    lab = Lab(site)
    lab.write("only_here.py", "NUMBER = 1")
    lab.worker()
    above, within = lab.printed("missing.py", MISSING).splitlines()
    host = socket.gethostname()
    assert f"needs the module 'only_here', which the worker on {host} doesn't have" in above
    assert f"needs the module 'only_here', which the worker on {host} doesn't have" in within
    assert 'connect(ship=["only_here"])' in above


MARKED = """
import asyncio
from pathlib import Path
from leveret import define

@define.task
def mark() -> None:
    Path("{folder}", "marker").touch()

asyncio.run(mark())
"""


def test_without_a_key_code_does_not_leave_its_process(site: Site) -> None:
    lab = Lab(site)
    lab.worker()
    done = lab.run("marked.py", MARKED.format(folder=site.folder), LEVERET_KEY="")
    assert done.returncode == 1
    assert "leveret.errors.NotDeployedError" in done.stderr
    assert "make a key with `leveret key new`, set LEVERET_KEY" in done.stderr


def test_a_worker_runs_no_code_unless_it_says_so(site: Site) -> None:
    lab = Lab(site)
    site.worker(str(lab.write("app.py", EDITED)), LEVERET_KEY=lab.key)
    caller = lab.start("marked.py", MARKED.format(folder=site.folder))
    until(lambda: "NoWorkerWarning" in caller.text(), "the caller is warned")
    assert "no worker of the project accepts code" in caller.text()
    assert "leveret worker --project default --accept-code" in caller.text()
    (run,) = site.json("runs", "list")
    why = site.run("why", run["id"]).stdout
    assert "its code was shipped, and no worker of the project accepts code" in " ".join(
        why.split()
    )
    assert not (site.folder / "marker").exists()
    lab.worker()
    assert caller.wait() == 0, caller.text()
    assert (site.folder / "marker").exists()


def test_a_worker_that_accepts_code_needs_a_key_and_one_that_does_not_an_app(site: Site) -> None:
    keyless = site.run("worker", "--accept-code")
    assert keyless.returncode == 2
    assert "leveret key new" in keyless.stderr
    assert "LEVERET_KEY" in keyless.stderr
    idle = site.run("worker")
    assert idle.returncode == 2
    assert "--accept-code" in idle.stderr


LONG = """
import asyncio, os, time
from dataclasses import dataclass
from pathlib import Path
from leveret import define

@dataclass(frozen=True)
class Item:
    names: frozenset[str]

@define.task
def note(item: Item) -> Item:
    with Path("{folder}", "noted").open("a") as file:
        file.write("noted\\n")
    return item

@define.task
def wait(item: Item) -> int:
    folder = Path("{folder}")
    (folder / f"{{os.getppid()}}.started").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    return os.getppid()

@define.workflow
async def waited() -> int:
    item = Item(frozenset("abcdefgh"))
    return await wait(await note(item))

print(asyncio.run(waited()))
"""


def test_a_shipped_run_whose_worker_is_killed_goes_on_elsewhere(site: Site) -> None:
    lab = Lab(site)
    workers = {worker.pid: worker for worker in (lab.worker(), lab.worker())}
    caller = lab.start("long.py", LONG.format(folder=site.folder))

    def started() -> set[int]:
        return {int(path.stem) for path in site.folder.glob("*.started")}

    until(started, "a worker has begun")
    (first,) = started()
    workers[first].signal(signal.SIGKILL)
    until(lambda: len(started()) == 2, "the other one has begun")
    Path(site.folder, "go").touch()
    assert caller.wait() == 0, caller.text()
    (second,) = started() - {first}
    assert int(caller.text().split()[-1]) == second
    assert (site.folder / "noted").read_text() == "noted\n", "what had ended was not repeated"


def test_the_catalog_keeps_the_code(site: Site) -> None:
    lab = Lab(site)
    worker = lab.worker()
    text = {"helper": "a", "task": "b", "workflow": "c"}
    assert lab.printed("report.py", EDITED.format(**text)) == "cab\n"
    worker.kill()
    lab.coordinator.kill()
    (lab.home / "report.py").unlink()
    site.coordinator()
    lab.worker()
    done = lab.leveret("run", "report", "--json")
    assert json.loads(done.stdout)["result"] == "cab", done.stderr
