"""RabbitMQ's management API, as much of it as setting a user's permissions takes."""

import base64
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

from leveret_broker.permissions import Permissions
from leveret_broker.tls import Tls, TlsProblem, meaning
from leveret_broker.urls import BrokerUrl, redact

TIMEOUT = 15.0
"""Seconds for one request."""


class ManagementError(Exception):
    """The API refused, or said something unexpected. Its text holds no password."""


class Unreachable(ManagementError):
    """There is no such API there: the plugin may be off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    status: int
    body: bytes


class Management:
    """The API at a URL such as `http://user:password@host:15672`. Its methods block."""

    def __init__(self, url: str, security: Tls) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unreachable(f"{redact(url)} is no URL of a management API")
        self._shown = redact(url)
        host = parts.netloc.rpartition("@")[2]
        self._name = parts.hostname
        self._base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        self._security = security
        self._is_tls = parts.scheme == "https"
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"authorization": f"Basic {token}", "content-type": "application/json"}

    def create_user(self, user: str, password: str) -> None:
        """Without any tag: it may use no management API itself."""
        self._ask("PUT", f"users/{_quoted(user)}", {"password": password, "tags": ""})

    def permissions(self, vhost: str, user: str) -> Permissions | None:
        """What the user may do there; `None` for nothing, or if there is no such user."""
        answer = self._ask("GET", _permissions(vhost, user), missing_is_fine=True)
        if answer.status == 404:
            return None
        found = _fields(answer)
        return Permissions(
            configure=str(found["configure"]), write=str(found["write"]), read=str(found["read"])
        )

    def set_permissions(self, vhost: str, user: str, given: Permissions) -> None:
        body = {"configure": given.configure, "write": given.write, "read": given.read}
        self._ask("PUT", _permissions(vhost, user), body)

    def clear_permissions(self, vhost: str, user: str) -> None:
        self._ask("DELETE", _permissions(vhost, user), missing_is_fine=True)

    def close_connections(self, vhost: str, user: str) -> None:
        """Of the user there: they would keep what was allowed when they began."""
        for one in _rows(self._ask("GET", "connections")):
            if (one.get("user"), one.get("vhost")) == (user, vhost):
                name = _quoted(str(one["name"]))
                self._ask("DELETE", f"connections/{name}", missing_is_fine=True)

    def _ask(
        self, method: str, path: str, body: object = None, *, missing_is_fine: bool = False
    ) -> _Answer:
        request = urllib.request.Request(  # noqa: S310  # its scheme was checked
            f"{self._base}/api/{path}",
            method=method,
            headers=self._headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            answer = self._sent(request)
        except TlsProblem as error:
            raise Unreachable(f"{self._shown} can't be used: {error}") from error
        except OSError as error:
            raise Unreachable(self._why(error)) from error
        if answer.status < 300 or (answer.status == 404 and missing_is_fine):
            return answer
        if answer.status == 401:
            raise ManagementError(
                f"{self._shown} refused the login: the user has to exist, with the tag management, "
                "and administrator to set permissions"
            )
        raise ManagementError(f"{self._shown} refused to {method} {path}: {_reason(answer)}")

    def _sent(self, request: urllib.request.Request) -> _Answer:
        context = self._security.context() if self._is_tls else None
        try:
            with urllib.request.urlopen(  # noqa: S310  # its scheme was checked
                request, timeout=TIMEOUT, context=context
            ) as response:
                return _Answer(status=response.status, body=response.read())
        except urllib.error.HTTPError as error:
            with error:
                return _Answer(status=error.code, body=error.read())

    def _why(self, error: OSError) -> str:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLError):
            told = meaning(reason, name=self._name, tls=self._security)
            if told is not None:
                return f"{self._shown} can't be used: {told}"
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        return (
            f"the management API at {self._shown} can't be reached ({text}): is the plugin "
            "rabbitmq_management on?"
        )


def default_url(broker: BrokerUrl) -> str:
    """Where the API of a broker is by custom, with the broker's user."""
    parts = urlsplit(broker.text)
    credentials, at, _ = parts.netloc.rpartition("@")
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    scheme, port = ("https", 15671) if broker.is_tls else ("http", 15672)
    return f"{scheme}://{credentials}{at}{host}:{port}"


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _permissions(vhost: str, user: str) -> str:
    return f"permissions/{_quoted(vhost)}/{_quoted(user)}"


def _fields(answer: _Answer) -> dict[str, Any]:
    try:
        found: object = json.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ManagementError("what answers there is no management API of RabbitMQ")
    return cast(dict[str, Any], found)


def _rows(answer: _Answer) -> list[dict[str, Any]]:
    found: object = json.loads(answer.body)
    return cast(list[dict[str, Any]], found) if isinstance(found, list) else []


def _reason(answer: _Answer) -> str:
    try:
        fields = _fields(answer)
    except ManagementError:
        return f"status {answer.status}"
    return str(fields.get("reason") or fields.get("error") or f"status {answer.status}")
