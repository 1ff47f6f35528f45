"""Many calls at once: `gather` as the first examples wrote it, and a bounded `map`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar, overload

T = TypeVar("T")
R = TypeVar("R")


@overload
async def gather(awaitables: Iterable[Awaitable[R]], /) -> list[R]: ...
@overload
async def gather(*awaitables: Awaitable[R]) -> list[R]: ...
async def gather(*awaitables: Any) -> list[Any]:
    """Await all at the same time and return their results in order.

    Takes a list, or the awaitables themselves. When one fails, the others are cancelled and the
    first error is raised.
    """
    if len(awaitables) == 1 and not isinstance(awaitables[0], Awaitable):
        awaitables = tuple(awaitables[0])
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def map(
    function: Callable[[T], Awaitable[R]], items: Iterable[T], *, limit: int = 100
) -> AsyncIterator[R]:
    """Call a task or workflow for each item, `limit` at a time, and yield the results in order.

    Items are taken as they are needed, so there may be millions. When a call fails, its error is
    raised in its turn and those under way are cancelled, as they are when the loop is left.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}, at least 1 is needed")
    under_way: deque[asyncio.Future[R]] = deque()
    try:
        for item in items:
            if len(under_way) == limit:
                yield await under_way[0]
                under_way.popleft()
            under_way.append(asyncio.ensure_future(function(item)))
        while under_way:
            yield await under_way[0]
            under_way.popleft()
    finally:
        for future in under_way:
            future.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
