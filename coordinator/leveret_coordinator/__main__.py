"""`python -m leveret_coordinator`: the coordinator alone, where only this package is installed."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from leveret_broker import ages, logs, tls
from leveret_broker.command_line import hide_passwords
from leveret_broker.errors import Misconfigured
from leveret_broker.health import Answering
from leveret_broker.loops import loop_factory
from leveret_broker.persistent import Persistent
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.signals import run_until_signalled
from leveret_coordinator.errors import CatalogError
from leveret_coordinator.retention import LEAST_AGE
from leveret_coordinator.service import CoordinatorService, CoordinatorSettings


async def serve(
    url: str, catalog_path: Path | None, *, settings: CoordinatorSettings | None = None
) -> None:
    """Run a coordinator against RabbitMQ until SIGTERM or SIGINT, then stop it cleanly.

    Raises `Misconfigured` or `TlsProblem` for settings that make no sense, or a `CatalogError`
    that says why the catalog can't be used.
    """
    security = tls.from_environment()

    def make() -> tuple[RabbitTransport, CoordinatorService]:
        transport = RabbitTransport(
            url, name="leveret-coordinator", security=security, insists=False
        )
        return transport, CoordinatorService(transport, catalog_path, settings=settings)

    await run_until_signalled(Answering("coordinator", Persistent(make)))


def _kept_for(text: str) -> float:
    try:
        seconds = ages.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if seconds < LEAST_AGE:
        raise argparse.ArgumentTypeError(f"{text!r} is less than {ages.text(LEAST_AGE)}")
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 2 if the catalog or a setting can't be used."""
    if arguments is None:
        hide_passwords()
    parser = argparse.ArgumentParser(prog="leveret_coordinator", description=__doc__)
    # Not as its default, which a help text may show.
    parser.add_argument("--url", help="the broker; LEVERET_URL by default")
    parser.add_argument(
        "--catalog", type=Path, default=Path(os.environ.get("LEVERET_CATALOG", "catalog.sqlite"))
    )
    parser.add_argument(
        "--standby",
        action="store_true",
        default=os.environ.get("LEVERET_STANDBY", "").lower() in ("1", "true", "yes", "on"),
        help="if another coordinator has the catalog, wait and take over when it is gone",
    )
    parser.add_argument(
        "--log-format",
        choices=get_args(logs.Format),
        default=os.environ.get(logs.VARIABLE) or "auto",
        help="lines of text, or of JSON; auto: text on a terminal",
    )
    parser.add_argument("--payload-store", default=os.environ.get("LEVERET_PAYLOAD_STORE"))
    parser.add_argument(
        "--keep",
        type=_kept_for,
        default=os.environ.get("LEVERET_KEEP") or None,
        metavar="AGE",
        help="remove runs that ended longer ago: 12h, 30d; 1h at least",
    )
    options = parser.parse_args(arguments)
    url = options.url or os.environ.get("LEVERET_URL")
    if url is None:
        parser.error("give --url, or set LEVERET_URL")
    logs.configure(options.log_format)
    try:
        settings = CoordinatorSettings(
            payload_store=options.payload_store, standby=options.standby, keep=options.keep
        )
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(url, options.catalog, settings=settings))
    except (CatalogError, Misconfigured, tls.TlsProblem) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
