"""DBOS: durable workflows in the client's own process, in a database."""

import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from benchmarks import jobs
from benchmarks.peer import About, Job, Peer

dbos = import_module("dbos")
DBOS = dbos.DBOS
FUNCTIONS = {
    name: DBOS.workflow(name=name)(function)
    for name, function in {
        "noop": jobs.noop,
        "nap": jobs.nap,
        "block": jobs.block,
        "burn": jobs.burn,
        "shift": jobs.shift,
    }.items()
}
FUNCTIONS["noop_sync"] = FUNCTIONS["noop"]
step = DBOS.step(name="step")(jobs.step)


def _chain(number: int, steps: int) -> int:
    for _ in range(steps):
        number = step(number)
    return number


chain = DBOS.workflow(name="chain")(_chain)


def configuration() -> dict[str, Any]:
    """What every process of it has."""
    url = os.environ["BENCH_DBOS"]
    return {"name": "bench", "system_database_url": url, "console_log_level": "ERROR"}


class Sqlite(Peer):
    """With an SQLite file."""

    about = About(
        title="DBOS, SQLite",
        packages=["dbos", "sqlalchemy"],
        durable="every workflow and every step, in the database",
        settings="threads of the client's process: queues, which other processes serve, are polled "
        "once a second; as many threads as there are slots",
        not_asked="to run in processes of its own, or to survive the loss of the machine",
    )
    imported = "from dbos import DBOS"
    first = """
from benchmarks.peers.dbos import DBOS, FUNCTIONS, configuration

DBOS(config=configuration())
DBOS.launch()
print(FUNCTIONS["noop"](1), flush=True)
DBOS.destroy()
"""

    async def start(self) -> None:
        logging.getLogger("dbos").setLevel(logging.ERROR)
        os.environ["BENCH_DBOS"] = self.url()
        threads = {} if self.shape.slots is None else {"max_executor_threads": self.shape.slots}
        DBOS(config={**configuration(), **threads})
        DBOS.launch()

    def url(self) -> str:
        """Of the database."""
        return f"sqlite:///{self.site.folder}/dbos.sqlite"

    async def stop(self) -> None:
        DBOS.destroy()
        await super().stop()

    async def submit(self, job: Job, arguments: Sequence[Any]) -> Sequence[Any]:
        function = FUNCTIONS[job]
        return [DBOS.start_workflow(function, argument) for argument in arguments]

    async def collect(self, submitted: Sequence[Any]) -> Sequence[Any]:
        return [handle.get_result() for handle in submitted]

    async def call(self, job: Job, argument: Any) -> Any:
        return FUNCTIONS[job](argument)

    async def workflows(self, number: int, steps: int, at_once: int) -> Sequence[int]:
        running: deque[Any] = deque()
        ends: list[int] = []
        for first in range(number):
            if len(running) == at_once:
                ends.append(running.popleft().get_result())
            running.append(DBOS.start_workflow(chain, first, steps))
        return [*ends, *(handle.get_result() for handle in running)]


class Postgres(Sqlite):
    """With a PostgreSQL server."""

    about = replace(
        Sqlite.about, title="DBOS, PostgreSQL", packages=["dbos", "sqlalchemy", "psycopg"]
    )

    def url(self) -> str:
        return self.site.urls["postgres"]
