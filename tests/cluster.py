"""A cluster inside the test's process: coordinator and worker on a real RabbitMQ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leveret.definitions import Definition
from leveret_broker.clock import SystemClock
from leveret_broker.lifecycle import IoThread
from leveret_broker.rabbitmq import RabbitTransport
from leveret_coordinator.service import CoordinatorService
from leveret_worker.service import WorkerService

KEY = bytes(range(32))


class Cluster:
    """One coordinator and one worker, each with its own connection, on a thread of their own."""

    def __init__(
        self,
        url: str,
        definitions: Sequence[Definition[..., Any]],
        *,
        project: str,
        slots: int | None = None,
        processes: int | None = None,
        catalog: Path | None = None,
    ) -> None:
        self._io = IoThread("test-cluster")
        self._transports = [RabbitTransport(url, name="test") for _ in range(2)]
        self._coordinator = CoordinatorService(self._transports[0], catalog, clock=SystemClock())
        self._worker = WorkerService(
            self._transports[1],
            definitions,
            project=project,
            key=KEY,
            slots=slots,
            processes=processes,
        )

    async def __aenter__(self) -> "Cluster":
        self._io.start()
        await self._io.call(self._start())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._io.call(self._stop())
        self._io.stop()

    async def _start(self) -> None:
        for transport in self._transports:
            await transport.open()
        await self._coordinator.start()
        await self._worker.start()

    async def _stop(self) -> None:
        await self._worker.stop(grace=0)
        await self._coordinator.stop()
        for transport in self._transports:
            await transport.close()
