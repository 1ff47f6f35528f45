"""What a pool of child processes does when a child dies, or does not come up."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from leveret_worker.errors import ChildDied, ChildNotStarted
from leveret_worker.functions import FunctionRef
from leveret_worker.processes import Job
from tests.worker.apps import jobs
from tests.worker.pooling import (
    RUN,
    a_job,
    a_pool,
    is_alive,
    opened,
    result_of,
    text_in,
    wait_until,
)


def children() -> set[int]:
    """The processes that this one has started."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            pid, _, rest = stat.read_text().partition(" ")
            if int(rest.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(pid))
    return found


# -- during a job ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "what"),
    [
        (a_job(jobs.crash), "was killed by signal SIGSEGV (11)"),
        (a_job(jobs.kill_itself), "was killed by signal SIGKILL (9); out of memory?"),
        (a_job(jobs.exit_with, 3), "ended with exit code 3"),
        (a_job(jobs.exit_with, 0), "ended with exit code 0"),
        (a_job(jobs.send_half_an_answer), "ended with exit code 5"),
    ],
)
async def test_a_death_says_how_and_costs_nothing_but_the_run(job: Job, what: str) -> None:
    async with a_pool() as pool:
        with pytest.raises(ChildDied) as died:
            await pool.run(job)
        assert str(died.value) == f"the process that executed it {what}"
        assert await result_of(pool, jobs.add, 1, 2) == 3


async def test_a_crash_shows_where_it_happened(capfd: pytest.CaptureFixture[str]) -> None:
    async with a_pool() as pool:
        with pytest.raises(ChildDied):
            await pool.run(a_job(jobs.crash))
    assert "in crash" in capfd.readouterr().err


async def test_a_death_disturbs_no_other_child(tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    async with a_pool(2) as pool:
        other = asyncio.create_task(pool.run(a_job(jobs.wait_for, str(started), str(release))))
        pid = int(await asyncio.to_thread(text_in, started))
        with pytest.raises(ChildDied):
            await pool.run(a_job(jobs.crash))
        release.touch()
        assert opened(await other) == pid


async def test_a_forked_process_that_lives_on_does_not_hide_the_death(tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    async with a_pool() as pool:
        with pytest.raises(ChildDied, match="exit code 4"):
            await asyncio.wait_for(pool.run(a_job(jobs.fork_and_exit, str(grandchild))), 20)
        os.kill(int(grandchild.read_text()), signal.SIGKILL)
        assert await result_of(pool, jobs.add, 1, 2) == 3


async def test_all_who_wait_get_their_turn_though_every_child_dies() -> None:
    async with a_pool(2) as pool:
        endings = await asyncio.gather(
            *(pool.run(a_job(jobs.exit_with, 1)) for _ in range(5)),
            *(pool.run(a_job(jobs.add, 1, 2)) for _ in range(5)),
            return_exceptions=True,
        )
    assert [isinstance(ending, ChildDied) for ending in endings] == [True] * 5 + [False] * 5


async def test_an_answer_counts_though_the_child_died_right_after_it(tmp_path: Path) -> None:
    async with a_pool() as pool:
        await result_of(pool, jobs.nothing)
        file = tmp_path / "pid"
        running = asyncio.create_task(pool.run(a_job(jobs.answer_and_die, str(file))))
        await asyncio.sleep(0)
        # On purpose on the loop's own thread: it sees the answer and the exit together.
        pid = int(text_in(file))
        wait_until(lambda: not is_alive(pid))
        assert opened(await running) == "the answer"


# -- between jobs ---------------------------------------------------------------------------------


async def test_a_child_that_dies_while_idle_is_replaced_silently() -> None:
    async with a_pool() as pool:
        for _ in range(5):
            # The pool can't know yet: the job goes to the dead child first.
            os.kill(await result_of(pool, jobs.pid), signal.SIGKILL)
            assert await result_of(pool, jobs.add, 1, 2) == 3


async def test_a_child_that_dies_with_an_unread_job_hands_it_on(tmp_path: Path) -> None:
    async with a_pool() as pool:
        pid = await result_of(pool, jobs.pid)
        os.kill(pid, signal.SIGSTOP)
        runs = tmp_path / "runs"
        running = asyncio.create_task(pool.run(a_job(jobs.count_up, str(runs))))
        await asyncio.sleep(0)  # the job is in the socket of a process that stands still
        os.kill(pid, signal.SIGKILL)
        assert opened(await running) == 1


# -- at the start ---------------------------------------------------------------------------------


async def test_ctrl_c_while_a_child_starts_does_not_end_it() -> None:
    async with a_pool() as pool:
        before = children()
        running = asyncio.create_task(pool.run(a_job(jobs.add, 1, 2)))
        await asyncio.sleep(0)  # the process has begun, and is not yet Python
        (pid,) = children() - before
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert opened(await running) == 3


async def test_a_child_that_fails_to_start_says_what_it_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leveret_worker.py").write_text("raise RuntimeError('a namesake of ours')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with a_pool() as pool:
        with pytest.raises(ChildNotStarted) as failed:
            await result_of(pool, jobs.nothing)
    assert "its child process could not start: it ended with exit code 1" in str(failed.value)
    assert "a namesake of ours" in str(failed.value)


async def test_a_pool_whose_children_failed_to_start_works_once_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_pool() as pool:
        with monkeypatch.context() as broken:
            (tmp_path / "leveret_worker.py").write_text("raise SystemExit(7)")
            broken.setenv("PYTHONPATH", str(tmp_path))
            with pytest.raises(ChildNotStarted, match="ended with exit code 7"):
                await result_of(pool, jobs.nothing)
        assert await result_of(pool, jobs.add, 1, 2) == 3


async def test_a_child_that_hangs_at_its_start_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leveret_worker.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with a_pool(start_timeout=0.2) as pool:
        with pytest.raises(ChildNotStarted, match=r"after 0\.2 s without a sign of life"):
            await result_of(pool, jobs.nothing)


async def test_no_interpreter_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_pool() as pool:
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(ChildNotStarted, match="/nowhere/python"):
                await result_of(pool, jobs.nothing)
        assert await result_of(pool, jobs.add, 1, 2) == 3


async def test_a_module_that_can_not_be_imported_in_the_child_fails_the_run(tmp_path: Path) -> None:
    broken = tmp_path / "broken_here.py"
    broken.write_text("import a_package_that_nobody_has")
    ref = FunctionRef(module="broken_here", qualname="f", file=str(broken), pickled=None)
    job = a_job(jobs.nothing)
    async with a_pool() as pool:
        for _ in range(2):  # a child that tried before says the same
            ending = await pool.run(
                Job(
                    run=RUN,
                    attempt=1,
                    project="vision",
                    definition="vision:f:0",
                    function=ref,
                    arguments=job.arguments,
                )
            )
            assert ending.failure is not None
            assert ending.failure.type == "ModuleNotFoundError"
            assert "a_package_that_nobody_has" in ending.failure.message


async def test_no_descriptors_and_no_threads_are_left_behind() -> None:
    def held() -> int:
        return sum(len(list(Path("/proc/self", what).iterdir())) for what in ("fd", "task"))

    async with a_pool() as pool:
        await result_of(pool, jobs.nothing)
    before = held()
    for _ in range(3):
        async with a_pool() as pool:
            with pytest.raises(ChildDied):
                await pool.run(a_job(jobs.exit_with, 1))
            await result_of(pool, jobs.nothing)
    await asyncio.to_thread(wait_until, lambda: held() <= before + 1)  # the thread that looks
