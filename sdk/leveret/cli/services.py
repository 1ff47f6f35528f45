"""The composition root of the services: `leveret coordinator` and `leveret worker`.

With `leveret.embedded` the only place that imports coordinator and worker.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from leveret.cli import options
from leveret.connection import DEFAULT_PROJECT
from leveret.definitions import Definition
from leveret.errors import CoordinatorUnreachable, StateError
from leveret.settings import settings
from leveret_broker import logs
from leveret_broker.clock import SystemClock
from leveret_broker.errors import TransportUnreachable
from leveret_broker.lifecycle import Service
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.signals import run_until_signalled
from leveret_broker.urls import redact
from leveret_coordinator.errors import CatalogError
from leveret_coordinator.service import CoordinatorService
from leveret_worker.loader import load_apps
from leveret_worker.service import WorkerService

log = logs.get_logger("leveret")


@click.command()
@click.option(
    "--catalog",
    envvar="LEVERET_CATALOG",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("catalog.sqlite"),
    show_default=True,
    help="The catalog's SQLite file; made if it is not there.  [LEVERET_CATALOG]",
)
@options.url
def coordinator(catalog: Path, url: str | None) -> None:
    """Run the coordinator: it keeps the catalog and hands out the work."""
    logs.configure()
    transport = _transport(options.need_url(url), "leveret-coordinator")
    _serve(_Coordinator(transport, catalog))


@click.command()
@click.argument("app", nargs=-1, required=True)
@options.url
@options.project
@options.slots
def worker(
    app: tuple[str, ...],
    url: str | None,
    project: str | None,
    slots: int | None,
    processes: int | None,
) -> None:
    """Serve the tasks and workflows in APP's modules or files.

    SIGTERM drains: tasks under way may end, what has not started goes back. A second one stops
    at once.
    """
    logs.configure()
    given = options.need_url(url)
    definitions = load(app)
    transport = _transport(given, "leveret-worker")
    service = WorkerService(
        transport,
        project=project or DEFAULT_PROJECT,
        key=options.key(),
        slots=slots,
        processes=processes,
        where=redact(given),
    )
    _serve(_Worker(transport, service, definitions))


def _transport(url: str, name: str) -> RabbitTransport:
    return RabbitTransport(url, name=name, connect_timeout=settings().connect_timeout)


def load(app: Sequence[str]) -> Sequence[Definition[..., Any]]:
    """The definitions in modules or files. Raises `AppError`."""
    return load_apps(app)


class _Coordinator:
    """The coordinator with its connection."""

    def __init__(self, transport: RabbitTransport, catalog: Path) -> None:
        self._transport = transport
        self._service = CoordinatorService(transport, catalog, clock=SystemClock())
        self._catalog = catalog

    async def start(self) -> None:
        await self._transport.open()
        try:
            await self._service.start()
        except BaseException:
            await self._transport.close()
            raise
        log.info("coordinator ready", catalog=str(self._catalog))

    async def stop(self) -> None:
        log.info("coordinator stops")
        await self._service.stop()
        await self._transport.close()


class _Worker:
    """A worker with its connection and what it serves."""

    def __init__(
        self,
        transport: RabbitTransport,
        service: WorkerService,
        definitions: Sequence[Definition[..., Any]],
    ) -> None:
        self._transport = transport
        self._service = service
        self._definitions = definitions

    async def start(self) -> None:
        await self._transport.open()
        try:
            await self._service.start()
            records = await self._service.serve(self._definitions)
        except BaseException:
            await self._close()
            raise
        log.info("worker ready", worker=self._service.id, serves=[r.queue for r in records])

    async def stop(self) -> None:
        log.info("worker stops", worker=self._service.id)
        await self._close()

    async def _close(self) -> None:
        await self._service.stop()
        await self._transport.close()


def _serve(service: Service) -> None:
    try:
        asyncio.run(run_until_signalled(service))
    except TransportUnreachable as error:
        raise CoordinatorUnreachable(str(error)) from error
    except CatalogError as error:
        raise StateError(str(error)) from error
