"""What was committed goes out, now or later; what the broker confirmed is written down.

Rules:

- What the broker confirmed is written with the next batch, or soon after when there is none. Killed
  before, it is published twice.
- After a failure, and at the start, all that the catalog still owes goes out again: a *backlog*, a
  page at a time between the batches.
"""

from collections.abc import Callable, Container, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

from leveret_broker.clock import Clock
from leveret_broker.transport import Transport
from leveret_coordinator import parcels
from leveret_coordinator.alarm import Alarm, Backoff
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.outbox import Backlog, Outbox, Sent
from leveret_coordinator.records import Confirmed, RefusedAttempt, Waiter


class Publisher:
    """Publishes parcels, and knows what is to be published again and what to be written.

    `confirm_after`, `retry_first` and `retry_longest` are seconds; `page` is a number of runs.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        wake: Callable[[], None],
        *,
        confirm_after: float,
        retry_first: float,
        retry_longest: float,
        page: int,
    ) -> None:
        self._clock = clock
        self._outbox = Outbox(transport)
        self._backoff = Backoff(retry_first, retry_longest)
        self._confirm = Alarm(clock, wake)
        self._retry = Alarm(clock, wake)
        self._confirm_after = confirm_after
        self._page = page
        self._confirmed = Confirmed()
        self._sendings = count(1)
        self._told: dict[Waiter, int] = {}
        """By which sending each session was told last of each end, while that is on its way."""
        self._backlog: Backlog | None = None
        self._unpublishable: list[RefusedAttempt] = []
        self._deaf: dict[str, float] = {}
        """Work queues that took nothing the last time, and since when that is so."""
        self._sent_at = float("-inf")

    @property
    def has_backlog(self) -> bool:
        return self._backlog is not None

    @property
    def is_backlog_due(self) -> bool:
        return self._retry.is_due and self._backlog is None

    @property
    def is_confirmation_due(self) -> bool:
        return self._confirm.is_due

    @property
    def is_mending(self) -> bool:
        """Whether what failed goes out again already, or will."""
        return self._backlog is not None or self._retry.is_set

    @property
    def owes_answers(self) -> bool:
        """Whether something is to go out again that the catalog doesn't remember."""
        return self._outbox.has_unsent or (self._backlog is not None and self._backlog.has_unsent)

    @property
    def has_unpublishable(self) -> bool:
        return bool(self._unpublishable)

    def take_unpublishable(self) -> list[RefusedAttempt]:
        """Attempts whose invocations the broker refuses for what they are."""
        refused, self._unpublishable = self._unpublishable, []
        return refused

    async def send(self, packed: Sequence[parcels.Parcel]) -> None:
        """Publish. What fails is tried again later."""
        if await self._publish(packed):
            self._try_later()
        elif self._backlog is None and not self._retry.is_set:
            self._backoff.reset()

    @contextmanager
    def later_on_failure(self) -> Generator[None, None, None]:
        """What is committed and fails to be published is published from the catalog later."""
        try:
            yield
        except Exception:
            self._try_later()
            raise

    async def _publish(self, packed: Sequence[parcels.Parcel]) -> bool:
        """Whether some of it is to be tried again."""
        if not packed:
            return False
        number = next(self._sendings)
        told = [waiter for parcel in packed for waiter in parcel.settles.settled]
        self._told.update(dict.fromkeys(told, number))
        try:
            sent = await self._outbox.send(packed)
        finally:
            last = self._last_told(told, number)
        self._note_deaf(packed, sent)
        self._note_confirmed(sent.confirmed, last)
        self._unpublishable += sent.refused
        return sent.has_failed

    def _last_told(self, told: Sequence[Waiter], number: int) -> Container[Waiter]:
        """Those of them that were not told again meanwhile: that other answer may be lost."""
        mine = {waiter for waiter in told if self._told.get(waiter) == number}
        for waiter in mine:
            del self._told[waiter]
        return mine

    def _note_confirmed(self, confirmed: Confirmed, told: Container[Waiter]) -> None:
        if confirmed:
            settled = tuple(waiter for waiter in confirmed.settled if waiter in told)
            self._confirmed += replace(confirmed, settled=settled)
            self._confirm.set(self._confirm_after)

    def _note_deaf(self, packed: Sequence[parcels.Parcel], sent: Sent) -> None:
        """Which work queues take nothing while the broker takes other messages."""
        now = self._clock.now()
        if sent.has_sent:
            self._sent_at = now
        for queue in {parcel.message.queue or "" for parcel in packed if parcel.is_invocation}:
            if queue in sent.silent:  # for as long as a publication may take
                self._deaf[queue] = float("-inf")
            elif queue in sent.deaf:
                self._deaf.setdefault(queue, now)
            else:
                self._deaf.pop(queue, None)

    def deaf_queues(self, *, since: float) -> list[str]:
        """Work queues that have taken nothing since then, though the broker took other messages.

        A queue that keeps the broker from answering at all may keep it from taking others.
        """
        deaf = [queue for queue, first in self._deaf.items() if first <= since]
        return [q for q in deaf if self._sent_at > self._deaf[q] or self._deaf[q] == float("-inf")]

    @property
    def has_silent(self) -> bool:
        """Whether a work queue keeps the broker from answering. The next publication to it would
        hold up everything else as long as the last one did."""
        return float("-inf") in self._deaf.values()

    def note_mended(self, queue: str) -> None:
        self._deaf.pop(queue, None)

    def note_not_mended(self, queue: str) -> None:
        """From now on it has to be deaf for a while, again, before it is looked at."""
        self._deaf[queue] = self._clock.now()

    def _try_later(self) -> None:
        if not self._retry.is_set:
            self._retry.set(self._backoff.next())

    # -- confirmations ----------------------------------------------------------------------------

    async def write_confirmed(self, catalog: Catalog) -> None:
        with self.taken_confirmed() as confirmed:
            if confirmed:
                await catalog.confirm(confirmed, now=self._clock.now())

    @contextmanager
    def taken_confirmed(self) -> Generator[Confirmed, None, None]:
        """What was confirmed so far, to be written; it was not if the block raises."""
        taken, self._confirmed = self._confirmed, Confirmed()
        self._confirm.clear()
        try:
            yield taken
        except BaseException:
            self._confirmed = taken + self._confirmed
            self._confirm.set(self._confirm_after)
            raise

    # -- the backlog ------------------------------------------------------------------------------

    def open_backlog(self, catalog: Catalog, generation: int) -> None:
        """Begin a pass over all that is to be published again."""
        self._retry.clear()
        self._backlog = Backlog(
            catalog, page=self._page, unsent=self._outbox.take_unsent(), generation=generation
        )

    async def publish_page(self, catalog: Catalog) -> None:
        """Publish the next of what the broker has not confirmed; at the end, the pass is over."""
        backlog = self._backlog
        assert backlog is not None, "there is something to publish again"
        try:
            await self.write_confirmed(catalog)  # or the page would hold it again
            packed = await backlog.next_page()
            backlog.has_failed |= await self._publish(packed)
        except Exception:
            await self._close_backlog()
            self._try_later()
            raise
        if packed:
            return
        await self._close_backlog()
        # What failed meanwhile may stand before the place that the pass had come to.
        if backlog.has_failed or self._retry.is_set:
            self._retry.clear()
            self._try_later()
        else:
            self._backoff.reset()

    async def _close_backlog(self) -> None:
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            self._outbox.put_back(backlog.take_unsent())
            await backlog.close()

    async def close(self) -> None:
        """Let go of the catalog, and wake nobody any more."""
        for alarm in (self._confirm, self._retry):
            alarm.clear()
        await self._close_backlog()
