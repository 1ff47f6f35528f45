"""Our frames are those that an independent library writes and reads."""

from collections.abc import Sequence

import pamqp.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.header import ContentHeader

from leveret_broker import rabbitmq_frames as frames
from leveret_broker.transport import Outgoing
from tests.broker.scripted import Any_, content

SHORT = st.text(max_size=60)
NAME = st.text(max_size=30)
EXCHANGE = st.from_regex(r"[a-zA-Z0-9_.:-]{0,60}", fullmatch=True)
OUTGOING = st.builds(
    Outgoing,
    body=st.binary(max_size=200),
    queue=SHORT | st.none(),
    exchange=SHORT | st.none(),
    fanout=SHORT.filter(bool) | st.none(),
    correlation_id=SHORT | st.none(),
    headers=st.dictionaries(SHORT, st.text(), max_size=4),
    persistent=st.booleans(),
)


def unmarshalled(data: bytes) -> Sequence[Any_]:
    """Whole frames of channel 7."""
    found: list[Any_] = []
    while data:
        size, channel, said = pamqp.frame.unmarshal(data)
        assert channel == 7
        assert isinstance(said, Any_)
        found.append(said)
        data = data[size:]
    return found


def payload(header: ContentHeader) -> bytes:
    return pamqp.frame.marshal(header, 1)[7:-1]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(OUTGOING, st.integers(min_value=9, max_value=300))
def test_a_message_that_is_published_is_read_as_it_was_meant(
    message: Outgoing, frame_max: int
) -> None:
    pieces = frames.Publishing(7, frame_max).pieces(message, "12")
    method, header, *bodies = unmarshalled(b"".join(pieces))
    assert isinstance(method, spec.Basic.Publish)
    assert method.exchange == (message.fanout or message.exchange or "")
    assert method.routing_key == (message.queue or "")
    assert method.mandatory == (message.fanout is None)
    assert isinstance(header, ContentHeader)
    assert header.body_size == len(message.body)
    assert header.properties.message_id == "12"
    assert header.properties.correlation_id == message.correlation_id
    assert (header.properties.headers or {}) == message.headers
    assert header.properties.delivery_mode == (2 if message.persistent else 1)
    assert b"".join(body.value for body in bodies) == message.body  # type: ignore[union-attr]
    assert all(len(pamqp.frame.marshal(body, 7)) <= frame_max for body in bodies)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(OUTGOING)
def test_the_properties_that_we_write_we_read(message: Outgoing) -> None:
    pieces = frames.Publishing(7, 4096).pieces(message, "12")
    read = frames.properties(bytes(pieces[2]))
    assert read.headers == message.headers
    assert (read.correlation_id, read.message_id) == (message.correlation_id, "12")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    headers=st.dictionaries(
        NAME, st.text() | st.integers(0, 9) | st.booleans() | st.lists(st.text(), max_size=2)
    ),
    correlation_id=SHORT.filter(bool) | st.none(),
    message_id=SHORT.filter(bool) | st.none(),
    reply_to=SHORT.filter(bool) | st.none(),
    priority=st.integers(0, 9) | st.none(),
)
def test_the_properties_that_others_write_are_read_too(
    headers: dict[str, str | int | bool | list[str]],
    correlation_id: str | None,
    message_id: str | None,
    reply_to: str | None,
    priority: int | None,
) -> None:
    properties = spec.Basic.Properties(
        headers=headers,  # type: ignore[arg-type]
        correlation_id=correlation_id,
        message_id=message_id,
        reply_to=reply_to,
        priority=priority,
    )
    read = frames.properties(payload(ContentHeader(body_size=3, properties=properties)))
    texts = {name: value for name, value in headers.items() if isinstance(value, str)}
    assert read.headers == texts
    assert (read.correlation_id, read.message_id) == (correlation_id, message_id)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=40))
def test_properties_that_make_no_sense_are_a_value_error(data: bytes) -> None:
    try:
        frames.properties(bytes(12) + data)
    except ValueError:
        return


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    tag=st.integers(1, 2**63 - 1),
    redelivered=st.booleans(),
    exchange=EXCHANGE,
    consumer=SHORT,
    key=SHORT,
)
def test_a_delivery_is_read(
    tag: int, redelivered: bool, exchange: str, consumer: str, key: str
) -> None:
    method = spec.Basic.Deliver(
        consumer_tag=consumer,
        delivery_tag=tag,
        redelivered=redelivered,
        exchange=exchange,
        routing_key=key,
    )
    data = pamqp.frame.marshal(method, 7)[7:-1]
    assert frames.delivery(data) == (tag, redelivered, exchange)


@pytest.mark.parametrize("bit", [False, True])
def test_what_settles_is_read_as_it_was_meant(bit: bool) -> None:
    (ack,) = unmarshalled(frames.settling(frames.ACK, 7, 2**40, bit=bit))
    assert isinstance(ack, spec.Basic.Ack)
    assert (ack.delivery_tag, ack.multiple) == (2**40, bit)
    (reject,) = unmarshalled(frames.settling(frames.REJECT, 7, 3, bit=bit))
    assert isinstance(reject, spec.Basic.Reject)
    assert (reject.delivery_tag, reject.requeue) == (3, bit)


def test_a_name_that_is_too_long_is_told() -> None:
    with pytest.raises(ValueError, match="has 256 bytes: names and ids have 255 at most"):
        frames.Publishing(7, 4096).pieces(Outgoing(body=b"", queue="q" * 256), "1")


def test_the_size_of_a_body_is_known_from_its_header() -> None:
    (_, header) = content(spec.Basic.Deliver(), b"")
    assert isinstance(header, ContentHeader)
    assert frames.body_size(payload(ContentHeader(body_size=2**40))) == 2**40
    assert frames.body_size(payload(header)) == 0
