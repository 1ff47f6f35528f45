"""Publishing and consuming by lanes, with a broker that says what a real one seldom does."""

import asyncio
from collections.abc import AsyncGenerator
from importlib.metadata import version
from itertools import groupby

import pamqp.frame
import pytest
from pamqp import commands as spec
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from leveret_broker import rabbitmq_tap, urls
from leveret_broker.errors import BrokerBlocked, Expired, Refused, Unroutable
from leveret_broker.rabbitmq_connection import Deadline, connect, say_goodbye, until_closed
from leveret_broker.rabbitmq_consumer import RabbitConsumer
from leveret_broker.rabbitmq_publisher import Publisher
from leveret_broker.rabbitmq_tap import Connection
from leveret_broker.rabbitmq_window import Result, Unconfirmed
from leveret_broker.transport import Delivery, Outgoing
from tests.broker.scripted import (
    FRAME_MAX,
    Any_,
    ScriptedBroker,
    closing,
    content,
    delivery,
    marshal,
)
from tests.broker.worlds import PATIENCE, Inbox

MOST = FRAME_MAX - 8
"""Bytes of a body that fit into a frame."""


@pytest.fixture
async def broker() -> AsyncGenerator[ScriptedBroker]:
    made = ScriptedBroker()
    yield made
    await made.stop()
    assert made.violations == []


@pytest.fixture
async def connection(broker: ScriptedBroker) -> AsyncGenerator[Connection]:
    made = await connect(urls.parse(await broker.start()), name="test")
    yield made
    await say_goodbye(made)


def messages(number: int, body: bytes = b"x") -> list[Outgoing]:
    return [Outgoing(queue=f"q{index}", body=body) for index in range(number)]


def publishing(
    connection: Connection, sent: list[Outgoing], timeout: float = PATIENCE
) -> "asyncio.Task[list[Result]]":
    publisher = Publisher(connection)
    return asyncio.ensure_future(publisher.publish(sent, Deadline.after(timeout)))


async def result_of(task: "asyncio.Task[list[Result]]") -> list[Result]:
    async with asyncio.timeout(PATIENCE):
        return await task


def ack(tag: int, *, multiple: bool = False) -> Frame:
    return spec.Basic.Ack(delivery_tag=tag, multiple=multiple)


def nack(tag: int, *, multiple: bool = False) -> Frame:
    return spec.Basic.Nack(delivery_tag=tag, multiple=multiple)


def returned(broker: ScriptedBroker, number: int) -> list[Any_]:
    """The message that was published as this one, as the broker returns it."""
    headers = [one for _, one in broker.heard if isinstance(one, ContentHeader)]
    bodies = [one for _, one in broker.heard if isinstance(one, ContentBody)]
    method = spec.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="q")
    body = bodies[number - 1].value
    return content(method, body, properties=headers[number - 1].properties)


# -- confirms -------------------------------------------------------------------------------------


async def test_one_confirm_may_be_for_many(broker: ScriptedBroker, connection: Connection) -> None:
    task = publishing(connection, messages(10))
    channel = await broker.hears(ContentBody, 10)
    broker.say(channel, ack(2), ack(7, multiple=True), ack(10, multiple=True))
    assert await result_of(task) == [None] * 10


async def test_confirms_may_come_in_any_order(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(5))
    channel = await broker.hears(ContentBody, 5)
    broker.say(channel, ack(5), ack(3), ack(1), ack(4))
    broker.say(channel, ack(3), ack(99), ack(2, multiple=True))
    assert await result_of(task) == [None] * 5


async def test_what_is_not_taken_is_told_apart(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(6))
    channel = await broker.hears(ContentBody, 6)
    broker.say(channel, ack(1), nack(3, multiple=True), ack(5, multiple=True), nack(6))
    results = await result_of(task)
    assert [type(result) for result in results] == [
        type(None),
        BrokerBlocked,
        BrokerBlocked,
        type(None),
        type(None),
        BrokerBlocked,
    ]
    assert "a queue's limit is reached" in str(results[1])


async def test_what_comes_back_is_unroutable_however_it_is_confirmed(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(6))
    channel = await broker.hears(ContentBody, 6)
    broker.say(channel, ack(1), *returned(broker, 2), ack(2), ack(3))
    broker.say(channel, *returned(broker, 5), *returned(broker, 6), ack(6, multiple=True))
    results = await result_of(task)
    unroutable = [result.queue for result in results if isinstance(result, Unroutable)]
    assert unroutable == ["q1", "q4", "q5"]
    assert [result for result in results if result is None] == [None] * 3


async def test_many_callers_share_one_channel_and_get_their_own_results(
    broker: ScriptedBroker, connection: Connection
) -> None:
    publisher = Publisher(connection)
    tasks = [
        asyncio.ensure_future(publisher.publish(messages(3), Deadline.after(PATIENCE)))
        for _ in range(4)
    ]
    channel = await broker.hears(ContentBody, 12)
    assert broker.count(spec.Channel.Open) == 1
    broker.say(channel, *returned(broker, 5), ack(6, multiple=True))
    assert await result_of(tasks[0]) == [None] * 3
    assert [type(result) for result in await result_of(tasks[1])] == [
        type(None),
        Unroutable,
        type(None),
    ]
    assert not any(task.done() for task in tasks[2:])
    broker.say(channel, ack(12, multiple=True))
    assert [await result_of(task) for task in tasks[2:]] == [[None] * 3] * 2


async def test_who_was_cancelled_disturbs_nobody_else(
    broker: ScriptedBroker, connection: Connection
) -> None:
    publisher = Publisher(connection)
    given_up, waiting = (
        asyncio.ensure_future(publisher.publish(messages(2), Deadline.after(PATIENCE)))
        for _ in range(2)
    )
    channel = await broker.hears(ContentBody, 4)
    given_up.cancel()
    broker.say(channel, ack(4, multiple=True))
    assert await result_of(waiting) == [None] * 2
    assert given_up.cancelled()


async def test_what_is_not_confirmed_in_time_is_told(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(2), timeout=0.3)
    channel = await broker.hears(ContentBody, 2)
    broker.say(channel, ack(1))
    first, second = await result_of(task)
    assert first is None
    assert isinstance(second, Expired)


# -- channels that close --------------------------------------------------------------------------


async def test_what_was_confirmed_before_a_channel_closed_stays_so(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(5))
    channel = await broker.hears(ContentBody, 5)
    broker.say(channel, *returned(broker, 1), ack(2, multiple=True), closing(541, "INTERNAL_ERROR"))
    unroutable, confirmed, *lost = await result_of(task)
    assert isinstance(unroutable, Unroutable)
    assert confirmed is None
    assert lost == [Unconfirmed.LOST] * 3


async def test_what_a_refusal_took_along_is_sent_again_one_by_one(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(3))
    channel = await broker.hears(ContentBody, 3)
    broker.say(channel, ack(1), closing(406, "PRECONDITION_FAILED - too large"))
    alone = await broker.hears(ContentBody, 4)
    broker.say(alone, closing(406, "PRECONDITION_FAILED - too large"))
    alone = await broker.hears(ContentBody, 5)
    broker.say(alone, ack(1))
    first, refused, last = await result_of(task)
    assert (first, last) == (None, None)
    assert isinstance(refused, Refused)
    assert str(refused).endswith("PRECONDITION_FAILED - too large")


async def test_nothing_is_written_to_a_channel_that_the_broker_closed(
    broker: ScriptedBroker, connection: Connection
) -> None:
    """The broker of this test notes who does, and its fixture looks at that."""
    publisher = Publisher(connection)
    first = asyncio.ensure_future(publisher.publish(messages(1), Deadline.after(PATIENCE)))
    channel = await broker.hears(ContentBody)
    broker.say(channel, closing(541, "INTERNAL_ERROR"))
    while not first.done():
        (result,) = await asyncio.gather(
            publisher.publish(messages(1), Deadline.after(0.01)), return_exceptions=True
        )
        assert not isinstance(result, BaseException)
    assert await result_of(first) == [Unconfirmed.LOST]
    assert broker.count(spec.Channel.CloseOk) == 1


async def test_what_was_under_way_when_the_connection_broke_is_lost(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(3))
    channel = await broker.hears(ContentBody, 3)
    broker.say_bytes(marshal(channel, ack(1), ack(2))[:-1])
    await broker.drain()
    broker.hang_up()
    assert await result_of(task) == [None, Unconfirmed.LOST, Unconfirmed.LOST]
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([until_closed(connection)])


async def test_bytes_that_are_no_frames_end_the_connection(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(2))
    channel = await broker.hears(ContentBody, 2)
    broker.say_bytes(marshal(channel, ack(1)) + marshal(channel, ack(2))[:-1] + b"!")
    assert await result_of(task) == [None, Unconfirmed.LOST]


# -- bodies, room and blocked brokers -------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MOST - 1, MOST, MOST + 1, 3 * MOST, 3 * MOST + 1])
async def test_bodies_are_cut_to_what_a_frame_can_hold(
    broker: ScriptedBroker, connection: Connection, size: int
) -> None:
    body = bytes(index % 251 for index in range(size))
    task = publishing(connection, messages(2, body))
    channel = await broker.hears(ContentHeader, 2)
    await broker.hears_bytes(2 * size)
    broker.say(channel, ack(2, multiple=True))
    assert await result_of(task) == [None] * 2
    parts = [one.value for _, one in broker.heard if isinstance(one, ContentBody)]
    assert b"".join(parts) == 2 * body
    assert all(len(part) <= MOST for part in parts)


async def test_frames_of_one_message_stay_together_whatever_else_is_asked(
    broker: ScriptedBroker, connection: Connection
) -> None:
    publisher = Publisher(connection)
    tasks = [
        asyncio.ensure_future(
            publisher.publish(messages(20, bytes(3 * MOST)), Deadline.after(PATIENCE))
        )
        for _ in range(3)
    ]
    others = [await connection.channel(publisher_confirms=False) for _ in range(3)]
    channel = await broker.hears(ContentBody, 180)
    broker.say(channel, ack(60, multiple=True))
    for task in tasks:
        assert await result_of(task) == [None] * 20
    sent = [type(one) for number, one in broker.heard if number == channel]
    runs = [(kind, len(list(run))) for kind, run in groupby(sent[2:])]
    message = [(spec.Basic.Publish, 1), (ContentHeader, 1), (ContentBody, 3)]
    assert runs == message * 60
    assert len({other.number for other in others} | {channel}) == 4


async def test_who_publishes_waits_for_room(broker: ScriptedBroker, connection: Connection) -> None:
    number = 100
    task = publishing(connection, messages(number, bytes(1 << 18)))
    await broker.hears(spec.Confirm.Select)
    broker.reads.clear()
    async with asyncio.timeout(PATIENCE):
        while not connection.tap.is_full:
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert connection.tap.unwritten < 2 * rabbitmq_tap.WRITE_LIMIT + (1 << 18)
    broker.reads.set()
    await broker.hears(spec.Basic.Publish, number)
    channel = await broker.hears_bytes(number << 18)
    broker.say(channel, ack(number, multiple=True))
    assert await result_of(task) == [None] * number


async def test_who_waits_for_room_learns_that_the_connection_broke(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(200, bytes(1 << 18)))
    await broker.hears(spec.Basic.Publish)
    broker.reads.clear()
    async with asyncio.timeout(PATIENCE):
        while not connection.tap.is_full:
            await asyncio.sleep(0)
    broker.hang_up()
    assert set(await result_of(task)) == {Unconfirmed.LOST}


async def test_who_waits_for_room_waits_no_longer_than_the_deadline(
    broker: ScriptedBroker, connection: Connection
) -> None:
    task = publishing(connection, messages(200, bytes(1 << 18)), timeout=0.5)
    await broker.hears(spec.Basic.Publish)
    broker.reads.clear()
    results = await result_of(task)
    assert all(isinstance(result, Expired) for result in results)
    broker.hang_up()


async def test_a_blocked_connection_is_named_and_goes_on_when_it_is_free(
    broker: ScriptedBroker, connection: Connection
) -> None:
    publisher = Publisher(connection)
    broker.say(0, spec.Connection.Blocked(reason="low on memory"))
    async with asyncio.timeout(PATIENCE):
        while not connection.tap.is_blocked:
            await asyncio.sleep(0.01)
    (blocked,) = await publisher.publish(messages(1), Deadline.after(0.1))
    assert isinstance(blocked, BrokerBlocked)
    assert "out of memory or disk" in str(blocked)
    task = asyncio.ensure_future(publisher.publish(messages(1), Deadline.after(PATIENCE)))
    await asyncio.sleep(0)
    assert broker.count(spec.Basic.Publish) == 0
    broker.say(0, spec.Connection.Unblocked())
    channel = await broker.hears(ContentBody)
    broker.say(channel, ack(1))
    assert await result_of(task) == [None]


async def test_a_text_that_is_too_long_is_told_and_sent_nowhere(
    broker: ScriptedBroker, connection: Connection
) -> None:
    publisher = Publisher(connection)
    with pytest.raises(ValueError, match="255 at most"):
        await publisher.publish([Outgoing(queue="q" * 300, body=b"")], Deadline.after(PATIENCE))
    task = asyncio.ensure_future(publisher.publish(messages(1), Deadline.after(PATIENCE)))
    channel = await broker.hears(ContentBody)
    broker.say(channel, ack(1))  # its number is the first that was sent
    assert await result_of(task) == [None]


# -- consuming ------------------------------------------------------------------------------------


def consumer(on_delivery: Inbox) -> RabbitConsumer:
    return RabbitConsumer("q", on_delivery, prefetch=10, on_end=lambda: None)


async def test_deliveries_may_come_with_the_answer_to_who_consumes(
    broker: ScriptedBroker, connection: Connection
) -> None:
    def deliver(channel: int, method: Frame) -> bytes:
        if not isinstance(method, spec.Basic.Consume):
            return b""
        return marshal(channel, *delivery(1, b"first"), *delivery(2, b"second"))

    broker.also = deliver
    inbox = Inbox(lambda one: one.ack())
    consuming = consumer(inbox)
    await consuming.subscribe(connection)
    assert consuming.is_consuming
    assert [one.body for one in await inbox.take(2)] == [b"first", b"second"]
    await broker.hears(spec.Basic.Ack)
    (settled,) = [one for _, one in broker.heard if isinstance(one, spec.Basic.Ack)]
    assert (settled.delivery_tag, settled.multiple) == (2, True)


async def test_properties_that_nobody_can_read_are_none(
    broker: ScriptedBroker, connection: Connection
) -> None:
    """Anybody may have written them. Whoever asks for them must not fail by that."""
    inbox = Inbox()
    consuming = consumer(inbox)
    await consuming.subscribe(connection)
    channel = await broker.hears(spec.Basic.Consume)
    method, header, body = (pamqp.frame.marshal(each, channel) for each in delivery(1, b"body"))
    flags = (0x0400).to_bytes(2, "big")  # a correlation id, which is no text
    properties = header[7:-3] + flags + b"\x01\xff"
    spoilt = header[:3] + len(properties).to_bytes(4, "big") + properties + header[-1:]
    broker.say_bytes(method + spoilt + body)
    (taken,) = await inbox.take(1)
    assert taken.body == b"body"
    assert (taken.correlation_id, dict(taken.headers), taken.redelivered) == (None, {}, False)


async def test_nothing_is_settled_on_a_channel_that_the_broker_closed(
    broker: ScriptedBroker, connection: Connection
) -> None:
    inbox = Inbox()
    consuming = consumer(inbox)
    await consuming.subscribe(connection)
    channel = await broker.hears(spec.Basic.Consume)
    broker.say(channel, *delivery(1), *delivery(2), closing(406, "PRECONDITION_FAILED - late"))
    first, second = await inbox.take(2)
    first.ack()
    await broker.hears(spec.Channel.CloseOk)
    second.reject()
    await consuming.cancel()
    (_, other) = (await connection.channel(publisher_confirms=False), connection)
    assert other.is_opened
    assert broker.count(spec.Basic.Ack) + broker.count(spec.Basic.Reject) == 0


async def test_nothing_is_settled_for_a_consumer_that_the_broker_cancelled(
    broker: ScriptedBroker, connection: Connection
) -> None:
    told: list[str] = []
    deliveries: list[Delivery] = []
    consuming = RabbitConsumer(
        "q", deliveries.append, prefetch=10, on_end=lambda: told.append("ended")
    )
    await consuming.subscribe(connection)
    channel = await broker.hears(spec.Basic.Consume)
    broker.say(channel, *delivery(1), spec.Basic.Cancel(consumer_tag="consumer", nowait=True))
    async with asyncio.timeout(PATIENCE):
        while not told:
            await asyncio.sleep(0.01)
    deliveries[0].ack()
    assert not consuming.is_consuming
    await consuming.subscribe(connection)
    assert broker.count(spec.Channel.Close) == 1
    assert broker.count(spec.Channel.Open) == 2
    assert broker.count(spec.Basic.Ack) == 0


async def test_a_channel_is_left_once_the_last_delivery_is_settled(
    broker: ScriptedBroker, connection: Connection
) -> None:
    inbox = Inbox()
    consuming = consumer(inbox)
    await consuming.subscribe(connection)
    channel = await broker.hears(spec.Basic.Consume)
    broker.say(channel, *delivery(1), *delivery(2))
    first, second = await inbox.take(2)
    await consuming.cancel()
    first.ack()
    await broker.hears(spec.Basic.Ack)
    assert not consuming.is_over
    second.ack()
    await broker.hears(spec.Channel.Close)
    kinds = [type(one) for number, one in broker.heard if number == channel]
    assert kinds[-3:] == [spec.Basic.Ack, spec.Basic.Ack, spec.Channel.Close]


async def test_what_comes_for_who_has_left_goes_back(
    broker: ScriptedBroker, connection: Connection
) -> None:
    broker.also = lambda channel, method: (
        marshal(channel, *delivery(1)) if isinstance(method, spec.Basic.Cancel) else b""
    )
    inbox = Inbox()
    consuming = consumer(inbox)
    await consuming.subscribe(connection)
    await consuming.cancel()
    await broker.hears(spec.Channel.Close)
    (given_back,) = [one for _, one in broker.heard if isinstance(one, spec.Basic.Reject)]
    assert given_back.requeue
    assert inbox.deliveries == []


# -- what is used of aiormq -----------------------------------------------------------------------


class Impatient(Connection):
    """Counts as stuck after 1.2 seconds without a frame that aiormq sees."""

    HEARTBEAT_GRACE_MULTIPLIER = 0.6  # type: ignore[assignment] # of a heartbeat and a second


@pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "silent"])
async def test_aiormq_takes_a_broker_that_only_lanes_hear_for_alive(
    broker: ScriptedBroker, is_heard: bool
) -> None:
    url = urls.parse(await broker.start()).with_options(heartbeat="1")
    connection = Impatient(url)
    async with connection:
        task = publishing(connection, messages(1))
        channel = await broker.hears(ContentBody)
        closed = until_closed(connection)
        for _ in range(25):
            if is_heard:
                broker.say(channel, ack(99))
            await asyncio.wait([closed], timeout=0.1)
        assert closed.done() == (not is_heard)
        if is_heard:
            broker.say(channel, ack(1))
        assert await result_of(task) == ([None] if is_heard else [Unconfirmed.LOST])


def test_aiormq_is_of_a_version_that_is_known() -> None:
    """What the tap relies on is in decision 46; look there before another major version."""
    assert version("aiormq").split(".")[0] == "7"
