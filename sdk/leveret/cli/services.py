"""The composition root of the services: `leveret coordinator` and `leveret worker`.

With `leveret.embedded` the only place that imports coordinator and worker.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from leveret.cli import options
from leveret.client import checked_project
from leveret.connection import DEFAULT_PROJECT
from leveret.definitions import Definition
from leveret.errors import CoordinatorUnreachable, StateError
from leveret.settings import settings
from leveret_broker import logs
from leveret_broker.errors import TransportUnreachable
from leveret_broker.lifecycle import Connected, Service
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
    _serve(transport, CoordinatorService(transport, catalog))


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
        definitions,
        project=checked_project(project) or DEFAULT_PROJECT,
        key=options.key(),
        slots=slots,
        processes=processes,
        where=redact(given),
    )
    _serve(transport, service)


def _transport(url: str, name: str) -> RabbitTransport:
    return RabbitTransport(url, name=name, connect_timeout=settings().connect_timeout)


def load(app: Sequence[str]) -> Sequence[Definition[..., Any]]:
    """The definitions in modules or files. Raises `AppError`."""
    return load_apps(app)


def _serve(transport: RabbitTransport, service: Service) -> None:
    try:
        asyncio.run(run_until_signalled(Connected(transport, service)))
    except TransportUnreachable as error:
        raise CoordinatorUnreachable(str(error)) from error
    except CatalogError as error:
        raise StateError(str(error)) from error
    _leave_threads_behind()


def _leave_threads_behind() -> None:
    """End the process even if threads of the user's code run on: their runs were given back."""
    left = [thread.name for thread in threading.enumerate()[1:] if not thread.daemon]
    if left:
        log.warning("threads are left behind", threads=left)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
