"""A program with a child that runs a task, and a forked process that holds the child's socket."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.worker.apps import jobs
from tests.worker.pooling import a_job, a_pool, text_in


async def main(started: str, finished: str, forked: str) -> None:
    async with a_pool() as pool:
        running = asyncio.create_task(pool.run(a_job(jobs.hold, started, finished)))
        await asyncio.to_thread(text_in, Path(started))
        pid = os.fork()
        if pid == 0:
            signal.pause()
        Path(forked).write_text(str(pid))
        await running


asyncio.run(main(*sys.argv[1:]))
