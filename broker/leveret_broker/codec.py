"""Messages to bytes and back: msgpack, validated on arrival.

An envelope is the message's fields in a map, with the protocol's version under `v`.
"""

from typing import Any, TypeVar, cast

import msgpack
from pydantic import TypeAdapter, ValidationError

from leveret_broker.errors import MalformedMessage
from leveret_broker.messages import Control, Invocations, Outcomes, Replies, Request, Wire

PROTOCOL = 2

T = TypeVar("T")

_REQUESTS: TypeAdapter[Request] = TypeAdapter(Request)
_ONE: dict[type[Wire], TypeAdapter[Any]] = {
    model: TypeAdapter(model) for model in (Replies, Invocations, Outcomes, Control)
}
M = TypeVar("M", Replies, Invocations, Outcomes, Control)


def encode(message: Wire) -> bytes:
    """The bytes of any message in `messages`."""
    return msgpack.packb({"v": PROTOCOL, **message.model_dump()})


def decode(body: bytes, model: type[M]) -> M:
    """A message of the one type that a queue carries. Raises `MalformedMessage` with the reason."""
    message: M = _validated(_ONE[model], body)
    return message


def decode_request(body: bytes) -> Request:
    """Whatever may arrive in `leveret.requests`. Raises `MalformedMessage` with the reason."""
    return _validated(_REQUESTS, body)


def _validated(adapter: TypeAdapter[T], body: bytes) -> T:
    try:
        fields: object = msgpack.unpackb(body)
    except Exception as error:  # msgpack raises a dozen types for bytes that aren't its own
        raise MalformedMessage(f"not msgpack: {type(error).__name__} {error}".rstrip()) from error
    if not isinstance(fields, dict):
        raise MalformedMessage(f"a {type(fields).__name__} where a map was expected")
    version = cast(dict[object, object], fields).get("v")
    if version != PROTOCOL:
        raise MalformedMessage(f"protocol version {version!r}, this side speaks {PROTOCOL}")
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the message"
        raise MalformedMessage(f"{where}: {first['msg']}") from error
