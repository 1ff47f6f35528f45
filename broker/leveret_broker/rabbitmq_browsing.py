"""Looking at the messages of a queue without taking them.

Each counts as redelivered once more, and their order may change, which is why nobody should do it
to queues of work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiormq import spec
from aiormq.exceptions import AMQPError

from leveret_broker import rabbitmq_connection as rabbit
from leveret_broker.errors import TransportError
from leveret_broker.tls import Tls
from leveret_broker.urls import BrokerUrl


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A message that was looked at."""

    headers: Mapping[str, Any]
    body: bytes = field(repr=False)


async def look_through(
    url: BrokerUrl, queue: str, see: Callable[[Seen], None], *, security: Tls | None = None
) -> None:
    """Call `see` with each message that waits in a queue. Raises `TransportError`."""
    connection = await rabbit.connect(url, name="leveret-admin", security=security)
    try:
        channel = await rabbit.open_channel(connection)
        while True:
            message = await rabbit.call(channel.basic_get(queue))
            if isinstance(message.delivery, spec.Basic.GetEmpty):
                break
            headers = message.header.properties.headers or {}
            see(Seen(headers=headers, body=message.body))
    except AMQPError as error:
        raise rabbit.refused(f"looking at {queue}", error) from error
    except rabbit.ConnectionLost as error:
        raise TransportError(f"{url} was lost while {queue} was looked at") from error
    finally:
        await rabbit.say_goodbye(connection)  # what was not acknowledged goes back
