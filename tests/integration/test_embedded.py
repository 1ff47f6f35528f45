"""The runtime of a single process: scripts, notebooks, tests, and a folder that keeps the state."""

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import leveret
from leveret import define
from tests.integration import behaviours as on
from tests.integration.conftest import until


@define.task
def meet(folder: str, name: str, others: int) -> int:
    """Wait until all are there at the same time; return the process."""
    place = Path(folder)
    (place / name).touch()
    while len(list(place.iterdir())) < others:
        pass
    return os.getpid()


def run_script(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        input=textwrap.dedent(code),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


SCRIPT = """
import asyncio
from leveret import define

LIMIT = 40

@define.task
def double(number: int) -> int:
    return min(number * 2, LIMIT)

@define.workflow
async def doubled(numbers: list[int]) -> list[int]:
    return await asyncio.gather(*[double(number) for number in numbers])

print(asyncio.run(doubled([1, 2, 30])))
"""


def test_a_script_without_a_main_guard_works(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = run_script("", str(path))
    assert (done.stdout, done.stderr, done.returncode) == ("[2, 4, 40]\n", "", 0)


def test_a_program_from_standard_input_works() -> None:
    done = run_script(SCRIPT, "-")
    assert (done.stdout, done.stderr, done.returncode) == ("[2, 4, 40]\n", "", 0)


def test_several_event_loops_share_the_process_own_client(tmp_path: Path) -> None:
    again = "print(asyncio.run(double(4)), asyncio.run(double(5)))"
    done = run_script(SCRIPT + again, "-")
    assert (done.stdout, done.stderr) == ("[2, 4, 40]\n8 10\n", "")


def test_an_interrupted_script_ends(tmp_path: Path) -> None:
    code = """
        import asyncio, os, signal
        from leveret import define

        @define.task
        async def forever() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

        asyncio.run(forever())
    """
    done = run_script(code, "-")
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode in (1, -2, 130)


async def test_a_running_loop_as_in_a_notebook_works() -> None:
    assert await on.add(1) == 2


async def test_cpu_bound_tasks_run_at_the_same_time_in_processes(tmp_path: Path) -> None:
    async with leveret.local(processes=3):
        pids = await asyncio.gather(*[meet(str(tmp_path), str(n), 3) for n in range(3)])
    assert len({*pids, os.getpid()}) == 4


async def test_slots_bound_what_executes_and_nesting_needs_none() -> None:
    async with leveret.local(slots=1):
        assert await on.nest(10) == 10
        assert await on.sum_of(list(range(1_000))) == 499_500


async def test_a_definition_made_anew_replaces_the_old_one() -> None:
    async with leveret.local() as client:
        for answer in (1, 2):

            @define.workflow(name="changing")
            async def changing(result: int = answer) -> int:
                return result

            assert await changing() == answer
        assert (await client.resolve("changing")).version == "1"


async def test_changed_code_gets_the_next_revision() -> None:
    async with leveret.local() as client:

        @define.workflow(name="flow")
        async def first() -> int:
            return 1

        @define.workflow(name="flow")
        async def second() -> int:
            return 2

        assert [await first(), await second(), await first()] == [1, 2, 1]
        assert (await client.resolve("flow")).version == "2"
        assert await (await client.start("flow:1")).result() == 1


async def test_nothing_is_written_unless_there_is_a_folder_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with leveret.local():
        assert await on.add(1) == 2
    assert list(tmp_path.iterdir()) == []


async def test_state_outlives_the_runtime(tmp_path: Path) -> None:
    async with leveret.local(state=tmp_path / "state") as client:
        run = await client.start(on.add(20, 22))
        assert await run.result() == 42
        definition = await client.resolve("add")
    async with leveret.local(state=tmp_path / "state") as client:
        assert (await client.show(run.id))[0].state == "succeeded"
        assert await client.resolve("add") == definition


async def test_what_was_under_way_goes_on_at_the_next_start(tmp_path: Path) -> None:
    go, started, state = tmp_path / "go", tmp_path / "started", tmp_path / "state"
    async with leveret.local(state=state) as client:
        run = await client.start(on.hold(str(started), str(go)))
        await until(started.exists)
    go.touch()
    async with leveret.local(state=state) as client:
        assert await client.run(run.id).result() is None


async def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    async with leveret.local(state=tmp_path):
        with pytest.raises(leveret.LeveretError, match=str(os.getpid())):
            async with leveret.local(state=tmp_path):
                pass


async def test_two_runtimes_side_by_side_know_nothing_of_each_other() -> None:
    async with leveret.local(project="one") as one, leveret.local(project="two") as two:
        run = await one.start(on.add(1))
        assert await run.result() == 2
        with pytest.raises(leveret.IdentificationError):
            await two.show(run.id)
