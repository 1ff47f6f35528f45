"""What one channel handed out and how it is settled: which frames say so, as few as possible.

One acknowledgement serves for all deliveries up to the first that is not settled. None of this
depends on how many wait to be settled.
"""

from collections import deque

from leveret_broker import rabbitmq_frames as frames


class Settlements:
    """The delivery tags of one channel. Each is settled once."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._open: set[int] = set()  # handed out, and nobody has settled them
        self._order: deque[int] = deque()  # these in the broker's order, among some settled ones
        self._acks: set[int] = set()  # settled and not written yet, like these:
        self._rejects: list[tuple[int, bool]] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to settle or to write."""
        return not (self._open or self._acks or self._rejects)

    @property
    def remembered(self) -> int:
        """Tags that it keeps something of."""
        return len(self._order)

    def handed_out(self, tag: int) -> None:
        """Tags ascend."""
        if len(self._order) > 2 * len(self._open) + 100:  # one is held back for long
            self._order = deque(
                one for one in self._order if one in self._open or one in self._acks
            )
        self._open.add(tag)
        self._order.append(tag)

    def ack(self, tag: int) -> bool:
        """Returns whether it could be settled still."""
        if tag not in self._open:
            return False
        self._open.remove(tag)
        self._acks.add(tag)
        return True

    def reject(self, tag: int, *, requeue: bool) -> bool:
        """Returns whether it could be settled still."""
        if tag not in self._open:
            return False
        self._open.remove(tag)
        self._rejects.append((tag, requeue))
        return True

    def take(self) -> list[bytes]:
        """The frames for what was settled since."""
        written = [
            frames.settling(frames.REJECT, self._channel, tag, bit=requeue)
            for tag, requeue in self._rejects
        ]
        self._rejects.clear()
        if self._acks:
            written += self._taken_acks()
        return written

    def _taken_acks(self) -> list[bytes]:
        acks, self._acks = self._acks, set()
        up_to = count = 0
        while self._order and self._order[0] not in self._open:
            tag = self._order.popleft()
            if tag in acks:
                up_to = tag
                count += 1
        written: list[bytes] = []
        if up_to:
            written.append(self._ack(up_to, multiple=count > 1))
        if count < len(acks):
            written += [self._ack(tag, multiple=False) for tag in sorted(acks) if tag > up_to]
        return written

    def _ack(self, tag: int, *, multiple: bool) -> bytes:
        return frames.settling(frames.ACK, self._channel, tag, bit=multiple)

    def forget(self) -> None:
        """None of them can be settled any more."""
        self._open.clear()
        self._order.clear()
        self._acks.clear()
        self._rejects.clear()
