"""The steps of executing an attempt, and what comes out of them."""

import asyncio
import sys
from typing import Any, NoReturn

import pytest

from leveret import define
from leveret.context import RunContext, current_run
from leveret.payload import Context, Source, encode, encode_arguments, seal, with_inputs
from leveret.sealing import Sealer
from leveret_worker.errors import Terminated
from leveret_worker.perform import Ending, perform, perform_async
from tests.worker.pooling import KEYS, RUN, opened

SEALER = Sealer(KEYS)
CONTEXT = RunContext(
    run=RUN, attempt=1, project="vision", kind="task", definition="vision:f:0", root=RUN
)


def arguments(*args: object) -> bytes:
    context = Context(project="vision", run=RUN, definition="f", direction="arguments")
    return seal(encode_arguments(args, {}), keys=KEYS, context=context)


def failure_type(ending: Ending) -> str:
    assert ending.result is None
    assert ending.error is not None
    assert ending.failure is not None
    return ending.failure.type


def test_a_function_runs_within_its_run() -> None:
    def where(a: int) -> list[object]:
        return [a, current_run() is CONTEXT]

    assert opened(perform(where, arguments(1), run=CONTEXT, sealer=SEALER)) == [1, True]
    assert current_run() is None


def test_arguments_that_do_not_fit_fail_the_run() -> None:
    ending = perform(lambda: None, arguments(1), run=CONTEXT, sealer=SEALER)
    assert failure_type(ending) == "TypeError"


@define.task
async def produce() -> list[int]:
    return []


def _with_inputs(
    *runs: str, results_of: str = "", made_by: str = "produce"
) -> tuple[bytes, dict[str, bytes]]:
    """Arguments that name inputs, the first of them twice, and their results as they came."""
    call = take([made := produce(), made, *(produce() for _ in runs[1:])])
    context = Context(project="vision", run=RUN, definition="f", direction="arguments")
    sources = [Source(run, "produce") for run in runs]
    sealed = seal(with_inputs(call.arguments, sources), keys=KEYS, context=context)
    call.close()
    results: dict[str, bytes] = {}
    for run in runs:
        context = Context(
            project="vision", run=results_of or run, definition=made_by, direction="result"
        )
        results[run] = seal(encode([run]), keys=KEYS, context=context)
    return sealed, results


@define.task
async def take(values: list[Any]) -> None: ...


def _same(values: list[list[str]]) -> list[object]:
    return [values[0] is values[1], *values]


def test_results_stand_where_the_arguments_name_their_runs() -> None:
    sealed, results = _with_inputs("run_a", "run_b")
    ending = perform(_same, sealed, run=CONTEXT, sealer=SEALER, inputs=results)
    assert opened(ending) == [True, ["run_a"], ["run_a"], ["run_b"]]


async def test_results_reach_an_async_function_as_well() -> None:
    async def same(values: list[list[str]]) -> list[object]:
        return _same(values)

    sealed, results = _with_inputs("run_a")
    ending = await perform_async(same, sealed, run=CONTEXT, sealer=SEALER, inputs=results)
    assert opened(ending) == [True, ["run_a"], ["run_a"]]


def test_a_result_that_did_not_come_fails_the_run() -> None:
    sealed, results = _with_inputs("run_a", "run_b")
    del results["run_b"]
    ending = perform(_same, sealed, run=CONTEXT, sealer=SEALER, inputs=results)
    assert failure_type(ending) == "leveret.errors.PayloadError"


def test_the_result_of_another_run_is_taken_for_none() -> None:
    sealed, results = _with_inputs("run_a", results_of="run_other")
    ending = perform(_same, sealed, run=CONTEXT, sealer=SEALER, inputs=results)
    assert ending.failure is not None
    assert "the result of run run_a can't be read" in ending.failure.message


def _refusal(ending: Ending) -> str:
    assert ending.failure is not None
    assert ending.failure.type == "leveret.errors.PayloadError"
    return ending.failure.message


async def test_the_result_of_another_definition_is_taken_for_none() -> None:
    """Signed by a holder of the key, for that very run."""

    async def same(values: list[list[str]]) -> list[object]:
        return _same(values)

    sealed, results = _with_inputs("run_a", made_by="take")
    told = "the result of run run_a can't be read: its signature doesn't fit"
    assert told in _refusal(perform(_same, sealed, run=CONTEXT, sealer=SEALER, inputs=results))
    ending = await perform_async(same, sealed, run=CONTEXT, sealer=SEALER, inputs=results)
    assert told in _refusal(ending)


async def test_results_that_the_arguments_do_not_name_are_not_opened() -> None:
    async def same(values: list[list[str]]) -> list[object]:
        return _same(values)

    sealed, results = _with_inputs("run_a", "run_b")
    results["run_c"] = b"what nobody asked for"
    ending = perform(_same, sealed, run=CONTEXT, sealer=SEALER, inputs=results)
    assert opened(ending) == [True, ["run_a"], ["run_a"], ["run_b"]]
    ending = await perform_async(same, sealed, run=CONTEXT, sealer=SEALER, inputs=results)
    assert opened(ending) == [True, ["run_a"], ["run_a"], ["run_b"]]


def test_only_the_childs_own_ending_passes() -> None:
    def ends() -> NoReturn:
        raise Terminated

    with pytest.raises(Terminated):
        perform(ends, arguments(), run=CONTEXT, sealer=SEALER)


async def test_an_async_function_runs_within_its_run() -> None:
    async def where(a: int) -> list[object]:
        await asyncio.sleep(0)
        return [a, current_run() is CONTEXT]

    assert opened(await perform_async(where, arguments(1), run=CONTEXT, sealer=SEALER)) == [1, True]


async def test_an_async_function_that_exits_fails_its_run_only() -> None:
    async def leaves() -> NoReturn:
        sys.exit(1)

    ending = await perform_async(leaves, arguments(), run=CONTEXT, sealer=SEALER)
    assert failure_type(ending) == "SystemExit"


async def test_cancelling_passes_through_an_async_function() -> None:
    started = asyncio.Event()

    async def waits() -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(perform_async(waits, arguments(), run=CONTEXT, sealer=SEALER))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_cancellation_that_nobody_asked_for_is_a_failure() -> None:
    async def awaits_what_was_cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    ending = await perform_async(awaits_what_was_cancelled, arguments(), run=CONTEXT, sealer=SEALER)
    assert failure_type(ending) == "asyncio.exceptions.CancelledError"


async def test_a_result_that_can_not_be_sent_names_the_definition_and_the_type() -> None:
    async def opens() -> object:
        return (number for number in range(3))

    ending = await perform_async(opens, arguments(), run=CONTEXT, sealer=SEALER)
    assert ending.failure is not None
    assert ending.failure.message.startswith(
        "the result of vision:f:0 (a generator) can't be sent: "
    )
