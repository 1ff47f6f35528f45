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
from leveret.context import log_fields
from leveret.definitions import Definition
from leveret.errors import CoordinatorUnreachable, SettingError, StateError
from leveret.sealing import RENEW_AFTER
from leveret.settings import security, settings
from leveret_broker import logs, topology
from leveret_broker.errors import Misconfigured
from leveret_broker.health import Answering, Condition
from leveret_broker.loops import loop_factory
from leveret_broker.persistent import Make, Persistent
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.signals import run_until_signalled
from leveret_broker.urls import redact
from leveret_coordinator.errors import CatalogError
from leveret_coordinator.service import CoordinatorService, CoordinatorSettings
from leveret_worker.executor import DEFAULT_LEASE_AFTER, DEFAULT_STOP_GRACE
from leveret_worker.loader import load_apps
from leveret_worker.service import DRAIN_SECONDS, WorkerService

log = logs.get_logger("leveret")

COORDINATOR = CoordinatorSettings()
"""The defaults."""


@click.command()
@click.option(
    "--catalog",
    envvar="LEVERET_CATALOG",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("catalog.sqlite"),
    show_default=True,
    help="The catalog's SQLite file; made if it is not there.  [LEVERET_CATALOG]",
)
@click.option(
    "--standby",
    is_flag=True,
    envvar="LEVERET_STANDBY",
    help="If another coordinator has the catalog, wait and take over when it is gone.  "
    "[LEVERET_STANDBY]",
)
@options.seconds(
    "--worker-silent-after",
    COORDINATOR.worker_silent_after,
    "A worker that is silent for longer has lost its runs.",
    least=2 * topology.HEARTBEAT_EVERY,
)
@options.seconds(
    "--worker-gone-after",
    COORDINATOR.worker_gone_after,
    "A worker that the broker has not seen for longer has lost its runs.",
)
@options.payload_store
@options.seconds(
    "--payload-grace",
    COORDINATOR.payload_grace,
    "A stored payload that no run refers to is removed when it is older.",
    least=3 * RENEW_AFTER,
)
@click.option(
    "--keep",
    envvar="LEVERET_KEEP",
    metavar="AGE",
    type=options.Age(least=3600.0),
    help="Remove runs that ended longer ago: 12h, 30d; 1h at least. For ever if not set.  "
    "[LEVERET_KEEP]",
)
@options.url
@options.log_format
def coordinator(
    catalog: Path,
    standby: bool,
    worker_silent_after: float,
    worker_gone_after: float,
    payload_store: str | None,
    payload_grace: float,
    keep: float | None,
    url: str | None,
) -> None:
    """Run the coordinator: it keeps the catalog and hands out the work.

    What a lost worker executed is handed to another.
    """
    broker = options.need_url(url)
    given = CoordinatorSettings(
        worker_silent_after=worker_silent_after,
        worker_gone_after=worker_gone_after,
        payload_store=payload_store,
        payload_grace=payload_grace,
        keep=keep,
        standby=standby,
    )

    def make() -> tuple[RabbitTransport, CoordinatorService]:
        transport = _transport(broker, "leveret-coordinator")
        return transport, CoordinatorService(transport, catalog, settings=given)

    _serve("coordinator", make)


@click.command()
@click.argument("app", nargs=-1, envvar="LEVERET_APP")
@click.option(
    "--accept-code",
    is_flag=True,
    envvar="LEVERET_ACCEPT_CODE",
    help="Serve what is shipped to the project as well; needs a key.  [LEVERET_ACCEPT_CODE]",
)
@options.url
@options.project
@options.slots
@options.payload_store
@options.seconds(
    "--lease-after",
    DEFAULT_LEASE_AFTER,
    "A run that takes longer is acknowledged to the broker, and leased.",
)
@options.seconds(
    "--stop-grace",
    DEFAULT_STOP_GRACE,
    "What is cancelled or over its time may take this long to unwind.",
    above_zero=False,
)
@options.seconds(
    "--drain",
    DRAIN_SECONDS,
    "Tasks under way at a SIGTERM may take this long to end.",
    above_zero=False,
)
@options.log_format
def worker(
    app: tuple[str, ...],
    accept_code: bool,
    url: str | None,
    project: str | None,
    slots: int | None,
    processes: int | None,
    payload_store: str | None,
    lease_after: float,
    stop_grace: float,
    drain: float,
) -> None:
    """Serve the tasks and workflows in APP's modules or files.

    LEVERET_APP names them as well, separated by spaces.

    With --accept-code, whoever has the project's key can run code here; APP may be left out then.

    SIGTERM drains: tasks under way may end, what has not started goes back. A second one stops
    at once.
    """
    logs.add_context(log_fields)
    if not app and not accept_code:
        raise click.UsageError(
            "nothing to serve: name a module or a file with tasks or workflows (APP, or "
            "LEVERET_APP), or serve what is shipped to the project (--accept-code, or "
            "LEVERET_ACCEPT_CODE=1)"
        )
    given = options.need_url(url)
    with options.naming("app", "LEVERET_APP"):
        definitions = load(app)
    with options.naming("project", "LEVERET_PROJECT"):
        served = checked_project(project) or DEFAULT_PROJECT
    keys = options.keyring()
    payloads = settings().payloads(payload_store)

    def make() -> tuple[RabbitTransport, Draining]:
        transport = _transport(given, "leveret-worker")
        service = WorkerService(
            transport,
            definitions,
            project=served,
            keys=keys,
            payloads=payloads,
            slots=slots,
            processes=processes,
            where=redact(given),
            lease_after=lease_after,
            stop_grace=stop_grace,
            accept_code=accept_code,
        )
        return transport, Draining(service, drain)

    _serve("worker", make)


class Draining:
    """A worker that stops with this many seconds for what it executes."""

    def __init__(self, service: WorkerService, seconds: float) -> None:
        self._service = service
        self._seconds = seconds

    async def start(self) -> None:
        await self._service.start()

    async def stop(self) -> None:
        await self._service.stop(self._seconds)

    async def condition(self) -> Condition:
        return await self._service.condition()


def _transport(url: str, name: str) -> RabbitTransport:
    timeout = settings().connect_timeout
    return RabbitTransport(
        url, name=name, connect_timeout=timeout, security=security(), insists=False
    )


def load(app: Sequence[str]) -> Sequence[Definition[..., Any]]:
    """The definitions in modules or files. Raises `AppError`."""
    return load_apps(app)


def _serve(kind: str, make: Make) -> None:
    service = Persistent(make, also=(CoordinatorUnreachable,))
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(run_until_signalled(Answering(kind, service)))
    except Misconfigured as error:
        raise SettingError(str(error)) from error
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
