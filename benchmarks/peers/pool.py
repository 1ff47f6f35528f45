"""concurrent.futures.ProcessPoolExecutor: what two processes can do with nothing in between."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks import jobs
from benchmarks.peer import About, Job, Peer, Unsupported, at_a_time

FUNCTIONS: Mapping[Job, Callable[[Any], Any]] = {
    "noop": jobs.noop,
    "noop_sync": jobs.noop,
    "nap": jobs.nap,
    "block": jobs.block,
    "burn": jobs.burn,
    "shift": jobs.shift,
}


class Pool(Peer):
    """The floor."""

    about = About(
        title="ProcessPoolExecutor",
        durable="nothing",
        settings="none",
        not_asked="anything: its workflows are loops in the client",
    )
    imported = "from concurrent.futures import ProcessPoolExecutor"
    first = """
from concurrent.futures import ProcessPoolExecutor
from benchmarks.jobs import noop

if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(pool.submit(noop, 1).result(), flush=True)
"""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._pool = ProcessPoolExecutor(self.shape.workers)  # it starts none before it is used

    async def start(self) -> None:
        slots = self.shape.slots or self.shape.workers
        if slots > self.shape.workers:
            raise Unsupported(f"{slots} tasks at a time would take {slots} processes")

    async def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def submit(self, job: Job, arguments: Sequence[Any]) -> Sequence[Any]:
        return [self._pool.submit(FUNCTIONS[job], argument) for argument in arguments]

    async def collect(self, submitted: Sequence[Any]) -> Sequence[Any]:
        return [future.result() for future in submitted]

    async def call(self, job: Job, argument: Any) -> Any:
        return self._pool.submit(FUNCTIONS[job], argument).result()

    async def workflows(self, number: int, steps: int, at_once: int) -> Sequence[int]:
        loop = asyncio.get_running_loop()

        async def one(end: int) -> int:
            for _ in range(steps):
                end = await loop.run_in_executor(self._pool, jobs.step, end)
            return end

        return await at_a_time(one, number, at_once)
