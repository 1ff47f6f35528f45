"""The frames of AMQP 0-9-1 that every message needs, to and from bytes. All others are aiormq's.

A frame is a kind, a channel and a length, so much payload, and an end byte. A message is a frame of
a method, one with its properties, and as many with its body as it needs.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from pamqp.header import ContentHeader

from leveret_broker.transport import Outgoing

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
END: Final = 0xCE
OVERHEAD: Final = 8
"""Bytes of a frame besides its payload."""

CONNECTION_BLOCKED: Final = 10 << 16 | 60
CONNECTION_UNBLOCKED: Final = 10 << 16 | 61
CHANNEL_CLOSE: Final = 20 << 16 | 40
CHANNEL_CLOSE_OK: Final = 20 << 16 | 41
CANCEL: Final = 60 << 16 | 30
PUBLISH: Final = 60 << 16 | 40
RETURN: Final = 60 << 16 | 50
DELIVER: Final = 60 << 16 | 60
ACK: Final = 60 << 16 | 80
REJECT: Final = 60 << 16 | 90
NACK: Final = 60 << 16 | 120

FRAME: Final = struct.Struct(">BHI")
CODE: Final = struct.Struct(">I")
CONFIRM: Final = struct.Struct(">QB")
"""What follows the code of a confirm: a tag, and whether all up to it are meant."""
BODY_SIZE: Final = struct.Struct(">Q")
HEARTBEAT_FRAME: Final = FRAME.pack(HEARTBEAT, 0, 0) + bytes([END])

_END_BYTE = bytes([END])
_SETTLING = struct.Struct(">BHIIQBB")
_PUBLISHING = struct.Struct(">IH")
_CONTENT = struct.Struct(">HHQH")
_LONG = struct.Struct(">I")
_FLAGS = struct.Struct(">H")
_BODY_SIZE_AT = 4
_FLAGS_AT = 12
_WITH_HEADERS, _WITH_MODE, _WITH_CORRELATION, _WITH_ID = 1 << 13, 1 << 12, 1 << 10, 1 << 7
_KNOWN = _WITH_HEADERS | _WITH_MODE | _WITH_CORRELATION | _WITH_ID
_PERSISTENT, _TRANSIENT = b"\x02", b"\x01"
_TEXT = ord("S")
_MANDATORY = 1
_LARGEST_FRAME = 131_072
"""For a broker that names no limit."""
_ROUTES = 500
"""Methods that are kept, as most messages go where others went before."""

Piece = bytes | memoryview


# -- written --------------------------------------------------------------------------------------


def settling(code: int, channel: int, tag: int, *, bit: bool) -> bytes:
    """The frame that acknowledges (`bit`: all up to the tag) or rejects (`bit`: to requeue)."""
    return _SETTLING.pack(METHOD, channel, 13, code, tag, bit, END)


class Publishing:
    """Makes the frames that publish messages on one channel."""

    def __init__(self, channel: int, frame_max: int) -> None:
        self._channel = channel
        self._most = (frame_max or _LARGEST_FRAME) - OVERHEAD
        self._methods: dict[tuple[str, str, bool], bytes] = {}

    def pieces(self, message: Outgoing, message_id: str) -> list[Piece]:
        """What to write for one message, all or nothing. Raises `ValueError` for a text too long
        for its field."""
        body = message.body
        # Nobody has to listen to a fan-out exchange, but a queue that is named must be there.
        route = (
            message.fanout or message.exchange or "",
            message.queue or "",
            message.fanout is None,
        )
        method = self._methods.get(route) or self._method(*route)
        header = _content_header(message, message_id)
        size = len(body)
        head = FRAME.pack(HEADER, self._channel, len(header))
        if not size:
            return [method, head, header, _END_BYTE]
        if size > self._most:
            return [method, head, header, _END_BYTE, *self._split(body)]
        start = _END_BYTE + FRAME.pack(BODY, self._channel, size)
        return [method, head, header, start, body, _END_BYTE]

    def _split(self, body: bytes) -> list[Piece]:
        whole = memoryview(body)
        pieces: list[Piece] = []
        for start in range(0, len(body), self._most):
            part = whole[start : start + self._most]
            pieces += (FRAME.pack(BODY, self._channel, len(part)), part, _END_BYTE)
        return pieces

    def _method(self, exchange: str, routing_key: str, mandatory: bool) -> bytes:
        payload = b"".join(
            (
                _PUBLISHING.pack(PUBLISH, 0),
                _short(exchange),
                _short(routing_key),
                bytes([_MANDATORY if mandatory else 0]),
            )
        )
        method = FRAME.pack(METHOD, self._channel, len(payload)) + payload + _END_BYTE
        if len(self._methods) >= _ROUTES:
            self._methods.clear()
        self._methods[exchange, routing_key, mandatory] = method
        return method


def _content_header(message: Outgoing, message_id: str) -> bytes:
    flags = _WITH_MODE | _WITH_ID
    headers = correlation = b""
    if message.headers:
        flags |= _WITH_HEADERS
        headers = _table(message.headers)
    if message.correlation_id is not None:
        flags |= _WITH_CORRELATION
        correlation = _short(message.correlation_id)
    return b"".join(
        (
            _CONTENT.pack(60, 0, len(message.body), flags),
            headers,
            _PERSISTENT if message.persistent else _TRANSIENT,
            correlation,
            _short(message_id),
        )
    )


def _table(headers: Mapping[str, str]) -> bytes:
    fields: list[bytes] = []
    for name, text in headers.items():
        value = text.encode()
        fields += (_short(name), b"S", _LONG.pack(len(value)), value)
    table = b"".join(fields)
    return _LONG.pack(len(table)) + table


def _short(text: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"{text[:40]!r}… has {len(data)} bytes: names and ids have 255 at most")
    return bytes((len(data),)) + data


# -- read -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Properties:
    """Of a message's properties those that we use."""

    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Texts only: brokers and shovels add others (`x-death`), which are not ours to read."""
    correlation_id: str | None = None
    message_id: str | None = None


def body_size(header: bytes) -> int:
    """The size of the body that follows, from a message's header."""
    size: int = BODY_SIZE.unpack_from(header, _BODY_SIZE_AT)[0]
    return size


def delivery(method: bytes) -> tuple[int, bool, str]:
    """Delivery tag, whether it was handed out before, and the exchange, from a `basic.deliver`."""
    at = 5 + method[4]
    tag, redelivered = CONFIRM.unpack_from(method, at)
    length = method[at + 9]
    return tag, bool(redelivered), method[at + 10 : at + 10 + length].decode()


def properties(header: bytes) -> Properties:
    """The properties in a message's header. Raises `ValueError` if they make no sense."""
    try:
        return _ours(header) or _foreign(header)
    except (IndexError, struct.error) as error:
        raise ValueError(f"a message's properties can't be read: {error}") from error


def _ours(header: bytes) -> Properties | None:
    """What has only the properties that we write; `None` for anything else."""
    (flags,) = _FLAGS.unpack_from(header, _FLAGS_AT)
    if flags & ~_KNOWN:
        return None
    at = _FLAGS_AT + 2
    headers: dict[str, str] = {}
    correlation_id = message_id = None
    if flags & _WITH_HEADERS:
        end = at + 4 + _LONG.unpack_from(header, at)[0]
        texts = _texts(header, at + 4, end)
        if texts is None:
            return None
        headers, at = texts, end
    if flags & _WITH_MODE:
        at += 1
    if flags & _WITH_CORRELATION:
        end = at + 1 + header[at]
        correlation_id = header[at + 1 : end].decode()
        at = end
    if flags & _WITH_ID:
        message_id = header[at + 1 : at + 1 + header[at]].decode()
    return Properties(headers=headers, correlation_id=correlation_id, message_id=message_id)


def _texts(data: bytes, at: int, end: int) -> dict[str, str] | None:
    """A table of texts; `None` if it has something else."""
    found: dict[str, str] = {}
    while at < end:
        name_end = at + 1 + data[at]
        if data[name_end] != _TEXT:
            return None
        value = name_end + 5
        value_end = value + _LONG.unpack_from(data, name_end + 1)[0]
        try:
            found[data[at + 1 : name_end].decode()] = data[value:value_end].decode()
        except UnicodeDecodeError:
            return None
        at = value_end
    return found


def _foreign(header: bytes) -> Properties:
    content = ContentHeader()
    content.unmarshal(header)
    read = content.properties
    headers = cast(dict[str, Any], read.headers or {})
    return Properties(
        headers={name: value for name, value in headers.items() if isinstance(value, str)},
        correlation_id=read.correlation_id,
        message_id=read.message_id,
    )
