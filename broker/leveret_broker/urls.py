"""The URL of a broker: `amqp://user:password@host:port/vhost`, or `amqps://` with TLS."""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from leveret_broker.errors import TransportUnreachable

_PORTS = {"amqp": 5672, "amqps": 5671}
_HIDDEN = "***"


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerUrl:
    """A broker's URL taken apart. Its text has no password."""

    text: str = field(repr=False)
    """As it was given, password included: for connecting only."""
    host: str
    port: int
    user: str
    vhost: str
    redacted: str

    def __str__(self) -> str:
        return self.redacted

    def with_options(self, **options: str) -> str:
        """The full URL with query options added; options that it has already win."""
        parts = urlsplit(self.text)
        query = urlencode({**options, **dict(parse_qsl(parts.query))})
        return parts._replace(query=query).geturl()


def parse(text: str) -> BrokerUrl:
    """Take a broker's URL apart.

    Raises `TransportUnreachable`, without the password, if it is none.
    """
    shown = redact(text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        # The original error may quote the password, so it is no cause here.
        raise TransportUnreachable(f"{shown} is no broker URL") from (
            None if "@" in text else error
        )
    if parts.scheme not in _PORTS or not parts.hostname:
        raise TransportUnreachable(
            f"{shown} is no broker URL: write amqp://user:password@host:5672/vhost, or amqps:// "
            "for TLS"
        )
    return BrokerUrl(
        text=text,
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        user=unquote(parts.username or "guest"),
        vhost=unquote(parts.path[1:]) or "/",
        redacted=shown,
    )


def redact(url: str) -> str:
    """The URL with its password, if any, replaced; fit for messages and logs."""
    scheme, separator, rest = url.partition("://")
    credentials, at, location = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    if not (separator and at and colon):
        return url
    return f"{scheme}://{user}:{_HIDDEN}@{location}"
