"""Something that is not answered yet: written on one thread, awaited on any event loop."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

from leveret_broker import messages
from leveret_broker.lifecycle import LoopMailbox


class Pending:
    """What is known of one run or request so far."""

    def __init__(self, submission: messages.Submission | None = None) -> None:
        self.submission = submission
        """What asks for the run, until it has ended."""
        self.attempt = 0
        """The earliest attempt that can be the last: a retry has made it."""
        self.round = 0 if submission is None else submission.round
        """The round of its workflow in which it is asked for."""
        self.is_unwanted = False
        """Whether its caller has given it up."""
        self.accepted: messages.Accepted | None = None
        self.answer: messages.Wire | None = None
        """The last word: how the run ended, or the reply to the request."""
        self.error: Exception | None = None
        """Why there will be no answer."""
        self.unserved: list[messages.Unserved] = []
        self._waiting: dict[asyncio.Future[None], LoopMailbox] = {}
        self._lock = threading.Lock()

    @property
    def is_settled(self) -> bool:
        return self.answer is not None or self.error is not None

    @property
    def is_accepted(self) -> bool:
        return self.accepted is not None or self.is_settled

    def is_beyond(self, end: messages.Finished) -> bool:
        """Whether this is the end of an earlier life of the run, told once more or too late."""
        if end.attempt < self.attempt:
            return True
        return end.parent_round < self.round and end.state != "succeeded"

    def update(self, change: Callable[["Pending"], None]) -> None:
        """Change it and wake all who wait."""
        with self._lock:
            change(self)
            waiting, self._waiting = self._waiting, {}
        for future, mailbox in waiting.items():
            mailbox.post(partial(_wake, future))

    def settle(self, answer: messages.Wire) -> None:
        """Give the answer."""
        self.update(lambda pending: setattr(pending, "answer", answer))

    def fail(self, error: Exception) -> None:
        """Say why there will be none."""
        self.update(lambda pending: setattr(pending, "error", error))

    async def until(self, ready: Callable[["Pending"], bool]) -> None:
        """Return when `ready` holds; it is asked again after every update."""
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if ready(self):
                    return
                future = loop.create_future()
                self._waiting[future] = mailbox_of(loop)
            try:
                await future
            finally:
                self._waiting.pop(future, None)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMailbox] = WeakKeyDictionary()


def mailbox_of(loop: asyncio.AbstractEventLoop) -> LoopMailbox:
    """The loop's mailbox, the same each time."""
    mailbox = _mailboxes.get(loop)
    if mailbox is None:
        mailbox = _mailboxes[loop] = LoopMailbox(loop)
    return mailbox
