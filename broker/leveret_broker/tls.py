"""TLS to the broker: what is trusted, who we are, and what a failed handshake means.

The server's certificate and its name are checked unless that was turned off in so many words, which
is warned of at each start.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

_ANSWER_WITHIN = 2.0
"""Seconds."""
_YES, _NO = {"1", "true", "yes"}, {"", "0", "false", "no"}
_FILES = {"cafile": "ca", "capath": "ca", "certfile": "cert", "keyfile": "key"}
"""Parameters of a URL, by aiormq's names for them."""
_ABOUT_OUR_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")
"""In the alerts of a server that misses or mistrusts our certificate."""
_PLAIN_AT_THE_OTHER_END = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")


class TlsProblem(Exception):
    """What keeps TLS from being used, in words for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """How an `amqps://` connection is made. By default: the system's authorities, name checked."""

    ca: Path | None = None
    """Certificates of the authorities to trust in place of the system's: a PEM file or a folder."""
    cert: Path | None = None
    """Our own certificate, with its chain, if the broker asks for one."""
    key: Path | None = None
    """Its private key, unless the certificate's file holds it."""
    server_name: str | None = None
    """The name that the server's certificate is for, if not the URL's host."""
    verify: bool = True
    """Off: whoever answers is trusted, which protects from listeners only."""

    @property
    def is_given(self) -> bool:
        """Whether anything was set that only makes sense with TLS."""
        return self != Tls()

    def overridden(self, query: Mapping[str, str]) -> "Tls":
        """With what a URL's parameters say. Raises `TlsProblem` for what they can't mean."""
        files = {ours: Path(query[theirs]) for theirs, ours in _FILES.items() if theirs in query}
        if "cadata" in query:
            raise TlsProblem("the parameter cadata is not supported: put it into a file, cafile=…")
        changed = replace(
            self,
            ca=files.get("ca", self.ca),
            cert=files.get("cert", self.cert),
            key=files.get("key", self.key),
            server_name=query.get("server_name", self.server_name),
        )
        if "no_verify_ssl" in query:
            return replace(changed, verify=not _flag("no_verify_ssl", query["no_verify_ssl"]))
        return changed

    def context(self) -> ssl.SSLContext:
        """Reads the files, so it blocks. Raises `TlsProblem` naming the file that is no good."""
        return _context(self)


class TlsSettings(BaseSettings):
    """`LEVERET_TLS_CA`, `_CERT`, `_KEY`, `_SERVER_NAME` and `_VERIFY` of the environment."""

    model_config = SettingsConfigDict(
        env_prefix="LEVERET_TLS_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    verify: bool = True


def from_environment() -> Tls:
    """What the environment says. Raises `TlsProblem` naming the variable that makes no sense."""
    try:
        return Tls(**TlsSettings().model_dump())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "".join(str(part) for part in first["loc"]).upper()
        raise TlsProblem(f"LEVERET_TLS_{name}: {first['msg']}") from None


def _flag(name: str, text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise TlsProblem(f"{name}={text} says neither yes (1) nor no (0)")


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        if tls.ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _load_authorities(context, tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise TlsProblem(
            f"the authorities in {tls.ca} can't be read: {_reason(error)}. Give a PEM file, "
            "or a folder prepared by `openssl rehash`"
        ) from error
    if tls.key is not None and tls.cert is None:
        raise TlsProblem(f"the key {tls.key} has no certificate: set LEVERET_TLS_CERT too")
    if tls.cert is not None:
        _load_own(context, tls.cert, tls.key)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    if path.is_dir():
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(cafile=path)


def _load_own(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    def no_password() -> str:
        # Otherwise OpenSSL asks for it on the terminal.
        raise TlsProblem(f"the private key of {cert} is encrypted, which is not supported")

    try:
        context.load_cert_chain(cert, key, password=no_password)
    except (OSError, ssl.SSLError) as error:
        raise TlsProblem(
            f"our certificate {cert}{f' with the key {key}' if key else ''} can't be used: "
            f"{_reason(error)}"
        ) from error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return _plain(error.reason or str(error))
    return error.strerror or str(error)


# -- what a failed handshake means ----------------------------------------------------------------

_EXPIRED, _NOT_YET, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64


def meaning(error: ssl.SSLError, *, name: str, tls: Tls) -> str | None:
    """Why the handshake failed and what to do, in one sentence; `None` if it may do next time.

    `name` is the server's.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _mistrust(error.verify_code, error.verify_message, name=name, tls=tls)
    reason = error.reason or str(error)
    if reason in _PLAIN_AT_THE_OTHER_END:
        return (
            "what listens there speaks no TLS: write amqp:// for a plain port, or give the port "
            "of the TLS listener (5671 by custom)"
        )
    if "ALERT" not in reason or not any(word in reason for word in _ABOUT_OUR_CERTIFICATE):
        return None
    if tls.cert is None:
        return "the server wants a certificate of ours: set LEVERET_TLS_CERT and LEVERET_TLS_KEY"
    return (
        f"the server refuses our certificate {tls.cert}: it has to be valid, and of an authority "
        "that the server trusts"
    )


async def answers(host: str, port: int) -> bool:
    """Whether what listens there speaks TLS; asked where plain AMQP was cut off."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


def _plain(reason: str) -> str:
    return reason.replace("_", " ").lower()


def _mistrust(code: int, said: str, *, name: str, tls: Tls) -> str:
    match code:
        case _ if code == _EXPIRED:
            return "the server's certificate has expired: renew it there, and look at both clocks"
        case _ if code == _NOT_YET:
            return "the server's certificate is not valid yet: look at both clocks"
        case _ if code in (_OTHER_NAME, _OTHER_ADDRESS):
            return (
                f"the server's certificate is not for {name!r}: write the name that it is for into "
                "the URL, or set LEVERET_TLS_SERVER_NAME to it"
            )
        case _:
            trusted = f"those in {tls.ca}" if tls.ca else "the system's"
            return (
                f"the server's certificate is of no authority that is trusted here ({trusted}): "
                f"set LEVERET_TLS_CA to the authority's certificate ({said})"
            )
