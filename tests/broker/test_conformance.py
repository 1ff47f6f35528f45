"""What every transport keeps. A change of the contract's meaning starts here."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from leveret_broker.errors import (
    BrokerBlocked,
    Expired,
    QueueMismatch,
    TransportClosed,
    Unroutable,
)
from leveret_broker.transport import Consumer, Delivery, Exchange, Outgoing, Queue, Transport
from tests.broker.worlds import PATIENCE, Inbox, World

WORK = Queue(name="p:work:1", replicated=True)
DEAD = Queue(name="dead", replicated=True)
SIMPLE = Queue(name="simple")

KINDS = pytest.mark.parametrize("queue", [SIMPLE, WORK], ids=["simple", "replicated"])


def to(queue: Queue, body: bytes = b"x") -> Outgoing:
    return Outgoing(queue=queue.name, body=body)


def numbered(queue: Queue, number: int) -> list[Outgoing]:
    return [to(queue, str(index).encode()) for index in range(number)]


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def ack(delivery: Delivery) -> None:
    delivery.ack()


def reject(delivery: Delivery) -> None:
    delivery.reject()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it holds; each question goes to the broker and back."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.01)


async def settled(transport: Transport, queue: Queue) -> None:
    """Wait until everything that was settled has reached the broker, and the queue is empty."""

    async def is_empty() -> bool:
        status = await transport.inspect(queue.name)
        return status is not None and status.messages == 0

    await until(is_empty)


async def consuming(consumer: Consumer) -> None:
    async def is_consuming() -> bool:
        return consumer.is_consuming

    await until(is_consuming)


# -- publishing and consuming ---------------------------------------------------------------------


@KINDS
async def test_a_message_arrives_as_it_was_sent(transport: Transport, queue: Queue) -> None:
    await transport.declare(queue)
    inbox = Inbox()
    await transport.consume(queue.name, inbox, prefetch=1)
    body = bytes(range(256))
    await transport.publish(
        Outgoing(queue=queue.name, body=body, correlation_id="run_1", headers={"reason": "ä"})
    )
    (delivery,) = await inbox.take()
    assert delivery.body == body
    assert type(delivery.body) is bytes
    assert delivery.queue == queue.name
    assert delivery.correlation_id == "run_1"
    assert delivery.headers == {"reason": "ä"}
    assert not delivery.redelivered


async def test_a_copy_of_a_message_arrives_as_redelivered(transport: Transport) -> None:
    message = Outgoing(queue=SIMPLE.name, body=b"1", headers={"a": "b"})
    await transport.declare(SIMPLE)
    inbox = Inbox()
    await transport.consume(SIMPLE.name, inbox, prefetch=0)
    await transport.publish_all([message, message.as_copy()])
    first, copy = await inbox.take(2)
    assert (first.body, first.redelivered) == (b"1", False)
    assert (copy.body, copy.redelivered, copy.headers["a"]) == (b"1", True, "b")


async def test_a_message_may_be_empty_and_nameless(transport: Transport) -> None:
    await transport.declare(SIMPLE)
    inbox = Inbox()
    await transport.consume(SIMPLE.name, inbox, prefetch=1)
    await transport.publish(Outgoing(queue=SIMPLE.name, body=b""))
    (delivery,) = await inbox.take()
    assert (delivery.body, delivery.correlation_id, delivery.headers) == (b"", None, {})


async def test_a_large_message_arrives_whole(transport: Transport) -> None:
    await transport.declare(WORK)
    inbox = Inbox()
    await transport.consume(WORK.name, inbox, prefetch=1)
    body = bytes(range(256)) * 4096 * 3
    await transport.publish(to(WORK, body))
    (delivery,) = await inbox.take()
    assert delivery.body == body


@KINDS
async def test_an_acknowledged_message_is_gone(
    world: World, transport: Transport, queue: Queue
) -> None:
    await transport.declare(queue)
    inbox = Inbox()
    await transport.consume(queue.name, inbox, prefetch=0)
    await transport.publish_all(numbered(queue, 3))
    for delivery in await inbox.take(3):
        delivery.ack()
    await transport.close()

    second = world.transport()
    await second.open()
    status = await second.inspect(queue.name)
    assert status is not None
    assert (status.messages, status.consumers) == (0, 0)


async def test_messages_keep_their_order(transport: Transport) -> None:
    await transport.declare(WORK)
    inbox = Inbox(ack)
    await transport.consume(WORK.name, inbox, prefetch=10)
    messages = numbered(WORK, 1000)
    assert await transport.publish_all(messages) == [None] * 1000
    assert bodies(await inbox.take(1000)) == [message.body for message in messages]


@KINDS
async def test_no_more_than_the_prefetch_is_unsettled(transport: Transport, queue: Queue) -> None:
    await transport.declare(queue)
    inbox = Inbox()
    await transport.publish_all(numbered(queue, 5))
    await transport.consume(queue.name, inbox, prefetch=2)
    first, second = await inbox.take(2)

    async def three_wait() -> bool:
        status = await transport.inspect(queue.name)
        return status is not None and status.messages == 3

    await until(three_wait)
    assert inbox.deliveries == []
    second.ack()
    (third,) = await inbox.take()
    assert [first.body, second.body, third.body] == [b"0", b"1", b"2"]


@KINDS
async def test_a_prefetch_of_zero_is_no_limit(transport: Transport, queue: Queue) -> None:
    await transport.declare(queue)
    inbox = Inbox()
    await transport.publish_all(numbered(queue, 500))
    await transport.consume(queue.name, inbox, prefetch=0)
    assert len(await inbox.take(500)) == 500


@KINDS
async def test_settling_out_of_order_settles_exactly_what_was_meant(
    world: World, transport: Transport, queue: Queue
) -> None:
    await transport.declare(queue)
    inbox = Inbox()
    await transport.consume(queue.name, inbox, prefetch=0)
    await transport.publish_all(numbered(queue, 8))
    deliveries = await inbox.take(8)
    for index in (0, 1, 2, 5, 7):
        deliveries[index].ack()
    await transport.close()

    second = world.transport()
    await second.open()
    again = Inbox()
    await second.consume(queue.name, again, prefetch=0)
    assert sorted(bodies(await again.take(3))) == [b"3", b"4", b"6"]


async def test_settling_twice_counts_once(transport: Transport) -> None:
    await transport.declare(WORK)
    inbox = Inbox()
    await transport.consume(WORK.name, inbox, prefetch=1)
    await transport.publish_all(numbered(WORK, 3))
    (first,) = await inbox.take()
    first.ack()
    first.ack()
    first.nack()
    (second,) = await inbox.take()
    first.reject()
    second.ack()
    (third,) = await inbox.take()
    assert (second.body, third.body) == (b"1", b"2")


@KINDS
async def test_a_nacked_message_is_delivered_again(transport: Transport, queue: Queue) -> None:
    await transport.declare(queue)
    inbox = Inbox()
    await transport.consume(queue.name, inbox, prefetch=1)
    await transport.publish(to(queue))
    (first,) = await inbox.take()
    first.nack()
    (second,) = await inbox.take()
    assert second.body == first.body
    assert second.redelivered


@KINDS
async def test_a_rejected_message_goes_to_the_dead_letter_queue(
    transport: Transport, queue: Queue
) -> None:
    await transport.declare(DEAD, replace(queue, dead_letter=DEAD.name))
    await transport.consume(queue.name, Inbox(reject), prefetch=1)
    dead = Inbox()
    await transport.consume(DEAD.name, dead, prefetch=1)
    await transport.publish(
        Outgoing(queue=queue.name, body=b"poison", correlation_id="c", headers={"k": "v"})
    )
    (delivery,) = await dead.take()
    assert (delivery.body, delivery.correlation_id, delivery.headers["k"]) == (b"poison", "c", "v")


async def test_a_rejected_message_without_a_dead_letter_queue_is_dropped(
    transport: Transport,
) -> None:
    await transport.declare(SIMPLE)
    inbox = Inbox()
    await transport.consume(SIMPLE.name, inbox, prefetch=1)
    await transport.publish_all(numbered(SIMPLE, 2))
    (first,) = await inbox.take()
    first.reject()
    (second,) = await inbox.take()
    assert second.body == b"1"
    assert not second.redelivered


async def test_consumers_of_a_queue_take_turns(world: World, transport: Transport) -> None:
    other = world.transport()
    await other.open()
    await transport.declare(SIMPLE)
    inboxes = [Inbox(), Inbox()]
    await transport.consume(SIMPLE.name, inboxes[0], prefetch=0)
    await other.consume(SIMPLE.name, inboxes[1], prefetch=0)
    await transport.publish_all(numbered(SIMPLE, 10))
    for inbox in inboxes:
        await inbox.take(5)


async def test_consuming_a_queue_that_is_not_there_is_unroutable(transport: Transport) -> None:
    with pytest.raises(Unroutable, match="'nowhere'"):
        await transport.consume("nowhere", Inbox(), prefetch=1)
    await transport.declare(SIMPLE)
    await transport.publish(to(SIMPLE))


async def test_publishing_to_a_queue_that_is_not_there_is_unroutable(transport: Transport) -> None:
    with pytest.raises(Unroutable) as raised:
        await transport.publish(Outgoing(queue="nowhere", body=b""))
    assert raised.value.queue == "nowhere"


async def test_of_many_messages_each_has_its_own_result(transport: Transport) -> None:
    await transport.declare(SIMPLE)
    nowhere = Outgoing(queue="nowhere", body=b"")
    results = await transport.publish_all([to(SIMPLE, b"1"), nowhere, to(SIMPLE, b"2"), nowhere])
    assert [type(result) for result in results] == [
        type(None),
        Unroutable,
        type(None),
        Unroutable,
    ]
    inbox = Inbox()
    await transport.consume(SIMPLE.name, inbox, prefetch=0)
    assert bodies(await inbox.take(2)) == [b"1", b"2"]


async def test_publishing_nothing_is_fine(transport: Transport) -> None:
    assert list(await transport.publish_all([])) == []


async def test_many_publish_at_the_same_time(transport: Transport) -> None:
    await transport.declare(WORK)
    inbox = Inbox(ack)
    await transport.consume(WORK.name, inbox, prefetch=0)
    await asyncio.gather(*(transport.publish(message) for message in numbered(WORK, 100)))
    assert len(set(bodies(await inbox.take(100)))) == 100


async def test_a_failing_callback_loses_no_other_delivery(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(delivery: Delivery) -> None:
        if delivery.body == b"0":
            raise ValueError("a bug in the callback")
        delivery.ack()

    await transport.declare(SIMPLE)
    inbox = Inbox(fail)
    await transport.consume(SIMPLE.name, inbox, prefetch=0)
    await transport.publish_all(numbered(SIMPLE, 2))
    await inbox.take(2)
    assert "a bug in the callback" in caplog.text


# -- queues ---------------------------------------------------------------------------------------


async def test_a_fan_out_reaches_every_bound_queue(transport: Transport) -> None:
    queues = [
        Queue(name=f"control:{index}", exclusive=True, fanouts=("all",)) for index in range(3)
    ]
    await transport.declare(*queues)
    inboxes = [Inbox() for _ in queues]
    for queue, inbox in zip(queues, inboxes, strict=True):
        await transport.consume(queue.name, inbox, prefetch=0)
    await transport.publish(Outgoing(fanout="all", body=b"stop"))
    for inbox in inboxes:
        assert bodies(await inbox.take()) == [b"stop"]


async def test_nobody_has_to_listen_to_a_fan_out(transport: Transport) -> None:
    await transport.publish(Outgoing(fanout="nobody", body=b"stop"))


async def test_an_exclusive_queue_goes_with_its_connection(
    world: World, transport: Transport
) -> None:
    owner = world.transport()
    await owner.open()
    await owner.declare(Queue(name="mine", exclusive=True))
    await transport.publish(Outgoing(queue="mine", body=b""))
    await owner.close()

    async def is_gone() -> bool:
        return await transport.inspect("mine") is None

    await until(is_gone)
    with pytest.raises(Unroutable):
        await transport.publish(Outgoing(queue="mine", body=b""))


async def test_an_exclusive_queue_belongs_to_one_connection(
    world: World, transport: Transport
) -> None:
    other = world.transport()
    await other.open()
    await other.declare(Queue(name="mine", exclusive=True))
    with pytest.raises(QueueMismatch, match="belongs to another connection"):
        await transport.declare(Queue(name="mine", exclusive=True))


async def test_an_expiring_queue_goes_when_nobody_consumes(transport: Transport) -> None:
    queue = Queue(name="replies:s", expires=0.3)
    await transport.declare(queue)
    consumer = await transport.consume(queue.name, Inbox(ack), prefetch=0)
    await consumer.cancel()

    async def is_gone() -> bool:  # publishing is no use of a queue, and inspecting it is one
        (error,) = await transport.publish_all([to(queue)])
        return isinstance(error, Unroutable)

    await until(is_gone)


@KINDS
async def test_declaring_again_changes_nothing(transport: Transport, queue: Queue) -> None:
    await transport.declare(queue)
    await transport.publish(to(queue))
    await transport.declare(queue, queue)
    inbox = Inbox()
    await transport.consume(queue.name, inbox, prefetch=0)
    await inbox.take()


async def test_a_queue_keeps_the_properties_it_was_declared_with(transport: Transport) -> None:
    await transport.declare(SIMPLE)
    with pytest.raises(QueueMismatch, match="'simple'"):
        await transport.declare(replace(SIMPLE, expires=60.0))
    await transport.declare(WORK)
    await transport.publish_all([to(SIMPLE), to(WORK)])


async def test_a_queue_can_be_inspected(transport: Transport) -> None:
    assert await transport.inspect(SIMPLE.name) is None
    await transport.declare(SIMPLE)
    await transport.publish_all(numbered(SIMPLE, 2))
    await transport.consume(SIMPLE.name, Inbox(), prefetch=1)

    async def one_of_each() -> bool:
        status = await transport.inspect(SIMPLE.name)
        return status is not None and (status.messages, status.consumers) == (1, 1)

    await until(one_of_each)


async def test_a_queue_can_be_deleted(transport: Transport) -> None:
    await transport.declare(SIMPLE)
    await transport.publish(to(SIMPLE))
    await transport.delete(SIMPLE.name)
    assert await transport.inspect(SIMPLE.name) is None
    await transport.delete(SIMPLE.name)


# -- cancelling -----------------------------------------------------------------------------------


@KINDS
async def test_a_cancelled_consumer_gets_no_more_and_settles_what_it_has(
    transport: Transport, queue: Queue
) -> None:
    await transport.declare(queue)
    inbox = Inbox()
    consumer = await transport.consume(queue.name, inbox, prefetch=0)
    await transport.publish_all(numbered(queue, 2))
    first, second = await inbox.take(2)
    assert consumer.is_consuming
    await consumer.cancel()
    assert not consumer.is_consuming
    await consumer.cancel()
    await transport.publish(to(queue, b"later"))
    first.ack()
    second.nack()
    other = Inbox()
    await transport.consume(queue.name, other, prefetch=0)
    assert sorted(bodies(await other.take(2))) == [b"1", b"later"]
    assert inbox.deliveries == []


# -- losses ---------------------------------------------------------------------------------------


@KINDS
async def test_closing_gives_back_what_is_unsettled_in_order(
    world: World, transport: Transport, queue: Queue
) -> None:
    await transport.declare(queue)
    inbox = Inbox()
    await transport.consume(queue.name, inbox, prefetch=2)
    await transport.publish_all(numbered(queue, 4))
    await inbox.take(2)
    await transport.close()

    second = world.transport()
    await second.open()
    again = Inbox()
    await second.consume(queue.name, again, prefetch=0)
    deliveries = await again.take(4)
    assert bodies(deliveries) == [b"0", b"1", b"2", b"3"]
    assert [delivery.redelivered for delivery in deliveries] == [True, True, False, False]


async def test_a_message_is_kept_however_often_its_consumer_went_away(
    world: World, transport: Transport
) -> None:
    """RabbitMQ 4 gives up after twenty times, unless it is told not to."""
    await transport.declare(DEAD, replace(WORK, dead_letter=DEAD.name))
    await transport.publish(to(WORK, b"kept"))
    for _ in range(25):
        taking = world.transport()
        await taking.open()
        inbox = Inbox()
        await taking.consume(WORK.name, inbox, prefetch=1)
        await inbox.take()
        await taking.close()
    inbox = Inbox(ack)
    await transport.consume(WORK.name, inbox, prefetch=1)
    assert bodies(await inbox.take()) == [b"kept"]
    dead = await transport.inspect(DEAD.name)
    assert dead is not None
    assert dead.messages == 0


async def test_a_loss_is_told_before_anything_is_delivered_again(
    world: World, transport: Transport
) -> None:
    told: list[str] = []
    reconnected = asyncio.Event()
    transport.on_loss(lambda: told.append("loss"))
    transport.on_reconnect(reconnected.set)
    await transport.declare(SIMPLE)
    inbox = Inbox(lambda delivery: told.append(delivery.body.decode()))
    await transport.consume(SIMPLE.name, inbox, prefetch=0)
    await transport.publish(Outgoing(queue=SIMPLE.name, body=b"message"))
    await inbox.take()
    assert told == ["message"]
    await world.drop_connections()
    async with asyncio.timeout(PATIENCE):
        await reconnected.wait()
    await inbox.take()
    assert set(told[1:-1]) == {"loss"}
    assert told[-1] == "message"


async def test_the_loss_of_a_queue_is_told_too(world: World, transport: Transport) -> None:
    lost = asyncio.Event()
    transport.on_loss(lost.set)
    await transport.declare(SIMPLE)
    await transport.consume(SIMPLE.name, Inbox(), prefetch=0)
    await world.delete_queue(SIMPLE.name)
    async with asyncio.timeout(PATIENCE):
        await lost.wait()


@KINDS
async def test_after_a_lost_connection_consumers_come_back(
    world: World, transport: Transport, queue: Queue
) -> None:
    reconnected = asyncio.Event()
    transport.on_reconnect(reconnected.set)
    await transport.declare(queue)
    inbox = Inbox()
    consumer = await transport.consume(queue.name, inbox, prefetch=1)
    await transport.publish_all(numbered(queue, 2))
    (before,) = await inbox.take()
    await world.drop_connections()
    async with asyncio.timeout(PATIENCE):
        await reconnected.wait()
    assert consumer.is_consuming
    (again,) = await inbox.take()
    assert (again.body, again.redelivered) == (before.body, True)

    before.ack()  # of a connection that is gone: does nothing
    again.ack()
    (next_one,) = await inbox.take()
    assert next_one.body == b"1"
    next_one.ack()
    await settled(transport, queue)


async def test_after_a_lost_connection_exclusive_queues_come_back(
    world: World, transport: Transport
) -> None:
    reconnected = asyncio.Event()
    transport.on_reconnect(reconnected.set)
    control = Queue(name="control:1", exclusive=True, fanouts=("all",))
    await transport.declare(control)
    inbox = Inbox(ack)
    await transport.consume(control.name, inbox, prefetch=0)
    await world.drop_connections()
    async with asyncio.timeout(PATIENCE):
        await reconnected.wait()
    await transport.publish(Outgoing(fanout="all", body=b"stop"))
    assert bodies(await inbox.take()) == [b"stop"]


async def test_no_message_is_lost_with_the_connections(world: World, transport: Transport) -> None:
    """Doubles are allowed, and come only from the connections that were lost."""
    await transport.declare(WORK)
    received: list[bytes] = []

    def note(delivery: Delivery) -> None:
        received.append(delivery.body)
        delivery.ack()

    inbox = Inbox(note)
    await transport.consume(WORK.name, inbox, prefetch=20)
    stop = asyncio.Event()
    sent: list[bytes] = []

    async def publish_on() -> None:
        while not stop.is_set():
            batch = [to(WORK, f"{len(sent) + index}".encode()) for index in range(20)]
            assert await transport.publish_all(batch) == [None] * 20
            sent.extend(message.body for message in batch)

    publishing = asyncio.ensure_future(publish_on())
    for _ in range(3):
        await inbox.take(200)
        await world.drop_connections()
    stop.set()
    await publishing
    await inbox.wait_for(lambda: set(sent) <= set(received))


async def test_a_consumer_comes_back_after_its_queue_was_deleted(
    world: World, transport: Transport
) -> None:
    await transport.declare(WORK)
    inbox = Inbox()
    consumer = await transport.consume(WORK.name, inbox, prefetch=1)
    await world.delete_queue(WORK.name)
    await consuming(consumer)

    async def is_there() -> bool:
        return await transport.inspect(WORK.name) is not None

    await until(is_there)
    await transport.publish(to(WORK, b"after"))
    assert bodies(await inbox.take()) == [b"after"]


async def test_a_consumer_that_came_back_is_reported_like_a_reconnect(
    world: World, transport: Transport
) -> None:
    """What was published while it had no queue is lost: somebody has to ask again."""
    await transport.declare(SIMPLE)
    consumer = await transport.consume(SIMPLE.name, Inbox(), prefetch=1)
    was_consuming: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    transport.on_reconnect(lambda: was_consuming.set_result(consumer.is_consuming))
    await world.delete_queue(SIMPLE.name)
    async with asyncio.timeout(PATIENCE):
        assert await was_consuming


async def test_a_failing_callback_keeps_nothing_from_coming_back(
    world: World, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("a bug of the owner")

    reconnected = asyncio.Event()
    transport.on_reconnect(fail)
    transport.on_reconnect(reconnected.set)
    await transport.declare(SIMPLE)
    inbox = Inbox(ack)
    await transport.consume(SIMPLE.name, inbox, prefetch=1)
    for _ in range(2):
        reconnected.clear()
        await world.drop_connections()
        async with asyncio.timeout(PATIENCE):
            await reconnected.wait()
    await transport.publish(to(SIMPLE, b"after"))
    assert bodies(await inbox.take()) == [b"after"]
    assert "a bug of the owner" in caplog.text


async def test_a_consumer_waits_for_a_queue_that_others_declare(
    world: World, transport: Transport
) -> None:
    other = world.transport()
    await other.open()
    await other.declare(SIMPLE)
    inbox = Inbox()
    consumer = await transport.consume(SIMPLE.name, inbox, prefetch=1)
    await other.delete(SIMPLE.name)

    async def is_lost() -> bool:
        return not consumer.is_consuming

    await until(is_lost)
    await other.declare(SIMPLE)
    await consuming(consumer)
    await other.publish(to(SIMPLE, b"after"))
    assert bodies(await inbox.take()) == [b"after"]


async def test_work_goes_on_after_the_broker_was_away(world: World, transport: Transport) -> None:
    reconnected = asyncio.Event()
    transport.on_reconnect(reconnected.set)
    await transport.declare(WORK)
    inbox = Inbox(ack)
    await transport.consume(WORK.name, inbox, prefetch=1)
    await world.stop()
    publishing = asyncio.ensure_future(transport.publish(to(WORK, b"meanwhile")))
    await world.start()
    async with asyncio.timeout(PATIENCE):
        await publishing
        await reconnected.wait()
    assert bodies(await inbox.take()) == [b"meanwhile"]


async def test_publishing_gives_up_while_the_broker_is_away(world: World) -> None:
    impatient = world.transport(publish_timeout=0.3)
    await impatient.open()
    await impatient.declare(WORK)
    await world.stop()
    with pytest.raises(Expired, match=r"no connection .* for 0\.3 s"):
        await impatient.publish(to(WORK))
    with pytest.raises(Expired):
        await impatient.inspect(WORK.name)


async def test_a_blocked_broker_is_named_in_time(world: World) -> None:
    impatient = world.transport(publish_timeout=1.0)
    await impatient.open()
    await impatient.declare(SIMPLE)
    await world.block()
    for _ in range(2):
        with pytest.raises(BrokerBlocked, match="blocked"):
            await impatient.publish(to(SIMPLE))
    assert await impatient.inspect(SIMPLE.name) is not None
    await world.unblock()

    async def is_taken() -> bool:
        (error,) = await impatient.publish_all([to(SIMPLE, b"after")])
        return error is None

    await until(is_taken)


# -- closing --------------------------------------------------------------------------------------


async def test_a_closed_transport_takes_nothing(transport: Transport) -> None:
    await transport.declare(SIMPLE)
    await transport.close()
    await transport.close()
    with pytest.raises(TransportClosed):
        await transport.publish(to(SIMPLE))
    with pytest.raises(TransportClosed):
        await transport.publish_all([])
    with pytest.raises(TransportClosed):
        await transport.declare(SIMPLE)
    with pytest.raises(TransportClosed):
        await transport.consume(SIMPLE.name, Inbox(), prefetch=1)
    with pytest.raises(TransportClosed):
        await transport.open()


async def test_settling_after_closing_is_harmless(transport: Transport) -> None:
    await transport.declare(SIMPLE)
    inbox = Inbox()
    consumer = await transport.consume(SIMPLE.name, inbox, prefetch=0)
    await transport.publish_all(numbered(SIMPLE, 3))
    first, second, third = await inbox.take(3)
    await transport.close()
    first.ack()
    second.nack()
    third.reject()
    await consumer.cancel()
    assert not consumer.is_consuming


async def test_who_waits_learns_that_the_transport_was_closed(
    world: World, transport: Transport
) -> None:
    await transport.declare(SIMPLE)
    await world.stop()
    publishing = asyncio.ensure_future(transport.publish(to(SIMPLE)))
    await asyncio.sleep(0)
    await transport.close()
    with pytest.raises(TransportClosed):
        await publishing


async def test_a_transport_that_was_not_opened_takes_nothing(world: World) -> None:
    with pytest.raises(TransportClosed):
        await world.transport().publish(to(SIMPLE))
    await world.transport().close()


async def test_starting_and_stopping_leaves_nothing_behind(world: World) -> None:
    """Whatever is under way when a transport is closed or its opening is cancelled."""
    before = len(asyncio.all_tasks())
    for turn in range(12):
        transport = world.transport(publish_timeout=5.0)
        opening = asyncio.ensure_future(transport.open())
        for _ in range(turn * 3):
            await asyncio.sleep(0)
        if turn % 3 == 0:
            opening.cancel()
            await asyncio.wait([opening])
        else:
            await opening
            await transport.declare(SIMPLE)
            await transport.consume(SIMPLE.name, Inbox(), prefetch=turn)
            publishing = asyncio.ensure_future(transport.publish_all(numbered(SIMPLE, 50)))
            for _ in range(turn):
                await asyncio.sleep(0)
            await asyncio.gather(transport.close(), transport.close(), publishing)
        await transport.close()

    async def all_ended() -> bool:
        return len(asyncio.all_tasks()) <= before

    await until(all_ended)


# -- exchanges ------------------------------------------------------------------------------------


def through(exchange: str, queue: str) -> Outgoing:
    return Outgoing(body=b"x", queue=queue, exchange=exchange)


async def test_what_comes_through_an_exchange_tells_which(transport: Transport) -> None:
    await transport.declare(Queue(name="q", exclusive=True), Exchange(name="side", queues=("q",)))
    await transport.declare(Queue(name="all", exclusive=True, fanouts=("loud",)))
    inbox = Inbox(lambda delivery: delivery.ack())
    for queue in ("q", "all"):
        await transport.consume(queue, inbox, prefetch=0)
    await transport.publish(through("side", "q"))
    await transport.publish(Outgoing(body=b"x", queue="q"))
    await transport.publish(Outgoing(body=b"x", fanout="loud"))
    told = {(delivery.queue, delivery.exchange) for delivery in await inbox.take(3)}
    assert told == {("q", "side"), ("q", ""), ("all", "loud")}


async def test_an_exchange_leads_to_its_own_queues_only(transport: Transport) -> None:
    queues = [Queue(name=name, exclusive=True) for name in ("bound", "other")]
    await transport.declare(*queues, Exchange(name="narrow", queues=("bound",)))
    await transport.publish(through("narrow", "bound"))
    with pytest.raises(Unroutable):
        await transport.publish(through("narrow", "other"))


async def test_an_exchange_that_is_declared_again_has_more_queues(transport: Transport) -> None:
    queues = [Queue(name=name, exclusive=True) for name in ("one", "two")]
    await transport.declare(*queues, Exchange(name="grows", queues=("one",)))
    await transport.declare(Exchange(name="grows", queues=("two",)))
    for queue in ("one", "two"):
        await transport.publish(through("grows", queue))


async def test_an_exchange_can_be_bound_to_no_queue_that_is_missing(transport: Transport) -> None:
    with pytest.raises(Unroutable):
        await transport.declare(Exchange(name="early", queues=("missing",)))


async def test_whether_there_is_an_exchange_can_be_asked(transport: Transport) -> None:
    assert not await transport.has_exchange("asked-for")
    await transport.declare(Exchange(name="asked-for"))
    assert await transport.has_exchange("asked-for")


async def test_a_redelivery_tells_the_same_exchange(transport: Transport) -> None:
    await transport.declare(Queue(name="q", exclusive=True), Exchange(name="again", queues=("q",)))
    inbox = Inbox()
    await transport.consume("q", inbox, prefetch=1)
    await transport.publish(through("again", "q"))
    (first,) = await inbox.take()
    first.nack()
    (second,) = await inbox.take()
    assert (second.redelivered, second.exchange) == (True, "again")


async def test_a_dead_letter_came_through_nobodys_exchange(transport: Transport) -> None:
    """Else a message that was rejected would count as said again."""
    dead, q = Queue(name="dead-x"), Queue(name="q-x", dead_letter="dead-x")
    await transport.declare(dead, q, Exchange(name="own", queues=("q-x",)))
    rejecting, inbox = Inbox(lambda delivery: delivery.reject()), Inbox()
    await transport.consume("q-x", rejecting, prefetch=1)
    await transport.consume("dead-x", inbox, prefetch=1)
    await transport.publish(through("own", "q-x"))
    (letter,) = await inbox.take()
    assert letter.exchange == ""


async def test_a_queue_that_is_made_anew_is_bound_anew(world: World, transport: Transport) -> None:
    await transport.declare(Queue(name="fleeting"), Exchange(name="lasting", queues=("fleeting",)))
    inbox = Inbox(lambda delivery: delivery.ack())
    consumer = await transport.consume("fleeting", inbox, prefetch=1)
    back = asyncio.Event()
    transport.on_reconnect(back.set)
    await world.delete_queue("fleeting")
    async with asyncio.timeout(PATIENCE):
        await back.wait()
        assert consumer.is_consuming
    await transport.publish(through("lasting", "fleeting"))
    await inbox.take()
