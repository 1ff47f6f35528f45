"""TLS to a RabbitMQ with certificates of authorities that are made here."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from leveret_broker import tls
from leveret_broker.errors import TransportUnreachable
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.tls import Tls
from leveret_broker.transport import Outgoing, Queue
from tests import rabbit
from tests.broker.worlds import PATIENCE, Inbox

USER = "somebody"
"""A user of the broker's who is known by a certificate."""
DAY = timedelta(days=1)
TLS_1_2 = "ssl_options.versions.1 = tlsv1.2"
"""A server of this version refuses in the handshake, a later one after it."""


class Certificates:
    """An authority, a server's certificate and clients', as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = self._write("ca.pem", self._authority.cert_pem)
        self.server = self._write("server.pem", *self._issue("localhost"))
        self.client = self._write("client.pem", *self._issue(USER, USER))

    def _issue(self, name: str, common_name: str | None = None) -> list[trustme.Blob]:
        leaf = self._authority.issue_cert(name, common_name=common_name)
        return [leaf.private_key_pem, *leaf.cert_chain_pems]

    def _write(self, name: str, *blobs: trustme.Blob) -> Path:
        path = self._folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path

    def expire_server(self) -> None:
        """From now on the server's certificate has been over for a day."""
        leaf = self._authority.issue_cert("localhost", not_after=datetime.now(UTC) - DAY)
        self._write("server.pem", leaf.private_key_pem, *leaf.cert_chain_pems)


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A node that listens with TLS and without."""

    node: rabbit.PrivateNode
    port: int
    certificates: Certificates

    @property
    def url(self) -> str:
        return f"amqps://guest:guest@localhost:{self.port}/"

    @property
    def trusting(self) -> Tls:
        """What a client needs that has no certificate."""
        return Tls(ca=self.certificates.ca)

    @property
    def mutual(self) -> Tls:
        """With a certificate as well."""
        return replace(self.trusting, cert=self.certificates.client)

    def forget_certificates(self) -> None:
        """Make the node read the files again, and break all connections."""
        self.node.ctl("eval", "ssl:clear_pem_cache().")
        self.node.close_all_connections()


MakeServer = Callable[..., Server]


@pytest.fixture(scope="module")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[MakeServer]:
    """Starts nodes, and ends them with the module's tests."""
    scripts = rabbit.installed_scripts() or rabbit.missing("this needs a RabbitMQ of its own")

    def make(*settings: str) -> Server:
        (port,) = rabbit.free_ports(1)
        made = Certificates(tmp_path_factory.mktemp("tls") / "certificates")
        lines = [
            f"listeners.ssl.default = {port}",
            f"ssl_options.cacertfile = {made.ca}",
            f"ssl_options.certfile = {made.server}",
            f"ssl_options.keyfile = {made.server}",
            "auth_mechanisms.1 = PLAIN",
            "auth_mechanisms.2 = EXTERNAL",
            "ssl_cert_login_from = common_name",
            *settings,
        ]
        node = running.enter_context(
            rabbit.own_node(
                scripts, print, settings="\n".join(lines), plugins=["rabbitmq_auth_mechanism_ssl"]
            )
        )
        node.ctl("add_user", USER, "a password that is never used")
        node.ctl("set_permissions", USER, ".*", ".*", ".*")
        return Server(node=node, port=port, certificates=made)

    with ExitStack() as running:
        yield make


@pytest.fixture(scope="module")
def server(make_server: MakeServer) -> Server:
    """It takes clients with and without a certificate."""
    return make_server(
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = false",  # which RabbitMQ 4 would not assume
    )


@pytest.fixture(scope="module", params=["ssl_options.versions.1 = tlsv1.3", TLS_1_2])
def strict(request: pytest.FixtureRequest, make_server: MakeServer) -> Server:
    """It takes only clients with a certificate of its authority."""
    return make_server(
        "ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true", request.param
    )


@pytest.fixture
def strangers(tmp_path: Path) -> Certificates:
    """Those of an authority that nobody here trusts."""
    return Certificates(tmp_path / "strangers")


@asynccontextmanager
async def connected(url: str, security: Tls | None = None) -> AsyncGenerator[RabbitTransport]:
    transport = RabbitTransport(
        url, name="test", security=security, connect_timeout=60.0, publish_timeout=PATIENCE
    )
    try:
        await transport.open()
        yield transport
    finally:
        await transport.close()


async def refusal(url: str, security: Tls | None = None) -> str:
    """What a client is told; it has to be told at once, long before its deadline."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TransportUnreachable) as raised:
            async with connected(url, security):
                pass
    assert "guest:guest" not in str(raised.value)
    return str(raised.value)


# -- the server's certificate ---------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_messages_travel_by_tls(server: Server) -> None:
    async with connected(server.url, server.trusting) as transport:
        inbox = Inbox(lambda delivery: delivery.ack())
        await transport.declare(Queue(name="by-tls", exclusive=True))
        await transport.consume("by-tls", inbox, prefetch=1)
        await transport.publish(Outgoing(queue="by-tls", body=b"hello"))
        (delivery,) = await inbox.take()
    assert delivery.body == b"hello"


@pytest.mark.rabbitmq
async def test_the_url_may_say_it_all(server: Server) -> None:
    certificates = server.certificates
    async with connected(
        f"{server.url}?cafile={certificates.ca}&certfile={certificates.client}"
        "&server_name=localhost&no_verify_ssl=0"
    ):
        pass


@pytest.mark.rabbitmq
async def test_by_default_only_the_systems_authorities_are_trusted(server: Server) -> None:
    told = await refusal(server.url)
    assert "of no authority that is trusted here (the system's): set LEVERET_TLS_CA" in told


@pytest.mark.rabbitmq
async def test_a_certificate_of_another_authority_is_refused(
    server: Server, strangers: Certificates
) -> None:
    told = await refusal(server.url, Tls(ca=strangers.ca))
    assert f"of no authority that is trusted here (those in {strangers.ca})" in told


@pytest.mark.rabbitmq
async def test_a_certificate_for_another_name_is_refused(server: Server) -> None:
    told = await refusal(server.url.replace("localhost", "127.0.0.1"), server.trusting)
    assert "the server's certificate is not for '127.0.0.1'" in told
    assert "LEVERET_TLS_SERVER_NAME" in told


@pytest.mark.rabbitmq
async def test_the_name_that_the_certificate_is_for_can_be_set(server: Server) -> None:
    named = replace(server.trusting, server_name="localhost")
    async with connected(server.url.replace("localhost", "127.0.0.1"), named):
        pass
    told = await refusal(server.url, replace(server.trusting, server_name="elsewhere.example"))
    assert "the server's certificate is not for 'elsewhere.example'" in told


@pytest.mark.rabbitmq
async def test_an_expired_certificate_is_refused_and_awaited_by_who_was_connected(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server()
    warned = asyncio.Event()
    caplog.handler.addFilter(lambda record: _set_if("has expired", record, warned))
    async with connected(server.url, server.trusting) as transport:
        kept = server.certificates.server.read_bytes()
        server.certificates.expire_server()
        await asyncio.to_thread(server.forget_certificates)
        assert "has expired: renew it there" in await refusal(server.url, server.trusting)
        async with asyncio.timeout(PATIENCE):
            await warned.wait()
        server.certificates.server.write_bytes(kept)
        await asyncio.to_thread(server.forget_certificates)
        await transport.declare(Queue(name="after-renewal", exclusive=True))
        await transport.publish(Outgoing(queue="after-renewal", body=b"still here"))


def _set_if(text: str, record: logging.LogRecord, event: asyncio.Event) -> bool:
    if text in record.getMessage() and "trying again" in record.getMessage():
        event.set()
    return True


@pytest.mark.rabbitmq
@pytest.mark.parametrize("how", ["parameter", "setting"])
async def test_turning_the_check_off_is_warned_of_at_each_start(
    server: Server, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{server.url}?no_verify_ssl=1" if how == "parameter" else server.url
    security = Tls(verify=how == "parameter")
    for _ in range(2):
        caplog.clear()
        async with connected(url, security):
            pass
        assert re.search(r"the certificate of amqps://guest:\*\*\*@.* is not checked", caplog.text)


@pytest.mark.rabbitmq
async def test_a_no_to_not_verifying_verifies(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """aiormq takes every word but `0` for a yes."""
    assert "of no authority" in await refusal(f"{server.url}?no_verify_ssl=false")
    assert "neither yes (1) nor no (0)" in await refusal(f"{server.url}?no_verify_ssl=perhaps")
    assert "is not checked" not in caplog.text


# -- ours -----------------------------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_a_client_with_a_certificate_is_let_in(strict: Server) -> None:
    async with connected(strict.url, strict.mutual):
        pass


@pytest.mark.rabbitmq
async def test_a_client_without_a_certificate_is_told_to_have_one(strict: Server) -> None:
    told = await refusal(strict.url, strict.trusting)
    assert "the server wants a certificate of ours: set LEVERET_TLS_CERT" in told


@pytest.mark.rabbitmq
async def test_a_clients_certificate_of_another_authority_is_refused(
    strict: Server, strangers: Certificates
) -> None:
    told = await refusal(strict.url, replace(strict.trusting, cert=strangers.client))
    assert f"the server refuses our certificate {strangers.client}" in told


@pytest.mark.rabbitmq
async def test_a_certificate_can_stand_for_the_password(server: Server) -> None:
    url = f"amqps://localhost:{server.port}/?auth=EXTERNAL"
    async with connected(url, server.mutual):
        users = await asyncio.to_thread(server.node.ctl, "list_connections", "user")
    assert USER in users.split()


@pytest.mark.rabbitmq
async def test_a_certificate_of_nobody_known_is_no_login(
    server: Server, rabbit_url: str, strangers: Certificates
) -> None:
    url = f"amqps://localhost:{server.port}/?auth=EXTERNAL"
    nobody = replace(server.mutual, cert=server.certificates.server)
    assert "refused the login of the user of the certificate" in await refusal(url, nobody)
    plain = f"{rabbit_url}?auth=EXTERNAL"
    assert "it offers the mechanisms" in await refusal(plain)


# -- ports and files ------------------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_plain_amqp_at_the_port_of_tls_is_told_so(server: Server) -> None:
    told = await refusal(server.url.replace("amqps", "amqp"))
    assert "what listens there speaks TLS: write amqps://" in told


@pytest.mark.rabbitmq
async def test_tls_at_the_plain_port_is_told_so(server: Server) -> None:
    told = await refusal(server.node.url.replace("amqp:", "amqps:"), server.trusting)
    assert "what listens there speaks no TLS: write amqp://" in told


async def test_settings_of_tls_are_never_ignored_by_a_plain_url() -> None:
    told = await refusal("amqp://guest:guest@localhost:1/", Tls(server_name="localhost"))
    assert "this URL is for plain connections: write amqps://, or unset them" in told
    told = await refusal("amqp://guest:guest@localhost:1/?cafile=ca.pem")
    assert "this URL is for plain connections" in told


async def test_files_that_are_no_good_are_named(tmp_path: Path, strangers: Certificates) -> None:
    url = "amqps://guest:guest@localhost:1/"
    missing, junk = tmp_path / "missing.pem", tmp_path / "junk.pem"
    junk.write_text("junk")
    for path in (missing, junk):
        assert f"the authorities in {path} can't be read" in await refusal(url, Tls(ca=path))
        assert f"our certificate {path} can't be used" in await refusal(url, Tls(cert=path))
    assert "has no certificate" in await refusal(url, Tls(key=strangers.client))
    assert "cadata is not supported" in await refusal(f"{url}?cadata=eA==")


def test_the_environment_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tls.from_environment() == Tls()
    monkeypatch.setenv("LEVERET_TLS_CA", str(tmp_path))
    monkeypatch.setenv("LEVERET_TLS_CERT", "/cert")
    monkeypatch.setenv("LEVERET_TLS_KEY", "/key")
    monkeypatch.setenv("LEVERET_TLS_SERVER_NAME", "rabbit.example")
    monkeypatch.setenv("LEVERET_TLS_VERIFY", "0")
    assert tls.from_environment() == Tls(
        ca=tmp_path,
        cert=Path("/cert"),
        key=Path("/key"),
        server_name="rabbit.example",
        verify=False,
    )


def test_a_setting_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVERET_TLS_VERIFY", "perhaps")
    with pytest.raises(tls.TlsProblem, match="LEVERET_TLS_VERIFY: "):
        tls.from_environment()
