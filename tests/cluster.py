"""A cluster inside the test's process: coordinator and worker on a real RabbitMQ."""

from collections.abc import Sequence
from typing import Any

from leveret.definitions import Definition
from leveret.keys import Keyring
from leveret_broker.lifecycle import Connected, IoThread
from leveret_broker.rabbitmq import RabbitTransport
from leveret_coordinator.service import CoordinatorService
from leveret_worker.service import WorkerService

KEY = bytes(range(32))
KEYS = Keyring(keys=(KEY,))


class Cluster:
    """One coordinator, and a worker for each project, each with a connection of its own."""

    def __init__(
        self,
        url: str,
        definitions: Sequence[Definition[..., Any]],
        *,
        project: str,
        also: Sequence[str] = (),
        slots: int | None = None,
        processes: int | None = None,
        publish_timeout: float = 30.0,
        keys: Keyring | None = KEYS,
    ) -> None:
        self._io = IoThread("test-cluster")
        transport = RabbitTransport(url, name="test-coordinator", publish_timeout=publish_timeout)
        self._services = [Connected(transport, CoordinatorService(transport, None))]
        for name in (project, *also):
            transport = RabbitTransport(url, name="test-worker")
            worker = WorkerService(
                transport,
                definitions,
                project=name,
                keys=keys,
                slots=slots,
                processes=processes,
            )
            self._services.append(Connected(transport, worker))

    async def __aenter__(self) -> "Cluster":
        self._io.start()
        for service in self._services:
            await self._io.call(service.start())
        return self

    async def __aexit__(self, *error: object) -> None:
        for service in reversed(self._services):
            await self._io.call(service.stop())
        self._io.stop()
