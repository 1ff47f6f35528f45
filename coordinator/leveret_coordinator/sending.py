"""Batches that are committed, on their way to the broker: several at a time.

The next batch need not wait until what the last one published is confirmed. A batch's deliveries
are acknowledged when all that it published is, and what looks at the outbox as a whole waits until
nothing is on its way.
"""

import asyncio
from collections.abc import Callable, Sequence

from leveret_broker import logs
from leveret_coordinator.intake import Received
from leveret_coordinator.parcels import Parcel
from leveret_coordinator.publishing import Publisher

log = logs.get_logger("leveret.coordinator")

MOST_ON_THEIR_WAY = 8
"""Batches."""


class Sending:
    """What is on its way, and what came of it. `wake` is called when a batch is done with."""

    def __init__(self, publisher: Publisher, wake: Callable[[], None]) -> None:
        self._publisher = publisher
        self._wake = wake
        self._batches: dict[asyncio.Task[None], Sequence[Received]] = {}
        self._sent: list[Received] = []
        """Published, and not acknowledged."""
        self._failed: list[Received] = []
        self._fatal: BaseException | None = None

    async def start(self, packed: Sequence[Parcel], received: Sequence[Received]) -> None:
        """Publish this, behind what is on its way already; wait only if that is much."""
        await self._fewer_than(MOST_ON_THEIR_WAY)
        if not packed:
            self._sent += received
            self.settle()
            return
        task = asyncio.get_running_loop().create_task(self._publish(packed))
        self._batches[task] = received
        task.add_done_callback(self._done)

    async def idle(self) -> None:
        """Return when nothing is on its way. Raises what is no `Exception` and ended a batch."""
        await self._fewer_than(1)

    def take_failed(self) -> list[Received]:
        """What was dealt with and failed to be published, by a fault of one of its messages."""
        failed, self._failed = self._failed, []
        return failed

    def settle(self) -> None:
        """Acknowledge what was published, unless an answer to it could not be sent yet.

        What the catalog doesn't remember would be lost with this process. Asked for once more, it
        is answered as before.
        """
        if self._publisher.owes_answers:
            return
        sent, self._sent = self._sent, []
        for each in sent:
            each.delivery.ack()

    async def close(self) -> None:
        """Give up what is on its way, and give back what is not acknowledged."""
        tasks = list(self._batches)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        sent, self._sent = self._sent, []
        for each in [*sent, *self.take_failed()]:
            each.delivery.nack()

    async def _publish(self, packed: Sequence[Parcel]) -> None:
        with self._publisher.later_on_failure():
            await self._publisher.send(packed)

    async def _fewer_than(self, most: int) -> None:
        while len(self._batches) >= most:
            await asyncio.wait(self._batches, return_when=asyncio.FIRST_COMPLETED)
        if self._fatal is not None:
            raise self._fatal

    def _done(self, task: asyncio.Task[None]) -> None:
        received = self._batches.pop(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._sent += received
            self.settle()
        elif isinstance(error, Exception):
            log.error("batch not published, each message is tried alone", error=repr(error))
            self._failed += received
        else:
            self._failed += received
            self._fatal = None if task.cancelled() else error
        self._wake()
