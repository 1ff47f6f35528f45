"""`leveret run`: start a run and print its result."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console

from leveret.cli import RUN_FAILED, display, options
from leveret.client import Client, local
from leveret.errors import CoordinatorUnreachable, IdentificationError, NotDeployedError
from leveret.runs import Run
from leveret.watch import watch_run


@click.command()
@click.argument("identifier")
@click.option(
    "--input",
    "given",
    envvar="LEVERET_RUN_INPUT",
    metavar="JSON",
    help="Arguments: an object, a list, or @FILE.",
)
@click.option("--detach", is_flag=True, help="Print the run's id and don't wait for it.")
@click.option("--app", multiple=True, metavar="APP", help="Run embedded, with this module or file.")
@options.url
@options.project
@options.as_json
def run(
    identifier: str,
    given: str | None,
    detach: bool,
    app: tuple[str, ...],
    url: str | None,
    project: str | None,
    as_json: bool,
) -> int:
    """Start a run of IDENTIFIER and print its result.

    IDENTIFIER is name, name:revision, project:name:revision, or a database id. An object given by
    --input holds keyword arguments, a list positional ones. Progress goes to standard error.
    """
    if app and detach:
        raise click.UsageError("--detach needs a cluster: an embedded run ends with this command")
    args, kwargs = arguments(given)
    client = _embedded(app, project) if app else options.client(url, project)
    return asyncio.run(
        _run(client, identifier, args, kwargs, detach=detach, as_json=as_json, kept=not app)
    )


async def _run(
    client: Client,
    identifier: str,
    args: list[Any],
    kwargs: dict[str, Any],
    *,
    detach: bool,
    as_json: bool,
    kept: bool,
) -> int:
    async with client:
        started = await client.start(identifier, *args, **kwargs)
        if detach:
            display.document({"run": started.id}) if as_json else click.echo(started.id)
            return 0
        return await finish(started, as_json=as_json, kept=kept)


async def finish(started: Run[Any], *, as_json: bool = False, kept: bool) -> int:
    """Wait for a run, print how it ended, and return the exit code.

    Where runs are not `kept`, a failed one is shown here, since it can't be looked up later.
    """
    console = Console(stderr=True, highlight=False)
    try:
        result = await watch_run(started, console)
    except asyncio.CancelledError:
        started.request_cancel()
        raise
    except (CoordinatorUnreachable, IdentificationError, NotDeployedError):
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # raised by the run, not here
        root = (await started.show())[0]
        if not kept and root.failure is not None:
            click.echo(root.failure.traceback, err=True)
        click.echo(
            f"leveret: run {root.id} {root.state}: {type(error).__name__}: {error}", err=True
        )
        if kept:
            click.echo(f"leveret: `leveret runs show {root.id}` tells more", err=True)
        if as_json:
            display.document({"run": root.id, "state": root.state, "failure": _failure(root)})
        return RUN_FAILED
    if as_json:
        display.document({"run": started.id, "state": "succeeded", "result": result})
    else:
        display.value(result)
    return 0


def arguments(given: str | None) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments from `--input`."""
    if given is None:
        return [], {}
    text = given
    if given.startswith("@"):
        try:
            text = Path(given[1:]).read_text()
        except OSError as error:
            raise click.BadParameter(f"--input: {error}") from error
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"--input is not JSON: {error}") from error
    if isinstance(value, dict):
        return [], cast(dict[str, Any], value)
    if isinstance(value, list):
        return cast(list[Any], value), {}
    raise click.BadParameter("--input is an object of arguments by name, or a list of them")


def _embedded(app: tuple[str, ...], project: str | None) -> Client:
    from leveret.cli.services import load

    load(app)
    return local(project=project)


def _failure(root: Any) -> object:
    return None if root.failure is None else root.failure.model_dump()
