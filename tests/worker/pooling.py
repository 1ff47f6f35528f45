"""Jobs for pools of child processes, and reading how they ended."""

import contextlib
import os
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Literal

from leveret.keys import Keyring
from leveret.payload import Context, encode_arguments, seal, unseal
from leveret.sealing import PayloadOptions
from leveret_worker.functions import refer
from leveret_worker.processes import Ending, Job, ProcessPool

KEY = b"only those who know may make pickles"
KEYS = Keyring(keys=(KEY,))
RUN = "run_00000000000000000000000001"


@contextlib.asynccontextmanager
async def a_pool(
    size: int = 1, *, keys: Keyring | None = KEYS, grace: float = 30.0, start_timeout: float = 60.0
) -> AsyncGenerator[ProcessPool]:
    pool = ProcessPool(
        size=size,
        keys=keys,
        payloads=PayloadOptions(most=1 << 30),
        grace=grace,
        start_timeout=start_timeout,
    )
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


def a_job(fn: Callable[..., Any], *args: object, keys: Keyring | None = KEYS) -> Job:
    return Job(
        run=RUN,
        attempt=1,
        project="vision",
        definition="vision:f:0",
        function=refer(fn),
        arguments=seal(encode_arguments(args, {}), keys=keys, context=_context("arguments")),
    )


async def result_of(pool: ProcessPool, fn: Callable[..., Any], *args: object) -> Any:
    """What a job returns; fails with the failure's text if it does not."""
    return opened(await pool.run(a_job(fn, *args)))


def opened(ending: Ending, *, keys: Keyring | None = KEYS) -> Any:
    assert ending.failure is None, ending.failure
    assert ending.result is not None
    return unseal(ending.result, keys=keys, context=_context("result"))


def is_alive(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_running(pid: int) -> bool:
    """Whether there is such a process, not counting one that only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait, with a deadline, for what another process does."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def text_in(file: Path) -> str:
    """What another process wrote into a file, as soon as it has."""
    wait_until(lambda: file.exists() and file.read_text())
    return file.read_text()


def _context(direction: Literal["arguments", "result"]) -> Context:
    return Context(project="vision", run=RUN, definition="f", direction=direction)
