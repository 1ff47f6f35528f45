"""The runtime of a single process: scripts, notebooks, tests, and a folder that keeps the state."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path
from typing import Any

import pytest

import leveret
from leveret import define
from leveret.pending import mailbox_of
from leveret_worker import service
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

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none

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
        namespace: dict[str, Any] = {"define": define}
        flows: list[Any] = []
        for result in (1, 2):  # as a notebook's cell that is edited and run again
            exec(f"@define.workflow\nasync def flow(): return {result}", namespace)
            flows.append(namespace["flow"])
        first, second = flows
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
        run = await client.start(on.hold_on(str(started), str(go)))
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


async def test_what_is_awaited_after_the_client_was_closed_says_so() -> None:
    async with leveret.local() as client:
        run = await client.start(on.add(1))
        other = client.run(run.id)
        await run.result()
    with pytest.raises(leveret.LeveretError, match="closed"):
        await asyncio.wait_for(other.result(), 5)


async def test_who_waits_when_the_client_is_closed_is_told(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with leveret.local() as client:
        run = await client.start(on.hold_on(str(started), str(tmp_path / "never")))
        waiting = [asyncio.ensure_future(one.result()) for one in (run, client.run(run.id))]
        await until(started.exists)
    for one in waiting:
        with pytest.raises(leveret.LeveretError, match="closed"):
            await asyncio.wait_for(one, 5)


async def test_nesting_may_be_deeper_than_a_consumer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "WORKFLOW_PREFETCH", 5)
    async with leveret.local():
        assert await on.nest(23) == 23


async def test_two_functions_of_one_name_are_told_apart() -> None:
    @define.task(name="shared")
    def one() -> int:
        return 1

    @define.task(name="shared")
    def two() -> int:
        return 2

    async with leveret.local():
        assert await one() == 1
        with pytest.raises(leveret.DefinitionError, match="different code"):
            await two()


async def test_in_a_notebook_changed_helpers_are_used() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "define": define}
    exec("def helper(): return 1\n@define.task\ndef use(): return helper()", namespace)
    async with leveret.local(processes=1):
        assert await namespace["use"]() == 1
        exec("def helper(): return 2", namespace)
        assert await namespace["use"]() == 2


def test_a_thread_that_runs_on_holds_no_program_up() -> None:
    code = """
        import asyncio, time
        from leveret import define

        @define.task(runs_in="thread")
        def forever() -> None:
            time.sleep(600)

        async def main() -> None:
            try:
                await asyncio.wait_for(forever(), 0.5)
            except TimeoutError:
                print("left")

        asyncio.run(main())
    """
    assert run_script(code, "-").stdout == "left\n"


def test_a_closed_loop_is_not_kept() -> None:
    loop = asyncio.new_event_loop()
    mailbox, kept = mailbox_of(loop), weakref.ref(loop)
    loop.close()
    assert not mailbox.post(lambda: None)
    del loop
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(
    "options", [{"slots": 0}, {"processes": 0}, {"project": ""}, {"project": "a:b"}], ids=repr
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(leveret.LeveretError):
        leveret.local(**options)
