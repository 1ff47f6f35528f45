"""What a pool of child processes does while nobody dies."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from leveret.keys import Keyring
from leveret_broker.lifecycle import IoThread
from leveret_worker.errors import PoolStopped
from leveret_worker.processes import Ending, ProcessPool
from tests.worker.apps import jobs
from tests.worker.pooling import (
    KEY,
    KEYS,
    RUN,
    a_job,
    a_pool,
    is_alive,
    is_running,
    opened,
    result_of,
    text_in,
    wait_until,
)

SCRIPTS = Path(__file__).parent / "apps"
WITH_TESTS = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


# -- running --------------------------------------------------------------------------------------


async def test_a_job_runs_in_another_process_on_its_main_thread() -> None:
    async with a_pool() as pool:
        assert await result_of(pool, jobs.add, 1, 2) == 3
        assert await result_of(pool, jobs.pid) != os.getpid()
        assert await result_of(pool, jobs.is_main_thread)


async def test_two_jobs_are_inside_at_once(tmp_path: Path) -> None:
    async with a_pool(2) as pool:
        pids = await asyncio.gather(
            *(result_of(pool, jobs.meet, str(tmp_path), name, 1) for name in "ab")
        )
    assert len({*pids, os.getpid()}) == 3


async def test_a_child_is_kept_and_there_are_never_more_than_the_size() -> None:
    async with a_pool(2) as pool:
        pids = await asyncio.gather(*(result_of(pool, jobs.pid) for _ in range(50)))
        assert len(set(pids)) <= 2
        assert await result_of(pool, jobs.pid) in pids


async def test_values_of_the_users_own_classes_go_and_come_back_signed() -> None:
    async with a_pool() as pool:
        moved = await result_of(pool, jobs.move, jobs.Point(1), 2)
    assert isinstance(moved, jobs.Point)
    assert moved.x == 3


async def test_without_a_key_plain_values_pass_and_a_pickle_is_a_failure() -> None:
    async with a_pool(keys=None) as pool:
        assert opened(await pool.run(a_job(jobs.add, 1, 2, keys=None)), keys=None) == 3
        ending = await pool.run(a_job(jobs.new_point, keys=None))
    assert ending.failure is not None
    assert ending.failure.type == "leveret.errors.PayloadError"
    assert "pickle" in ending.failure.message


async def test_a_child_refuses_what_is_unsigned_unless_its_worker_accepts_that() -> None:
    job = a_job(jobs.add, 1, 2, keys=None)
    async with a_pool() as pool:
        ending = await pool.run(job)
    assert ending.failure is not None
    assert "it isn't signed, and this process has a key" in ending.failure.message
    async with a_pool(keys=replace(KEYS, accepts_unsigned=True)) as pool:
        assert opened(await pool.run(job)) == 3


async def test_a_task_knows_its_run_and_can_call_no_other() -> None:
    async with a_pool() as pool:
        here = {"run": RUN, "project": "vision", "kind": "task", "root": RUN}
        assert await result_of(pool, jobs.whereabouts) == here
        assert await result_of(pool, jobs.call_a_task) == "NestedCallError"


async def test_the_function_of_a_definition_is_found() -> None:
    async with a_pool() as pool:
        assert await result_of(pool, jobs.decorated.fn, 1) == 2


async def test_a_local_function_travels_with_what_it_closes_over() -> None:
    step = 5

    def climb(height: int) -> int:
        return height + step

    async with a_pool() as pool:
        assert await result_of(pool, climb, 10) == 15


async def test_a_frame_of_100_mb_passes() -> None:
    async with a_pool() as pool:
        assert len(await result_of(pool, jobs.double, bytes(50_000_000))) == 100_000_000


async def test_a_folder_put_on_the_path_later_reaches_a_child_that_runs_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latecomer.py").write_text("def here(): return True")
    async with a_pool() as pool:
        await result_of(pool, jobs.nothing)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        assert await result_of(pool, jobs.import_latecomer)


async def test_a_pool_works_on_a_loop_outside_the_main_thread(tmp_path: Path) -> None:
    async def in_thread() -> tuple[int, Ending]:
        pool = ProcessPool(size=1, keys=KEYS)
        await pool.start()
        running = asyncio.create_task(pool.run(a_job(jobs.hold, str(started), str(finished))))
        pid = int(await asyncio.to_thread(text_in, started))
        running.cancel()
        await asyncio.wait([running])
        ending = await pool.run(a_job(jobs.add, 1, 2))
        await pool.stop()
        return pid, ending

    started, finished = tmp_path / "started", tmp_path / "finished"
    thread = IoThread()
    thread.start()
    try:
        pid, ending = await thread.call(in_thread())
    finally:
        thread.stop()
    assert opened(ending) == 3
    assert finished.exists()
    assert not is_alive(pid)


# -- failures of the user's code ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "type_", "message"),
    [
        (jobs.fail, "ValueError", "went wrong"),
        (jobs.system_exit, "SystemExit", "leaving"),
        (jobs.interrupt, "KeyboardInterrupt", ""),
        (jobs.exhaust_memory, "MemoryError", ""),
        (jobs.unsendable, "leveret.errors.PayloadError", "the result of vision:f:0"),
    ],
)
async def test_what_a_task_raises_fails_its_run_and_its_child_lives_on(
    fn: jobs.Function, type_: str, message: str
) -> None:
    async with a_pool() as pool:
        pid = await result_of(pool, jobs.pid)
        ending = await pool.run(a_job(fn))
        assert ending.result is None
        assert ending.error is not None
        assert ending.failure is not None
        assert ending.failure.type == type_
        assert message in ending.failure.message
        assert await result_of(pool, jobs.pid) == pid


async def test_a_traceback_begins_in_the_tasks_own_code() -> None:
    async with a_pool() as pool:
        ending = await pool.run(a_job(jobs.fail))
    assert ending.failure is not None
    assert "in fail" in ending.failure.traceback
    assert "leveret_worker" not in ending.failure.traceback


async def test_arguments_that_were_made_for_another_key_fail_the_run() -> None:
    async with a_pool() as pool:
        ending = await pool.run(
            a_job(jobs.add, 1, 2, keys=Keyring(keys=(b"a key that nobody here knows about..",)))
        )
    assert ending.failure is not None
    assert ending.failure.type == "leveret.errors.PayloadError"


# -- cancelling -----------------------------------------------------------------------------------


async def test_cancelling_lets_the_task_unwind_and_disturbs_no_other(tmp_path: Path) -> None:
    started, finished = tmp_path / "started", tmp_path / "finished"
    other_started, release = tmp_path / "other-started", tmp_path / "release"
    async with a_pool(2) as pool:
        held = asyncio.create_task(pool.run(a_job(jobs.hold, str(started), str(finished))))
        other = asyncio.create_task(
            pool.run(a_job(jobs.wait_for, str(other_started), str(release)))
        )
        pid = int(await asyncio.to_thread(text_in, started))
        other_pid = int(await asyncio.to_thread(text_in, other_started))
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        assert finished.exists()
        assert not is_alive(pid)
        assert await result_of(pool, jobs.pid) not in (pid, other_pid)
        release.touch()
        assert opened(await other) == other_pid


async def test_a_task_that_will_not_unwind_is_killed_after_the_grace(tmp_path: Path) -> None:
    started, finished = tmp_path / "started", tmp_path / "finished"
    async with a_pool(grace=0.1) as pool:
        held = asyncio.create_task(pool.run(a_job(jobs.hold, str(started), str(finished), True)))
        pid = int(await asyncio.to_thread(text_in, started))
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        assert not is_alive(pid)
        assert not finished.exists()
        assert await result_of(pool, jobs.add, 1, 2) == 3


async def test_a_cancelled_job_that_waited_never_runs(tmp_path: Path) -> None:
    started, release, never = tmp_path / "started", tmp_path / "release", tmp_path / "never"
    async with a_pool() as pool:
        first = asyncio.create_task(pool.run(a_job(jobs.wait_for, str(started), str(release))))
        second = asyncio.create_task(pool.run(a_job(jobs.hold, str(never), str(never))))
        pid = int(await asyncio.to_thread(text_in, started))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        release.touch()
        assert opened(await first) == pid
        assert await result_of(pool, jobs.pid) == pid
    assert not never.exists()


async def test_cancelling_at_any_moment_of_a_childs_start_leaves_a_pool_that_works() -> None:
    async with a_pool() as pool:
        for delay in (0, 0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.run(a_job(jobs.sleep, 60)), delay)
        assert await result_of(pool, jobs.add, 1, 2) == 3


# -- what a child shares with others --------------------------------------------------------------


async def test_signals_to_the_whole_process_group_leave_the_ending_to_the_worker() -> None:
    async with a_pool() as pool:
        pid = await result_of(pool, jobs.pid)
        assert await result_of(pool, jobs.interrupt_own_group) == "still here"
        assert await result_of(pool, jobs.pid) == pid


async def test_a_process_that_a_task_forks_ends_at_sigterm_like_any_other() -> None:
    async with a_pool() as pool:
        assert await result_of(pool, jobs.end_a_fork) == -15


async def test_a_child_has_the_key_neither_in_its_arguments_nor_in_its_environment() -> None:
    async with a_pool() as pool:
        texts = [*await result_of(pool, jobs.environment), *await result_of(pool, jobs.command)]
    assert not [text for text in texts if KEY.decode() in text]


async def test_a_program_that_a_task_starts_inherits_nothing_of_the_child() -> None:
    async with a_pool() as pool:
        assert await result_of(pool, jobs.open_descriptors) == ["0", "1", "2", "3"]  # 3 lists them


async def test_prints_appear_while_the_child_lives_and_input_is_empty(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with a_pool() as pool:
        await result_of(pool, jobs.say, "hello from the child")
        assert capfd.readouterr().out == "hello from the child\n"
        assert await result_of(pool, jobs.read_stdin) == ""


def test_a_script_without_a_main_guard_runs_once_with_classes_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "unguarded.py"], capture_output=True, text=True, env=WITH_TESTS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the script runs", "moved to 3"]


# -- stopping -------------------------------------------------------------------------------------


async def test_stopping_leaves_no_process_and_tells_those_who_wait(tmp_path: Path) -> None:
    started, finished = tmp_path / "started", tmp_path / "finished"
    pool = ProcessPool(size=2, keys=KEYS)
    await pool.start()
    idle = await result_of(pool, jobs.pid)
    running = [
        asyncio.create_task(pool.run(a_job(jobs.hold, str(started), str(finished)))),
        asyncio.create_task(pool.run(a_job(jobs.sleep, 60))),
        asyncio.create_task(pool.run(a_job(jobs.nothing))),
    ]
    pid = int(await asyncio.to_thread(text_in, started))
    await pool.stop()
    for run in running:
        with pytest.raises(PoolStopped):
            await run
    assert finished.exists()
    assert not is_alive(pid)
    assert not is_alive(idle)
    with pytest.raises(PoolStopped):
        await pool.run(a_job(jobs.nothing))


async def test_stopping_twice_or_before_the_start_is_fine() -> None:
    pool = ProcessPool(size=1, keys=None)
    await pool.stop()
    await pool.start()
    await pool.stop()
    await pool.stop()


def test_children_unwind_and_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    started, finished, forked = (tmp_path / name for name in ("started", "finished", "forked"))
    arguments = map(str, (SCRIPTS / "parent.py", started, finished, forked))
    with subprocess.Popen([sys.executable, *arguments], env=WITH_TESTS) as parent:
        pid, grandchild = int(text_in(started)), int(text_in(forked))
        parent.kill()
    try:
        wait_until(lambda: not is_running(pid))
        assert finished.exists()
    finally:
        os.kill(grandchild, 9)
