"""The thread that keeps connections."""

import asyncio
import threading
from collections.abc import Generator
from functools import partial

import pytest

from leveret_broker.lifecycle import IoThread


@pytest.fixture
def thread() -> Generator[IoThread]:
    made = IoThread()
    made.start()
    yield made
    made.stop()


async def where() -> str:
    return threading.current_thread().name


async def test_a_call_runs_on_the_thread(thread: IoThread) -> None:
    assert await thread.call(where()) == "leveret-io"
    assert threading.current_thread().name != "leveret-io"


async def test_an_error_comes_back_to_the_caller(thread: IoThread) -> None:
    async def fail() -> None:
        raise ValueError("from there")

    with pytest.raises(ValueError, match="from there"):
        await thread.call(fail())


async def test_cancelling_a_call_cancels_it_there(thread: IoThread) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    call = asyncio.ensure_future(thread.call(wait()))
    assert await asyncio.to_thread(started.wait, 5)
    call.cancel()
    assert await asyncio.to_thread(cancelled.wait, 5)


def test_posted_functions_run_in_order(thread: IoThread) -> None:
    seen: list[int] = []
    done = threading.Event()
    for number in range(1000):
        thread.post(partial(seen.append, number))
    thread.post(done.set)
    assert done.wait(5)
    assert seen == list(range(1000))


def test_a_failing_posted_function_stops_no_other(
    thread: IoThread, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    def fail() -> None:
        raise ValueError("a bug")

    thread.post(fail)
    thread.post(done.set)
    assert done.wait(5)
    assert "posted function" in caplog.text


def test_stopping_ends_what_still_runs() -> None:
    thread = IoThread()
    thread.start()
    ended = threading.Event()

    async def run_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    future = thread.submit(run_on())
    thread.submit(where()).result(5)
    thread.stop()
    assert ended.is_set()
    assert future.cancelled()


def test_posting_after_the_end_is_dropped() -> None:
    thread = IoThread()
    thread.start()
    thread.stop()
    thread.post(lambda: pytest.fail("ran"))


def test_starting_and_stopping_again_and_again() -> None:
    before = threading.active_count()
    for _ in range(30):
        thread = IoThread()
        thread.stop()
        thread.start()
        thread.post(lambda: None)
        thread.stop()
        thread.stop()
    assert threading.active_count() == before
