"""Deliveries are settled exactly as was meant, with as few frames as possible."""

import pamqp.frame
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands as spec

from leveret_broker.rabbitmq_settlements import Settlements


class Outstanding:
    """What a broker makes of the frames."""

    def __init__(self) -> None:
        self.tags: set[int] = set()
        self.settled: dict[int, str] = {}

    def take(self, data: bytes) -> None:
        _, _, said = pamqp.frame.unmarshal(data)
        assert isinstance(said, spec.Basic.Ack | spec.Basic.Reject)
        tag = said.delivery_tag
        assert tag in self.tags, "a real broker closes the channel: unknown delivery tag"
        if isinstance(said, spec.Basic.Reject):
            self._settle(tag, "nack" if said.requeue else "reject")
        elif said.multiple:
            for one in [one for one in self.tags if one <= tag]:
                self._settle(one, "ack")
        else:
            self._settle(tag, "ack")

    def _settle(self, tag: int, how: str) -> None:
        self.tags.remove(tag)
        self.settled[tag] = how


STEPS = st.lists(
    st.just(("deliver", 0))
    | st.tuples(st.sampled_from(["ack", "ack", "ack", "nack", "reject"]), st.integers(0, 12))
    | st.just(("write", 0)),
    max_size=120,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(STEPS)
def test_each_delivery_is_settled_once_and_as_was_meant(steps: list[tuple[str, int]]) -> None:
    settlements, broker = Settlements(1), Outstanding()
    meant: dict[int, str] = {}
    last = 0
    for step, number in [*steps, ("write", 0)]:
        if step == "deliver":
            last += 1
            broker.tags.add(last)
            settlements.handed_out(last)
        elif step == "write":
            for frame in settlements.take():
                broker.take(frame)
            assert broker.settled == meant
        else:
            tag = max(1, last - number)
            is_first = 0 < tag <= last and tag not in meant
            if step == "ack":
                assert settlements.ack(tag) == is_first
            else:
                assert settlements.reject(tag, requeue=step == "nack") == is_first
            if is_first:
                meant[tag] = step
    assert settlements.is_empty == (not broker.tags)


def test_one_frame_acknowledges_all_up_to_the_first_that_is_held() -> None:
    settlements = Settlements(1)
    for tag in range(1, 101):
        settlements.handed_out(tag)
    for tag in (*range(1, 50), *range(51, 53)):
        settlements.ack(tag)
    said = [pamqp.frame.unmarshal(frame)[2] for frame in settlements.take()]
    told = [(one.delivery_tag, one.multiple) for one in said if isinstance(one, spec.Basic.Ack)]
    assert told == [(49, True), (51, False), (52, False)]


def test_one_that_is_held_for_long_keeps_nothing_of_the_others() -> None:
    settlements = Settlements(1)
    settlements.handed_out(1)
    for tag in range(2, 20_000):
        settlements.handed_out(tag)
        settlements.ack(tag)
        settlements.take()
    assert settlements.remembered < 200
