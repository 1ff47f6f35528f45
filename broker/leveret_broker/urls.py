"""The URL of a broker: `amqp://user:password@host:port/vhost`, or `amqps://` with TLS."""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from leveret_broker.errors import Misconfigured

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
    is_tls: bool = False

    @property
    def query(self) -> dict[str, str]:
        """Its parameters."""
        return dict(parse_qsl(urlsplit(self.text).query, keep_blank_values=True))

    def __str__(self) -> str:
        return self.redacted

    def with_options(self, **options: str) -> str:
        """The full URL with query options added; options that it has already win."""
        parts = urlsplit(self.text)
        query = urlencode({**options, **dict(parse_qsl(parts.query))})
        return parts._replace(query=query).geturl()


def parse(text: str) -> BrokerUrl:
    """Take a broker's URL apart.

    Raises `Misconfigured`, without the password, if it is none.
    """
    shown = redact(text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        # The original error may quote the password, so it is no cause here.
        raise Misconfigured(f"{shown} is no broker URL") from (None if "@" in text else error)
    if "@" in f"{parts.path}{parts.query}{parts.fragment}" or parts.fragment:
        # Taken as it stands, a part of the password would be the port or the virtual host.
        raise Misconfigured(
            f"{shown} is no broker URL: characters such as / ? # @ in a password or a virtual "
            "host have to be percent-encoded, / as %2F"
        )
    if parts.scheme not in _PORTS or not parts.hostname:
        raise Misconfigured(
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
        is_tls=parts.scheme == "amqps",
    )


def redact(url: str) -> str:
    """The text with a URL's password, if any, replaced; fit for messages and logs.

    A URL that is none may hold a password too: whatever stands before the last `@` is hidden.
    """
    head, at, location = url.rpartition("@")
    scheme, separator, credentials = head.partition("://")
    if not separator:
        scheme, credentials = "", head
    user, colon, _ = credentials.partition(":")
    if not (at and colon):
        return url
    return f"{scheme}{separator}{user}:{_HIDDEN}@{location}"
