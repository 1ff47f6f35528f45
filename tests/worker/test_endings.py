"""How executions end where user code really runs: on a loop, on threads, in child processes."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from leveret import define, payload
from leveret.context import RunContext, current_run
from leveret.definitions import Definition
from leveret_broker.messages import Control, Outcome, Stop, Verdict
from tests.worker.apps import jobs
from tests.worker.pooling import is_alive, text_in
from tests.worker.sites import Site

GRACE = 0.1
"""Seconds of the system's time for processes, and of the time by hand for all else."""


class Seen:
    """What async code leaves behind for the test."""

    def __init__(self) -> None:
        self.runs: list[RunContext] = []
        self.causes: list[BaseException] = []
        self.may_end = threading.Event()


seen = Seen()


@pytest.fixture(autouse=True)
def a_clean_slate() -> None:
    seen.runs.clear()
    seen.causes.clear()
    seen.may_end.clear()


def note_run() -> None:
    run = current_run()
    assert run is not None
    seen.runs.append(run)


@define.task
async def wait_async() -> str:
    note_run()
    try:
        await asyncio.Future()
    except BaseException as error:
        seen.causes.append(error)
        raise
    return ""


@define.workflow
async def flow() -> str:
    result: str = await wait_async.fn()
    return result


@define.task
async def raise_when_cancelled() -> None:
    note_run()
    try:
        await asyncio.Future()
    finally:
        raise ValueError("could not clean up")


@define.task
async def answer_when_cancelled() -> str:
    note_run()
    with suppress(asyncio.CancelledError):
        await asyncio.Future()
    return "done even so"


@define.task
async def never_end() -> None:
    note_run()
    while not seen.may_end.is_set():
        with suppress(asyncio.CancelledError):
            await asyncio.to_thread(seen.may_end.wait)


@define.task
async def cancel_own_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Future()


@define.task(runs_in="thread")
def wait_on_a_thread() -> None:
    note_run()
    seen.may_end.wait()


hold = define.task(jobs.hold)
crash = define.task(jobs.crash)
kill_itself = define.task(jobs.kill_itself)
fail = define.task(jobs.fail)
unbidden = define.task(jobs.unbidden)
standing = define.task(jobs.standing)
add = define.task(name="add_in_a_child")(jobs.add)

DEFINITIONS: list[Definition[..., Any]] = [
    wait_async,
    flow,
    raise_when_cancelled,
    answer_when_cancelled,
    never_end,
    cancel_own_task,
    wait_on_a_thread,
    hold,
    crash,
    kill_itself,
    fail,
    unbidden,
    standing,
    add,
]


class Endings(Site):
    """Executes one run at a time, which is called `run_1` unless the test says otherwise."""

    def __init__(self) -> None:
        super().__init__(DEFINITIONS, stop_grace=GRACE)

    async def begin(self, name: str, *arguments: object, version: str = "0", **fields: Any) -> None:
        run = fields.pop("run", "run_1")
        await self.submit(f"p:{name}:{version}", run, arguments=arguments, **fields)

    async def begun(self) -> None:
        """Wait until async code, or code on a thread, runs."""
        await self.until(lambda: seen.runs)

    async def outcome(self) -> Outcome:
        """How the first run ended."""
        await self.coordinator.until(lambda: self.coordinator.ends)
        return next(end for told in self.coordinator.outcomes for end in told.outcomes)


@pytest.fixture
async def site() -> AsyncGenerator[Endings]:
    made = Endings()
    await made.start()
    yield made
    seen.may_end.set()
    await made.stop()


def opened(outcome: Outcome) -> Any:
    assert outcome.result is not None
    context = payload.Context(project="p", run=outcome.run, definition="job", direction="result")
    return payload.unseal(outcome.result, keys=None, context=context)


# -- in a child process ---------------------------------------------------------------------------


async def test_a_sync_task_over_its_time_unwinds_and_has_ended_when_that_is_told(
    site: Endings, tmp_path: Path
) -> None:
    started, finished = tmp_path / "started", tmp_path / "finished"
    await site.begin("hold", str(started), str(finished), timeout=5)
    pid = int(await asyncio.to_thread(text_in, started))
    await site.clock.let_pass(5)
    outcome = await site.outcome()
    assert not is_alive(pid)
    assert finished.exists()
    assert outcome.state == "timed-out"
    assert outcome.failure is not None
    assert "run_1 of p:hold:0" in outcome.failure.message
    assert "timeout of 5 s for one attempt" in outcome.failure.message


async def test_a_sync_task_that_will_not_unwind_is_killed_after_the_grace(
    site: Endings, tmp_path: Path
) -> None:
    started, finished = tmp_path / "started", tmp_path / "finished"
    await site.begin("hold", str(started), str(finished), True, timeout=5)
    pid = int(await asyncio.to_thread(text_in, started))
    await site.clock.let_pass(5)
    outcome = await site.outcome()
    assert not is_alive(pid)
    assert not finished.exists()
    assert outcome.state == "timed-out"


async def test_a_sync_task_that_answers_while_it_is_stopped_has_succeeded(
    site: Endings, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    await site.begin("unbidden", str(started), timeout=5)
    await asyncio.to_thread(text_in, started)
    await site.clock.let_pass(5)
    outcome = await site.outcome()
    assert outcome.state == "succeeded"
    assert opened(outcome) == "done even so"


async def test_a_sync_task_that_is_stopped_makes_room_when_its_process_has_ended(
    site: Endings, tmp_path: Path
) -> None:
    started, finished = tmp_path / "started", tmp_path / "finished"
    await site.begin("hold", str(started), str(finished))
    pid = int(await asyncio.to_thread(text_in, started))
    await site.begin("add_in_a_child", 1, 2, run="run_2")
    await site.coordinator.tell(site.worker.id, Control(stop=(Stop(run="run_1", attempt=1),)))
    await site.coordinator.until(lambda: "run_2" in site.coordinator.ends)
    assert not is_alive(pid)
    assert site.coordinator.ends == {"run_1": "stopped", "run_2": "succeeded"}


@pytest.mark.parametrize(
    ("name", "what"),
    [("crash", "signal SIGSEGV (11)"), ("kill_itself", "signal SIGKILL (9); out of memory?")],
)
async def test_a_child_that_dies_loses_the_attempt(site: Endings, name: str, what: str) -> None:
    await site.begin(name, attempt=2)
    outcome = await site.outcome()
    assert outcome.state == "lost"
    assert (outcome.result, outcome.error) == (None, None)
    assert outcome.failure is not None
    assert outcome.failure.type == "leveret.errors.WorkerLost"
    assert outcome.failure.message == (f"the process that executed it was killed by {what}")


async def test_what_a_child_raises_is_a_failure_with_all_its_kinds(site: Endings) -> None:
    await site.begin("fail")
    outcome = await site.outcome()
    assert outcome.state == "failed"
    assert outcome.failure is not None
    assert outcome.failure.type == "ValueError"
    assert outcome.failure.kinds[0] == "ValueError"
    assert "Exception" in outcome.failure.kinds


async def test_a_child_knows_where_it_stands(site: Endings) -> None:
    await site.begin("standing", round=3)
    assert opened(await site.outcome()) == (1, 3, True)


# -- on the loop ----------------------------------------------------------------------------------


async def test_async_code_over_its_time_is_cancelled(site: Endings) -> None:
    await site.begin("wait_async", timeout=5)
    await site.begun()
    await site.clock.let_pass(5)
    outcome = await site.outcome()
    assert outcome.state == "timed-out"
    assert [type(cause) for cause in seen.causes] == [asyncio.CancelledError]
    assert seen.runs[0].abandoned, "the coordinator stops what it called"


async def test_async_code_that_raises_while_it_is_stopped_has_timed_out(site: Endings) -> None:
    await site.begin("raise_when_cancelled", timeout=5)
    await site.begun()
    await site.clock.let_pass(5)
    assert (await site.outcome()).state == "timed-out"


async def test_async_code_that_answers_while_it_is_stopped_has_succeeded(site: Endings) -> None:
    await site.begin("answer_when_cancelled", timeout=5)
    await site.begun()
    await site.clock.let_pass(5)
    outcome = await site.outcome()
    assert outcome.state == "succeeded"
    assert opened(outcome) == "done even so"


async def test_async_code_that_never_ends_is_left_to_itself(site: Endings) -> None:
    await site.begin("never_end", timeout=5)
    await site.begun()
    await site.clock.let_pass(5 + GRACE)
    assert (await site.outcome()).state == "timed-out"
    await site.begin("add_in_a_child", 1, 2, run="run_2")
    await site.coordinator.until(lambda: "run_2" in site.coordinator.ends)
    seen.may_end.set()
    assert site.coordinator.ends == {"run_1": "timed-out", "run_2": "succeeded"}


async def test_async_code_that_cancels_itself_has_failed(site: Endings) -> None:
    await site.begin("cancel_own_task")
    assert (await site.outcome()).state == "failed"


@pytest.mark.parametrize("name", ["stopped", "refused"])
async def test_a_workflow_that_another_attempt_replaces_keeps_what_it_has_called(
    site: Endings, name: str
) -> None:
    told = {
        "stopped": Control(stop=(Stop(run="run_1", attempt=1),)),
        "refused": Control(verdicts=(Verdict(run="run_1", attempt=1, granted=None),)),
    }
    await site.begin("flow", version="1")
    await site.begun()
    await site.coordinator.tell(site.worker.id, told[name])
    await site.until(lambda: seen.causes)
    assert seen.runs[0].abandoned


async def test_a_workflow_that_is_given_back_keeps_what_it_has_called(site: Endings) -> None:
    await site.begin("flow", version="1")
    await site.begun()
    await site.worker.stop(grace=0)
    assert seen.runs[0].abandoned
    assert site.coordinator.ends == {"run_1": "returned"}


@pytest.mark.parametrize(
    ("fields", "granted", "is_fresh"),
    [
        ({}, None, True),
        ({"attempt": 2}, None, False),
        ({"again": True}, 1, False),
        ({"again": True}, 2, False),
    ],
)
async def test_a_workflow_is_fresh_only_in_a_first_attempt_that_nobody_can_have_had(
    site: Endings, fields: dict[str, Any], granted: int | None, is_fresh: bool
) -> None:
    await site.begin("flow", version="1", round=4, **fields)
    if granted is not None:
        await site.coordinator.until(lambda: site.coordinator.claims)
        verdict = Verdict(run="run_1", attempt=1, granted=granted)
        await site.coordinator.tell(site.worker.id, Control(verdicts=(verdict,)))
    await site.begun()
    assert (seen.runs[0].fresh, seen.runs[0].round) == (is_fresh, 4)
    assert seen.runs[0].attempt == (granted or fields.get("attempt", 1))


# -- on a thread ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_thread_that_is_stopped_makes_room_at_once(site: Endings, cancel: bool) -> None:
    await site.begin("wait_on_a_thread", timeout=5)
    await site.begun()
    if cancel:
        await site.coordinator.tell_all(Control(stop=(Stop(run="run_1", attempt=1),)))
    else:
        await site.clock.let_pass(5)
    await site.begin("add_in_a_child", 1, 2, run="run_2")
    await site.coordinator.until(lambda: "run_2" in site.coordinator.ends)
    first = "stopped" if cancel else "timed-out"
    assert site.coordinator.ends == {"run_1": first, "run_2": "succeeded"}
