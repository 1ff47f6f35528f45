"""leveret: on a cluster over RabbitMQ, and embedded in one process."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import leveret
from benchmarks import jobs
from benchmarks.measuring import Clock
from benchmarks.peer import About, Job, Peer, Unsupported, at_a_time, module
from leveret import Client, Task, define

PROJECT = "bench"
LOOKS = 20
"""How often a list is asked for."""
APP = "benchmarks.peers.leveret"


@define.task(name="noop", version="1")
async def noop(value: Any) -> Any:
    return value


@define.task(name="noop_sync", version="1")
def noop_sync(value: Any) -> Any:
    return value


@define.task(name="step", version="1")
async def step(number: int) -> int:
    return await jobs.step_async(number)


@define.task(name="nap", version="1")
async def nap(value: int) -> int:
    return await jobs.nap_async(value)


@define.task(name="block", version="1")
def block(seconds: float) -> float:
    return jobs.block(seconds)


@define.task(name="burn", version="1")
def burn(value: int) -> int:
    return jobs.burn(value)


@define.task(name="shift", version="1")
def shift(array: Any) -> Any:
    return jobs.shift(array)


@define.workflow(name="chain")
async def chain(number: int, steps: int) -> int:
    for _ in range(steps):
        number = await step(number)
    return number


@cache
def fresh_key() -> str:
    """Signs this run's payloads."""
    from leveret.keys import new_key

    return new_key()


TASKS: Mapping[Job, Task[[Any], Any]] = {
    "noop": noop,
    "noop_sync": noop_sync,
    "nap": nap,
    "block": block,
    "burn": burn,
    "shift": shift,
}


FIRST = """
import asyncio
from benchmarks.peers.leveret import noop

async def main():
    print(await noop(1), flush=True)

asyncio.run(main())
"""


class _Leveret(Peer):
    """What both have in common: a program can't tell them apart."""

    imported = "import leveret"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._open = AsyncExitStack()

    async def stop(self) -> None:
        await self._open.aclose()
        await super().stop()

    async def enter(self, client: Client) -> None:
        self.client = client
        await self._open.enter_async_context(client)

    async def submit(self, job: Job, arguments: Sequence[Any]) -> Sequence[Any]:
        task = TASKS[job]
        return [asyncio.ensure_future(task(argument)) for argument in arguments]

    async def collect(self, submitted: Sequence[Any]) -> Sequence[Any]:
        return await asyncio.gather(*submitted)

    async def call(self, job: Job, argument: Any) -> Any:
        return await TASKS[job](argument)

    async def workflows(self, number: int, steps: int, at_once: int) -> Sequence[int]:
        async def one(first: int) -> int:
            return await chain(first, steps)

        return await at_a_time(one, number, at_once)

    # -- the record of what has ended -------------------------------------------------------------

    def catalog(self) -> Path:
        """The file with the record. Raises `Unsupported` if it is in memory."""
        raise Unsupported("keeps its record in memory")

    async def start_anew(self, runs: int, definitions: int) -> None:
        catalog = self.catalog()
        await self.stop()
        for path in catalog.parent.glob(f"{catalog.name}*"):
            path.unlink()
        catalog.parent.mkdir(exist_ok=True)
        from benchmarks.fill import Filling, fill  # workers import this module, too

        fill(catalog, Filling(runs=runs, definitions=definitions, project=PROJECT))
        await self.start()

    async def look(self) -> Mapping[str, float]:
        runs = await self.client.runs(limit=50, roots_only=True)
        lists = [await _milliseconds(self.client.runs(limit=50)) for _ in range(LOOKS)]
        shows = [await _milliseconds(self.client.show(runs[0].id)) for _ in range(LOOKS)]
        return {
            "list": median(lists),
            "show": median(shows),
            "disk": self.catalog().stat().st_size / 1e6,
        }


async def _milliseconds(asking: Awaitable[object]) -> float:
    with Clock() as clock:
        await asking
    return clock.seconds * 1000


class Cluster(_Leveret):
    """Coordinator and workers in processes of their own."""

    about = About(
        title="leveret",
        packages=["leveret", "aiormq", "aiosqlite"],
        durable="every run and every step: catalog with synchronous=FULL, persistent messages, "
        "confirmed, acknowledged after the outcome is",
        settings="signed payloads; a folder as the payload store; one child process a worker",
        not_asked="leases, retries, shipped code, encryption",
    )

    first = FIRST

    def catalog(self) -> Path:
        return self.site.folder / "catalog.sqlite"

    async def start(self) -> None:
        environment = self.environment()
        coordinator = module("leveret", "coordinator", "--catalog", str(self.catalog()))
        self.spawn("coordinator", coordinator, "coordinator ready", environment)
        slots = self.shape.slots
        bound = [] if slots is None else ["--slots", str(max(1, slots // self.shape.workers))]
        worker = module("leveret", "worker", "--processes", "1", *bound, APP)
        for _ in range(self.shape.workers):
            self.spawn("worker", worker, "worker ready", environment)
        self.wait_ready()
        await self.enter(
            leveret.connect(
                self.site.urls["rabbitmq"],
                project=PROJECT,
                key=environment["LEVERET_KEY"],
                payload_store=environment["LEVERET_PAYLOAD_STORE"],
            )
        )

    def environment(self) -> Mapping[str, str]:
        return {
            "LEVERET_URL": self.site.urls["rabbitmq"],
            "LEVERET_PROJECT": PROJECT,
            "LEVERET_KEY": fresh_key(),
            "LEVERET_PAYLOAD_STORE": str(self.site.folder / "payloads"),
        }


class Embedded(_Leveret):
    """Everything in the client's process, sync tasks in its children."""

    about = About(
        title="leveret, embedded",
        packages=["leveret", "aiosqlite"],
        durable="nothing: the catalog is in memory, as it is without `state=`",
        settings="none",
        not_asked="to keep its catalog in a folder",
    )

    first = FIRST

    async def start(self) -> None:
        workers, slots = self.shape.workers, self.shape.slots
        await self.enter(leveret.local(PROJECT, processes=workers, slots=slots, state=self.state()))

    def state(self) -> Path | None:
        """Where it keeps its catalog, if anywhere."""
        return None


class EmbeddedState(Embedded):
    """The same with its catalog in a folder."""

    about = replace(
        Embedded.about,
        title="leveret, embedded, state=",
        durable="every run and every step: catalog with synchronous=FULL",
        settings="state=, a folder",
        not_asked="to survive the loss of the machine",
    )

    def state(self) -> Path:
        return self.site.folder / "state"

    def catalog(self) -> Path:
        return self.state() / "catalog.sqlite"

    def environment(self) -> Mapping[str, str]:
        return {"LEVERET_STATE": str(self.site.folder / "first")}
