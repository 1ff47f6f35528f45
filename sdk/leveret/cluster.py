"""The cluster behind a client: a RabbitMQ connection and a session over it."""

import asyncio

from leveret.connection import Connection
from leveret.errors import CoordinatorUnreachable
from leveret.keys import Keyring
from leveret.sealing import PayloadOptions
from leveret.session import Session
from leveret.settings import security
from leveret.shipping import Shipper
from leveret_broker.errors import TransportUnreachable
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.urls import redact


class ClusterBackend:
    """Opens and closes what a client needs to reach a cluster."""

    def __init__(
        self,
        url: str,
        *,
        project: str | None,
        keys: Keyring | None,
        timeout: float,
        payloads: PayloadOptions | None = None,
    ) -> None:
        self._project = project
        self._keys = keys
        self._payloads = payloads
        self._transport = RabbitTransport(
            url, name="leveret-client", connect_timeout=timeout, security=security()
        )
        self._session = Session(
            self._transport, where=redact(url), patience=timeout, project=project
        )

    async def open(self) -> Connection:
        try:
            await self._transport.open()
        except TransportUnreachable as error:
            raise CoordinatorUnreachable(str(error)) from error
        await self._session.start()
        connection = Connection(
            self._session, project=self._project, keys=self._keys, payloads=self._payloads
        )
        connection.shipper = Shipper(connection, asyncio.get_running_loop())
        return connection

    async def close(self) -> None:
        await self._session.stop()
        await self._transport.close()
