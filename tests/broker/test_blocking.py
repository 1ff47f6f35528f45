"""What blocks does so on threads, few at a time, and no loop waits for it."""

import asyncio
import threading

import pytest

from leveret_broker.blocking import THREADS, in_thread


async def test_what_blocks_holds_up_no_loop() -> None:
    released = threading.Event()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(in_thread(released.wait))
        await in_thread(lambda: None)  # the loop, and other threads, go on
        assert not waiting.done()
        released.set()

    assert waiting.result() is True


async def test_what_it_raises_is_raised() -> None:
    def fail() -> None:
        raise ZeroDivisionError("of the user's")

    with pytest.raises(ZeroDivisionError, match="of the user's"):
        await in_thread(fail)


async def test_few_threads_do_everything() -> None:
    names: set[str | None] = set()

    await asyncio.gather(
        *(in_thread(lambda: names.add(str(threading.get_ident()))) for _ in range(100))
    )

    assert 1 <= len(names) <= THREADS
