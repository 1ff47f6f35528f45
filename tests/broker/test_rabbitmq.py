"""What only RabbitMQ has: logins, virtual hosts, its own idea of queues."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import aio_pika
import pytest

from leveret_broker.errors import QueueMismatch, TransportUnreachable
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.rabbitmq_session import STABLE_AFTER, Backoff, pause
from leveret_broker.rabbitmq_topology import queue_arguments
from leveret_broker.topology import reply_queue, work_queue
from leveret_broker.transport import Delivery, Outgoing, Queue
from tests.broker.worlds import PATIENCE, Inbox
from tests.rabbit import RabbitNode


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
async def transport(rabbit_vhost_url: str) -> AsyncGenerator[RabbitTransport]:
    made = RabbitTransport(rabbit_vhost_url, name="test", publish_timeout=PATIENCE)
    await made.open()
    yield made
    await made.close()


# -- opening --------------------------------------------------------------------------------------


async def test_where_nothing_listens_opening_fails_in_time() -> None:
    port = unused_port()
    url = f"amqp://me:secret@127.0.0.1:{port}/"
    transport = RabbitTransport(url, name="test", connect_timeout=0.3)
    with pytest.raises(TransportUnreachable) as raised:
        await transport.open()
    assert str(raised.value) == (
        f"amqp://me:***@127.0.0.1:{port}/ can't be reached: nothing listens at 127.0.0.1:{port}"
    )
    await transport.close()


async def test_where_nobody_answers_opening_fails_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://me:secret@127.0.0.1:{silent.getsockname()[1]}/"
        transport = RabbitTransport(url, name="test", connect_timeout=0.2)
        with pytest.raises(TransportUnreachable, match=r"no answer within 0\.2 s") as raised:
            await transport.open()
    assert "secret" not in str(raised.value)


async def test_an_unknown_host_is_named() -> None:
    transport = RabbitTransport("amqp://me:secret@nowhere.invalid/", name="t", connect_timeout=0.5)
    with pytest.raises(TransportUnreachable, match=r"'nowhere\.invalid'|no answer"):
        await transport.open()


@pytest.mark.parametrize(
    "url", ["", "localhost", "http://host/", "amqp://", "amqp://a:secret@h:x/"]
)
async def test_what_is_no_broker_url_is_refused(url: str) -> None:
    with pytest.raises(TransportUnreachable, match="is no broker URL") as raised:
        await RabbitTransport(url, name="test").open()
    assert "secret" not in str(raised.value)


@pytest.mark.rabbitmq
async def test_a_refused_login_is_known_at_once(rabbit_url: str) -> None:
    parts = urlsplit(rabbit_url)
    url = f"amqp://somebody:wrong-secret@{parts.hostname}:{parts.port}/"
    transport = RabbitTransport(url, name="test", connect_timeout=60.0)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TransportUnreachable, match="refused the login of user 's") as raised:
            await transport.open()
    assert "wrong-secret" not in str(raised.value)


@pytest.mark.rabbitmq
async def test_an_unknown_virtual_host_is_known_at_once(rabbit_node: RabbitNode) -> None:
    transport = RabbitTransport(rabbit_node.url_of("nope"), name="test", connect_timeout=60.0)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TransportUnreachable, match="refused the virtual host 'nope'"):
            await transport.open()


# -- queues ---------------------------------------------------------------------------------------


def test_work_queues_are_quorum_queues_unless_the_setting_is_off() -> None:
    queue = work_queue("p:n:1")
    assert queue_arguments(queue, replicated=True) == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 1_000_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "leveret.dead",
    }
    assert queue_arguments(queue, replicated=False)["x-queue-type"] == "classic"


def test_reply_queues_are_classic_and_expire() -> None:
    assert queue_arguments(reply_queue("s"), replicated=True) == {
        "x-queue-type": "classic",
        "x-expires": 1_800_000,
    }


@pytest.mark.rabbitmq
async def test_another_client_sees_a_persistent_message(
    transport: RabbitTransport, rabbit_vhost_url: str
) -> None:
    await transport.declare(work_queue("p:n:1"))
    await transport.publish(
        Outgoing(queue="p:n:1", body=b"x", correlation_id="run_1", headers={"k": "v"})
    )
    async with await aio_pika.connect(rabbit_vhost_url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue("p:n:1")
        message = await queue.get(timeout=PATIENCE)
        assert message is not None
        await message.ack()
    assert message.body == b"x"
    assert message.correlation_id == "run_1"
    assert message.headers["k"] == "v"
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


@pytest.mark.rabbitmq
async def test_headers_that_are_no_text_are_left_out(
    transport: RabbitTransport, rabbit_vhost_url: str
) -> None:
    await transport.declare(Queue(name="q"))
    inbox = Inbox()
    await transport.consume("q", inbox, prefetch=1)
    async with await aio_pika.connect(rabbit_vhost_url) as connection:
        channel = await connection.channel()
        message = aio_pika.Message(b"", headers={"text": "yes", "number": 1, "list": ["a"]})
        await channel.default_exchange.publish(message, routing_key="q")
    (delivery,) = await inbox.take()
    assert delivery.headers == {"text": "yes"}


@pytest.mark.rabbitmq
async def test_a_queue_that_others_declared_differently_is_a_mismatch(
    transport: RabbitTransport, rabbit_vhost_url: str
) -> None:
    async with await aio_pika.connect(rabbit_vhost_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("p:n:1", durable=True)
    with pytest.raises(QueueMismatch, match="'p:n:1' exists with other properties"):
        await transport.declare(work_queue("p:n:1"))


# -- a node that goes away ------------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_many_messages_under_way_survive_a_lost_connection(
    transport: RabbitTransport, rabbit_node: RabbitNode
) -> None:
    """More than fit into the buffers, so that some are waiting to be written when it breaks."""
    await transport.declare(work_queue("p:n:1"))
    sent: set[bytes] = set()
    breaking = asyncio.ensure_future(asyncio.to_thread(rabbit_node.close_all_connections))
    while not breaking.done():
        bodies = [str(len(sent) + index).encode() for index in range(2000)]
        messages = [Outgoing(queue="p:n:1", body=body) for body in bodies]
        assert await transport.publish_all(messages) == [None] * len(messages)
        sent.update(bodies)
    received: set[bytes] = set()

    def note(delivery: Delivery) -> None:
        received.add(delivery.body)
        delivery.ack()

    inbox = Inbox(note)
    await transport.consume("p:n:1", inbox, prefetch=500)
    await inbox.wait_for(lambda: received == sent)


def test_pauses_between_attempts_grow_and_vary() -> None:
    chances = iter([0.0, 1.0, 0.0, 1.0, 1.0])
    pauses = [pause(attempt, lambda: next(chances)) for attempt in (1, 1, 3, 3, 1000)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 5.0])


def test_pauses_start_over_only_after_a_session_that_lasted() -> None:
    now = 0.0
    backoff = Backoff(jitter=lambda: 1.0, clock=lambda: now)
    pauses: list[float] = []
    for lasted in (STABLE_AFTER + 1, STABLE_AFTER - 1, 0.0, STABLE_AFTER + 1):
        backoff.connected()
        now += lasted
        pauses.append(backoff.next_pause())
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 0.2])


def test_pauses_grow_while_no_session_begins() -> None:
    now = 0.0
    backoff = Backoff(jitter=lambda: 1.0, clock=lambda: now)
    backoff.connected()
    now = STABLE_AFTER + 1
    assert [backoff.next_pause() for _ in range(3)] == pytest.approx([0.2, 0.4, 0.8])
