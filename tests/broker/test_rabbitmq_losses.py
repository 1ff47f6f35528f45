"""What goes wrong between us and a RabbitMQ, or within it, and how the transport gets over it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from itertools import count

import pytest

from leveret_broker import urls
from leveret_broker.errors import Expired, Refused, TransportError
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.rabbitmq_connection import Deadline, connect, say_goodbye
from leveret_broker.rabbitmq_publisher import Publisher
from leveret_broker.topology import CONTROL, control_queue, work_queue
from leveret_broker.transport import Delivery, Outgoing, Queue
from tests.broker.proxy import Proxy
from tests.broker.worlds import PATIENCE, Inbox
from tests.rabbit import RabbitNode

SIZE_LIMIT = 1_000_000
WORK = work_queue("p:n:1")


def ack(delivery: Delivery) -> None:
    delivery.ack()


@pytest.fixture
async def transport(rabbit_vhost_url: str) -> AsyncGenerator[RabbitTransport]:
    made = RabbitTransport(rabbit_vhost_url, name="test", publish_timeout=PATIENCE)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def proxy(rabbit_vhost_url: str) -> AsyncGenerator[Proxy]:
    made = Proxy(rabbit_vhost_url)
    yield made
    await made.stop()


# -- messages that the broker refuses -------------------------------------------------------------


@pytest.fixture
def small_messages_only(rabbit_node: RabbitNode) -> Generator[None]:
    """The broker's limit, lowered: the smallest default among its versions is 16 MiB."""
    before = rabbit_node.ctl(
        "eval", "{ok, Size} = application:get_env(rabbit, max_message_size), Size."
    )
    _limit_messages(rabbit_node, SIZE_LIMIT)
    yield
    _limit_messages(rabbit_node, int(before))


def _limit_messages(node: RabbitNode, size: int) -> None:
    node.ctl(
        "eval",
        f"application:set_env(rabbit, max_message_size, {size}), "
        f"persistent_term:put(max_message_size, {size}), ok.",
    )


@pytest.mark.rabbitmq
@pytest.mark.usefixtures("small_messages_only")
async def test_a_refused_message_keeps_no_other_from_arriving(transport: RabbitTransport) -> None:
    await transport.declare(WORK)
    too_large = bytes(2 * SIZE_LIMIT)
    sent = [b"0", b"1", too_large, b"3", too_large, b"5"]
    results = await transport.publish_all([Outgoing(queue=WORK.name, body=body) for body in sent])
    refused = [index for index, result in enumerate(results) if isinstance(result, Refused)]
    assert refused == [2, 4]
    assert [result for result in results if result is not None] == [results[2], results[4]]
    assert "the broker refused the message: PRECONDITION_FAILED" in str(results[2])
    arrived: set[bytes] = set()

    def note(delivery: Delivery) -> None:
        arrived.add(delivery.body)
        delivery.ack()

    inbox = Inbox(note)
    await transport.consume(WORK.name, inbox, prefetch=0)
    await inbox.wait_for(lambda: arrived == {b"0", b"1", b"3", b"5"})


@pytest.mark.rabbitmq
@pytest.mark.usefixtures("small_messages_only")
async def test_who_publishes_beside_a_refused_message_is_not_refused(
    transport: RabbitTransport,
) -> None:
    await transport.declare(WORK)
    messages = [Outgoing(queue=WORK.name, body=bytes(2 * SIZE_LIMIT))]
    messages += [Outgoing(queue=WORK.name, body=b"small")] * 20
    results = await asyncio.gather(
        *(transport.publish(message) for message in messages), return_exceptions=True
    )
    assert isinstance(results[0], Refused)
    assert results[1:] == [None] * 20


@pytest.mark.rabbitmq
async def test_publishing_that_is_lost_again_and_again_ends_with_the_deadline(
    proxy: Proxy,
) -> None:
    transport = RabbitTransport(await proxy.start(), name="test", publish_timeout=1.5)
    await transport.open()
    await transport.declare(WORK)
    proxy.breaks_on = b"this breaks the connection"
    begun = time.monotonic()
    with pytest.raises(Expired, match=r" 1\.5 s$"):
        await transport.publish(Outgoing(queue=WORK.name, body=proxy.breaks_on))
    assert time.monotonic() - begun < PATIENCE
    await transport.close()


@pytest.mark.rabbitmq
async def test_what_is_published_again_after_a_loss_arrives_as_redelivered(
    transport: RabbitTransport, proxy: Proxy
) -> None:
    publisher = RabbitTransport(await proxy.start(), name="test", publish_timeout=PATIENCE)
    await publisher.open()
    await transport.declare(WORK)
    arrived: list[Delivery] = []

    def note(delivery: Delivery) -> None:
        arrived.append(delivery)
        delivery.ack()

    inbox = Inbox(note)
    await transport.consume(WORK.name, inbox, prefetch=0)
    await publisher.publish(Outgoing(queue=WORK.name, body=b"first"))
    proxy.breaks_on, proxy.breaks_once = b"this breaks the connection", True
    await publisher.publish(Outgoing(queue=WORK.name, body=b"this breaks the connection"))
    await publisher.publish(Outgoing(queue=WORK.name, body=b"last"))
    await inbox.wait_for(lambda: any(delivery.body == b"last" for delivery in arrived))
    assert [(each.body, each.redelivered) for each in arrived] == [
        (b"first", False),
        (b"this breaks the connection", True),
        (b"last", False),
    ]
    await publisher.close()


@pytest.mark.rabbitmq
async def test_what_comes_after_the_deadline_is_not_sent(
    transport: RabbitTransport, rabbit_vhost_url: str
) -> None:
    await transport.declare(WORK)
    connection = await connect(urls.parse(rabbit_vhost_url), name="test")
    over = Deadline(at=asyncio.get_running_loop().time(), timeout=30.0)
    message = Outgoing(queue=WORK.name, body=b"late")
    (result,) = await Publisher(connection).publish([message], over)
    assert isinstance(result, Expired)
    assert str(result) == "the broker confirmed nothing within 30 s"
    await say_goodbye(connection)
    status = await transport.inspect(WORK.name)
    assert status is not None
    assert status.messages == 0


@pytest.mark.rabbitmq
async def test_there_is_a_pause_of_some_chance_before_the_first_reconnect(
    rabbit_vhost_url: str, rabbit_node: RabbitNode
) -> None:
    """Everybody else has lost the broker at the same time."""
    chances: list[float] = []

    def jitter() -> float:
        chances.append(0.5)
        return 0.5

    transport = RabbitTransport(rabbit_vhost_url, name="test", jitter=jitter)
    await transport.open()
    assert not chances
    reconnected = asyncio.Event()
    transport.on_reconnect(reconnected.set)
    await asyncio.to_thread(rabbit_node.close_all_connections)
    async with asyncio.timeout(PATIENCE):
        await reconnected.wait()
    assert chances
    await transport.close()


# -- connections that only one side has lost ------------------------------------------------------


@pytest.mark.rabbitmq
async def test_a_worker_is_in_control_again_before_the_broker_has_noticed_a_loss(
    proxy: Proxy, transport: RabbitTransport
) -> None:
    worker = RabbitTransport(await proxy.start(), name="worker")
    await worker.open()
    queue = control_queue("w")
    await worker.declare(queue)
    inbox = Inbox(ack)
    consumer = await worker.consume(queue.name, inbox, prefetch=0)
    reconnected = asyncio.Event()
    worker.on_reconnect(reconnected.set)
    proxy.break_for_clients()
    async with asyncio.timeout(PATIENCE):
        await reconnected.wait()
    assert consumer.is_consuming
    for _ in range(2):  # the lost consumer gets its turn too, as long as the broker keeps it
        await transport.publish(Outgoing(fanout=CONTROL, body=b"stop"))
    await inbox.take()
    await worker.close()


@pytest.mark.rabbitmq
async def test_a_queue_that_could_not_be_declared_again_is_tried_until_it_can(
    proxy: Proxy,
) -> None:
    owner = RabbitTransport(await proxy.start(), name="owner", publish_timeout=PATIENCE)
    await owner.open()
    await owner.declare(Queue(name="mine", exclusive=True))
    reconnected = asyncio.Event()
    owner.on_reconnect(reconnected.set)
    proxy.break_for_clients()
    async with asyncio.timeout(PATIENCE):
        await reconnected.wait()
    with pytest.raises(TransportError, match="RESOURCE_LOCKED"):
        await owner.inspect("mine")
    proxy.break_lost()

    async def is_mine() -> bool:
        try:
            return await owner.inspect("mine") is not None
        except TransportError:
            return False

    async with asyncio.timeout(PATIENCE):
        while not await is_mine():
            await asyncio.sleep(0.05)
    await owner.close()


# -- deliveries that are acknowledged too late ----------------------------------------------------


ACKNOWLEDGED_WITHIN = 2.0
"""Seconds; usually it is half an hour."""


@pytest.fixture
def impatient_consuming(rabbit_node: RabbitNode) -> Generator[None]:
    """The broker takes back what is not acknowledged in time."""
    settings = {"consumer_timeout": int(ACKNOWLEDGED_WITHIN * 1000), "channel_tick_interval": 200}
    before = {name: _setting(rabbit_node, name) for name in settings}
    if before["consumer_timeout"] == "undefined":
        pytest.skip("this version of RabbitMQ waits for ever")
    for name, value in settings.items():
        _set(rabbit_node, name, value)
    yield
    for name, earlier in before.items():
        _set(rabbit_node, name, earlier)


def _setting(node: RabbitNode, name: str) -> str:
    return node.ctl("eval", f"application:get_env(rabbit, {name}, undefined).").strip()


def _set(node: RabbitNode, name: str, value: object) -> None:
    node.ctl("eval", f"application:set_env(rabbit, {name}, {value}).")


@pytest.mark.rabbitmq
@pytest.mark.usefixtures("impatient_consuming")
async def test_a_late_acknowledgement_takes_nothing_from_those_who_consume(
    transport: RabbitTransport,
) -> None:
    """RabbitMQ 4.3 would let the old consumer, which nobody hears, go on by it."""
    await transport.declare(WORK)
    held: list[Delivery] = []

    def settle(delivery: Delivery) -> None:
        if delivery.body == b"next" or delivery.redelivered:
            delivery.ack()
        else:
            held.append(delivery)

    inbox = Inbox(settle)
    await transport.consume(WORK.name, inbox, prefetch=3)
    await transport.publish(Outgoing(queue=WORK.name, body=b"late"))
    await inbox.take()
    await asyncio.sleep(ACKNOWLEDGED_WITHIN * 0.7)  # so that the other one is not late with it
    await transport.publish(Outgoing(queue=WORK.name, body=b"in time"))
    (_, again) = await inbox.take(2)
    assert (again.body, again.redelivered) == (b"late", True)
    held[0].ack()
    await transport.publish_all([Outgoing(queue=WORK.name, body=b"next")] * 10)
    await inbox.wait_for(lambda: sum(each.body == b"next" for each in inbox.deliveries) == 10)
    assert not any(each.redelivered for each in inbox.deliveries if each.body == b"next")


# -- our own errors -------------------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_an_unforeseen_error_in_a_repair_is_logged_and_the_repair_tried_again(
    rabbit_vhost_url: str, rabbit_node: RabbitNode, caplog: pytest.LogCaptureFixture
) -> None:
    calls = count(1)

    def clock() -> float:
        if next(calls) == 3:  # after opening and the pause: in the middle of the repair
            raise RuntimeError("the clock broke")
        return time.monotonic()

    transport = RabbitTransport(
        rabbit_vhost_url, name="test", publish_timeout=PATIENCE, clock=clock
    )
    await transport.open()
    await transport.declare(WORK)
    inbox = Inbox(ack)
    await transport.consume(WORK.name, inbox, prefetch=1)
    reconnected = asyncio.Event()
    transport.on_reconnect(reconnected.set)
    await asyncio.to_thread(rabbit_node.close_all_connections)
    async with asyncio.timeout(PATIENCE):
        await reconnected.wait()
    assert "the clock broke" in caplog.text
    await transport.publish(Outgoing(queue=WORK.name, body=b"after"))
    (delivery,) = await inbox.take()
    assert delivery.body == b"after"
    await transport.close()


class Stubborn:
    """Something whose closing neither ends nor can be cancelled, until it is let go."""

    def __init__(self) -> None:
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.was_cancelled = asyncio.Event()
        self.let_go = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        return self.closing.done()

    async def close(self) -> None:
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            await self.let_go.wait()
        raise OSError("read by nobody")


async def test_who_says_goodbye_can_be_cancelled_meanwhile() -> None:
    stubborn = Stubborn()
    goodbye = asyncio.ensure_future(say_goodbye(stubborn, timeout=0.05))
    async with asyncio.timeout(PATIENCE):
        await stubborn.was_cancelled.wait()
        goodbye.cancel()
        stubborn.let_go.set()
        await asyncio.wait([goodbye])
    assert goodbye.cancelled()
