"""What was published on one channel and is not confirmed yet: the window of confirms.

The broker numbers what it is sent, and confirms by number, one or all up to one. A message that it
can't route comes back first, and is confirmed then like any other. It is known again by its message
id, which is its number.
"""

import asyncio
from collections.abc import Sequence
from enum import Enum
from functools import partial

import aiormq
from aiormq import exceptions

from leveret_broker import rabbitmq_frames as frames
from leveret_broker.errors import BrokerBlocked, TransportError, Unroutable
from leveret_broker.rabbitmq_connection import Deadline, is_refusal, until_closed
from leveret_broker.rabbitmq_tap import Connection, Lane
from leveret_broker.transport import Outgoing


class Unconfirmed(Enum):
    """What is known of a message that was not confirmed: nothing."""

    LOST = "lost"
    """The channel or the connection went away before."""
    LATE = "late"
    """The deadline passed before."""


Result = TransportError | Unconfirmed | None
"""`None` for confirmed."""


class Batch:
    """The messages of one call, and what became of them."""

    __slots__ = ("messages", "missing", "over", "results")

    def __init__(self, messages: Sequence[Outgoing], over: "asyncio.Future[None]") -> None:
        self.messages = messages
        self.results: list[Result] = [Unconfirmed.LATE] * len(messages)
        self.missing = len(messages)
        self.over = over
        """Done once all are confirmed, or no more can be."""

    def settle(self, index: int, *, taken: bool) -> None:
        """The broker confirmed it, or said that it didn't take it."""
        if self.results[index] is Unconfirmed.LATE:
            self.results[index] = None if taken else _not_taken()
        self.missing -= 1
        if not self.missing:
            self.finish()

    def came_back(self, index: int) -> None:
        """The broker had no queue for it."""
        self.results[index] = Unroutable(self.messages[index].queue or "")

    def finish(self) -> None:
        """What has no result by now gets none."""
        if not self.over.done():
            self.over.set_result(None)


class Window(Lane):
    """A channel in confirm mode, which any number of callers publish on at the same time."""

    def __init__(self, connection: Connection, channel: aiormq.Channel) -> None:
        super().__init__(connection.tap, channel.number)
        self.channel = channel
        self.refusal: exceptions.ChannelClosed | None = None
        """Why the broker closed the channel, if it did because of a message."""
        frame_max = connection.connection_tune.frame_max
        self._publishing = frames.Publishing(channel.number, frame_max)
        self._last = 0  # the number of the message that was sent last
        self._lowest = 1  # all below are confirmed
        self._slots: dict[int, tuple[Batch, int]] = {}
        self._batches: set[Batch] = set()
        self._for_room: list[asyncio.Future[None]] = []
        self._has_ended = False
        self.tap.add(self)
        until_closed(channel).add_done_callback(self._end)

    async def publish(self, messages: Sequence[Outgoing], deadline: Deadline) -> list[Result]:
        """One result a message, in order."""
        loop = asyncio.get_running_loop()
        batch = Batch(messages, loop.create_future())
        self._batches.add(batch)
        timer = loop.call_at(deadline.at, batch.finish)
        try:
            if messages and not self._has_ended:
                await self._send(batch)
        finally:
            timer.cancel()
            self._batches.discard(batch)
        results = batch.results
        if batch.missing and (self.is_shut or self._has_ended):
            late, lost = Unconfirmed.LATE, Unconfirmed.LOST
            return [lost if result is late else result for result in results]
        return results

    async def _send(self, batch: Batch) -> None:
        for index, message in enumerate(batch.messages):
            if self.tap.is_full:
                await self._room(batch)
            if self.is_shut or batch.over.done():
                break
            self._send_one(batch, index, message)
        await batch.over

    def _send_one(self, batch: Batch, index: int, message: Outgoing) -> None:
        number = self._last + 1
        pieces = self._publishing.pieces(message, str(number))
        self._last = number  # only now: what raised was not sent
        self._slots[number] = (batch, index)
        self.tap.write(pieces, len(message.body))

    async def _room(self, batch: Batch) -> None:
        """Wait until there is room to write, or the batch is over."""
        while self.tap.is_full and not (self.is_shut or batch.over.done()):
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._for_room.append(waiting)
            batch.over.add_done_callback(partial(_wake, waiting))
            await waiting

    # -- what the broker says ---------------------------------------------------------------------

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        if multiple:
            tag = min(tag, self._last)
            for number in range(self._lowest, tag + 1):
                self._settle(number, taken=taken)
            self._lowest = max(self._lowest, tag + 1)
        else:
            self._settle(tag, taken=taken)

    def _settle(self, number: int, *, taken: bool) -> None:
        slot = self._slots.pop(number, None)
        if slot is not None:
            slot[0].settle(slot[1], taken=taken)

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        message_id = frames.properties(header).message_id
        slot = self._slots.get(int(message_id or 0))
        if slot is not None:
            slot[0].came_back(slot[1])

    def on_room(self) -> None:
        waiting, self._for_room = self._for_room, []
        for one in waiting:
            _wake(one)

    def shut(self) -> None:
        super().shut()
        self.on_room()

    def _end(self, closed: "asyncio.Future[object]") -> None:
        """The channel is closed, and aiormq knows why."""
        self._has_ended = True
        error = None if closed.cancelled() else closed.exception()
        if isinstance(error, exceptions.ChannelClosed) and is_refusal(error):
            self.refusal = error
        self.tap.remove(self)
        self._slots.clear()
        for batch in self._batches:
            batch.finish()


def _wake(waiting: "asyncio.Future[None]", _: object = None) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _not_taken() -> BrokerBlocked:
    return BrokerBlocked("the broker refused the message: a queue's limit is reached")
