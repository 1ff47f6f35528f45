"""The steps of executing an attempt, and what comes out of them."""

import asyncio
import sys
from typing import NoReturn

import pytest

from leveret.context import RunContext, current_run
from leveret.payload import Context, encode_arguments, seal
from leveret.sealing import Sealer
from leveret_worker.errors import Terminated
from leveret_worker.perform import Ending, perform, perform_async
from tests.worker.pooling import KEYS, RUN, opened

SEALER = Sealer(KEYS)
CONTEXT = RunContext(
    run=RUN, attempt=1, project="vision", kind="task", definition="vision:f:0", root=RUN
)


def arguments(*args: object) -> bytes:
    context = Context(project="vision", run=RUN, direction="arguments")
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
