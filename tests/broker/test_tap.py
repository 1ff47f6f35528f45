"""What a tap takes out of the stream, what it leaves to aiormq, and what it writes."""

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.base import Frame
from pamqp.heartbeat import Heartbeat

from leveret_broker import rabbitmq_frames as frames
from leveret_broker.rabbitmq_tap import Lane, Tap
from tests.broker.scripted import Any_, closing, content, delivery, marshal

HOT, OTHER = 1, 2


class Noting(Lane):
    """Notes what it is told."""

    def __init__(self, tap: Tap, number: int) -> None:
        super().__init__(tap, number)
        self.told: list[object] = []

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        is_return = frames.CODE.unpack_from(method)[0] == frames.RETURN
        self.told.append(("returned" if is_return else frames.delivery(method)[0], body))

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        self.told.append((tag, multiple, taken))

    def on_cancel(self) -> None:
        self.told.append("cancelled")


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_gone = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_gone


class Bench:
    """A tap with a lane, between a wire and a stream reader as aiormq has one."""

    def __init__(self, *, now: float = -1.0) -> None:
        self.now = now
        self.tap = Tap(asyncio.get_running_loop(), clock=lambda: self.now)
        self.wire = Wire()
        self.tap.connection_made(self.wire)
        self.lane = Noting(self.tap, HOT)
        self.tap.add(self.lane)

    async def rest(self) -> bytes:
        """All that aiormq would have been given."""
        self.tap.eof_received()
        return await self.tap.reader.read()


def returned(body: bytes) -> list[Any_]:
    method = spec.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="q")
    return content(method, body)


BODIES = st.binary(max_size=40)
SMALL_FRAMES = 16

Said = tuple[bytes, bytes, list[object]]
"""What is on the wire, what of it is aiormq's, and what the lane is told."""


def hot(said: Sequence[Any_], told: object) -> Said:
    return marshal(HOT, *said), b"", [told]


def cold(channel: int, *said: Any_) -> Said:
    data = marshal(channel, *said)
    return data, data, []


def delivered(tag: int, body: bytes) -> Said:
    method = spec.Basic.Deliver(consumer_tag="c", delivery_tag=tag, exchange="", routing_key="q")
    return hot(content(method, body, frame_max=SMALL_FRAMES), (tag, body))


def confirmed(tag: int, multiple: bool, taken: bool) -> Said:
    method = spec.Basic.Ack if taken else spec.Basic.Nack
    return hot([method(delivery_tag=tag, multiple=multiple)], (tag, multiple, taken))


def cancelled(_: None) -> Said:
    data = marshal(HOT, spec.Basic.Cancel(consumer_tag="c"))
    return data, data, ["cancelled"]


COLD: list[tuple[int, Frame | Heartbeat]] = [
    (0, spec.Connection.Blocked(reason="memory")),
    (0, spec.Connection.Unblocked()),
    (HOT, spec.Basic.ConsumeOk(consumer_tag="c")),
    (HOT, spec.Basic.QosOk()),
    (OTHER, spec.Queue.DeclareOk(queue="q", message_count=1, consumer_count=2)),
    (OTHER, spec.Basic.Ack(delivery_tag=1)),
]
SAID = st.one_of(
    st.builds(delivered, st.integers(1, 2**60), BODIES),
    BODIES.map(lambda body: hot(returned(body), ("returned", body))),
    st.builds(confirmed, st.integers(1, 2**60), st.booleans(), st.booleans()),
    st.none().map(cancelled),
    st.sampled_from(COLD).map(lambda one: cold(one[0], one[1])),  # type: ignore[arg-type]
    BODIES.map(lambda body: cold(OTHER, *delivery(3, body))),
    st.just((frames.HEARTBEAT_FRAME, frames.HEARTBEAT_FRAME, list[object]())),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(SAID, max_size=12), st.data())
def test_however_the_bytes_are_cut_each_frame_goes_where_it_belongs(
    said: list[Said], data: st.DataObject
) -> None:
    stream = b"".join(one[0] for one in said)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))

    async def pass_through() -> None:
        bench = Bench()
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            if start < stop:
                bench.tap.data_received(stream[start:stop])
        assert bench.lane.told == [told for one in said for told in one[2]]
        assert await bench.rest() == b"".join(one[1] for one in said)

    asyncio.run(pass_through())


def sample() -> tuple[bytes, bytes]:
    """One of everything, and what of it is aiormq's."""
    before = marshal(HOT, spec.Basic.ConsumeOk(consumer_tag="c"))
    after = marshal(OTHER, spec.Queue.DeclareOk(queue="q", message_count=1, consumer_count=2))
    stream = (
        before
        + marshal(HOT, *delivery(1, b"first"), spec.Basic.Ack(delivery_tag=9, multiple=True))
        + frames.HEARTBEAT_FRAME
        + marshal(HOT, *returned(b"back"), spec.Basic.Nack(delivery_tag=10))
        + after
        + marshal(HOT, *delivery(2))
    )
    return stream, before + frames.HEARTBEAT_FRAME + after


TOLD = [(1, b"first"), (9, True, True), ("returned", b"back"), (10, False, False), (2, b"")]


async def test_a_cut_at_any_byte_changes_nothing() -> None:
    stream, rest = sample()
    for cut in range(1, len(stream)):
        bench = Bench()
        bench.tap.data_received(stream[:cut])
        bench.tap.data_received(stream[cut:])
        assert bench.lane.told == TOLD
        assert await bench.rest() == rest


async def test_the_bytes_may_come_one_by_one() -> None:
    stream, rest = sample()
    bench = Bench()
    for byte in stream:
        bench.tap.data_received(bytes([byte]))
    assert bench.lane.told == TOLD
    assert await bench.rest() == rest


async def test_messages_of_two_channels_may_mix() -> None:
    bench = Bench()
    second = Noting(bench.tap, OTHER)
    bench.tap.add(second)
    first = [marshal(HOT, one) for one in delivery(1, b"a" * 9000)]
    other = [marshal(OTHER, one) for one in delivery(2, b"b" * 9000)]
    for one, two in zip(first, other, strict=True):
        bench.tap.data_received(one + two)
    assert bench.lane.told == [(1, b"a" * 9000)]
    assert second.told == [(2, b"b" * 9000)]


async def test_what_is_no_frame_is_left_to_aiormq_at_once() -> None:
    for garbage in (b"H", b"AMQP\x00\x00\x09\x01", b"\x15\x03\x01\x00\x02\x02\x28", b"\x00"):
        bench = Bench()
        bench.tap.data_received(frames.HEARTBEAT_FRAME + garbage)
        bench.tap.data_received(marshal(HOT, *delivery(1)))
        assert bench.lane.told == []
        assert await bench.rest() == (frames.HEARTBEAT_FRAME + garbage + marshal(HOT, *delivery(1)))


async def test_a_frame_without_its_end_is_left_to_aiormq_and_so_is_all_after_it() -> None:
    bench = Bench()
    broken = marshal(HOT, spec.Basic.Ack(delivery_tag=1))[:-1] + b"\x00"
    bench.tap.data_received(broken + marshal(HOT, *delivery(1)))
    assert bench.lane.told == []
    assert await bench.rest() == broken + marshal(HOT, *delivery(1))


async def test_the_beginning_of_a_frame_is_left_to_aiormq_when_no_more_comes() -> None:
    bench = Bench()
    bench.tap.data_received(marshal(HOT, *delivery(1, b"never whole"))[:-4])
    method, header, body = (marshal(HOT, one) for one in delivery(1, b"never whole"))
    assert method + header  # taken
    assert await bench.rest() == body[:-4]


async def test_aiormq_sees_a_sign_of_life_now_and_then_while_only_lanes_hear_the_broker() -> None:
    bench = Bench(now=100.0)
    for _ in range(30):
        bench.tap.data_received(marshal(HOT, *delivery(1)))
        bench.now += 0.1
    assert await bench.rest() == 3 * frames.HEARTBEAT_FRAME


async def test_a_lane_is_shut_before_aiormq_hears_that_its_channel_is_closed() -> None:
    bench = Bench()
    close = marshal(HOT, closing(404, "no"))
    bench.tap.data_received(close[:-1])
    assert not bench.lane.is_shut
    bench.tap.data_received(close[-1:])
    assert bench.lane.is_shut
    following = marshal(HOT, *delivery(5))  # of who opens the channel next
    bench.tap.data_received(following)
    assert bench.lane.told == []
    assert await bench.rest() == close + following


async def test_a_lost_connection_shuts_its_lanes() -> None:
    bench = Bench()
    bench.tap.connection_lost(None)
    assert bench.lane.is_shut
    bench.wire.is_gone = True
    late = Noting(bench.tap, OTHER)
    bench.tap.add(late)
    assert late.is_shut


async def test_what_is_written_in_one_turn_leaves_in_one_piece() -> None:
    bench = Bench()
    for number in range(5):
        bench.tap.write([str(number).encode()], 1)
    assert bench.wire.written == []
    await asyncio.sleep(0)
    assert bench.wire.written == [b"01234"]
    bench.wire.is_gone = True
    bench.tap.write([b"5"], 1)
    await asyncio.sleep(0)
    assert bench.wire.written == [b"01234"]


async def test_much_is_written_before_the_turn_ends() -> None:
    bench = Bench()
    bench.tap.write([bytes(300_000)], 300_000)
    assert bench.wire.written == [bytes(300_000)]
