"""`leveret health`: whether the service in this container, or on this machine, does its work."""

import json
import os

import click

from leveret_broker import probe, run_directory

HEALTHY, UNHEALTHY = 0, 1
DEFAULT_WITHIN = 3.0
"""Seconds."""


@click.command()
@click.option(
    "--live",
    is_flag=True,
    envvar="LEVERET_HEALTH_LIVE",
    help="Ask only whether a restart would help: a service that waits for its broker is fine.",
)
@click.option(
    "--within",
    envvar="LEVERET_HEALTH_WITHIN",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True, max=60),
    default=DEFAULT_WITHIN,
    show_default=True,
    help="Silence for longer is unhealthy.  [LEVERET_HEALTH_WITHIN]",
)
@click.option(
    "--run-dir",
    envvar="LEVERET_RUN_DIR",
    metavar="FOLDER",
    help="The folder by which services are found, if they were given one.  [LEVERET_RUN_DIR]",
)
@click.option("--json", "as_json", is_flag=True, envvar="LEVERET_JSON", help="Print one document.")
def health(live: bool, within: float, run_dir: str | None, as_json: bool) -> int:
    """Tell whether the coordinator or worker here is connected and consumes its queues.

    Exits with 0 if it does, and with 1 otherwise, saying what is wrong. For health checks of
    containers, and for probes: without --live whether it is ready, with it whether to restart it.
    """
    given = {} if run_dir is None else {run_directory.VARIABLE: run_dir}
    environment = {**os.environ, **given}
    answers = probe.ask_all(run_directory.sockets(environment), within=within)
    good = [each.is_live if live else each.is_ready for each in answers]
    if as_json:
        click.echo(json.dumps([_document(each) for each in answers], indent=2))
    else:
        for answer, is_good in zip(answers, good, strict=True):
            click.echo(f"leveret: the {answer.subject} {answer.text}", err=not is_good)
    if not answers:
        folders = ", ".join(map(str, run_directory.candidates(environment)))
        click.echo(f"leveret: no coordinator or worker runs here (looked in {folders})", err=True)
    return HEALTHY if answers and all(good) else UNHEALTHY


def _document(answer: probe.Answer) -> dict[str, object]:
    return {
        "service": answer.kind,
        "pid": answer.pid,
        "ready": answer.is_ready,
        "live": answer.is_live,
        "text": answer.text,
    }
