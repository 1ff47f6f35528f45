"""Commands that look: `resolve`, `definitions`, `runs` and `workers`."""

import asyncio
import re
import time
from typing import cast, get_args

import click
from rich.console import Console

from leveret.cli import display, options
from leveret.watch import tree
from leveret_broker.messages import RunRow, RunState

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
STATES = get_args(RunState)


@click.command()
@click.argument("identifier")
@options.url
@options.project
@options.as_json
def resolve(identifier: str, url: str | None, project: str | None, as_json: bool) -> None:
    """Print the definition that IDENTIFIER means.

    IDENTIFIER is name, name:revision, project:name:revision, or a database id.
    """

    async def ask() -> None:
        async with options.client(url, project) as client:
            definition = await client.resolve(identifier)
        if as_json:
            display.document(display.fields(definition))
            return
        display.pairs(
            {
                "id": definition.id,
                "kind": definition.kind,
                "project": definition.project,
                "name": definition.name,
                "revision" if definition.kind == "workflow" else "version": definition.version,
                "queue": definition.queue,
                "description": definition.description,
            }
        )

    asyncio.run(ask())


@click.command()
@options.url
@options.project
@options.as_json
def definitions(url: str | None, project: str | None, as_json: bool) -> None:
    """List tasks and workflows, and how many workers serve each."""

    async def ask() -> None:
        async with options.client(url, project) as client:
            rows = await client.definitions()
        if as_json:
            display.document(
                [{**display.fields(row.definition), "workers": row.workers} for row in rows]
            )
            return
        display.rows(
            ("PROJECT", "NAME", "VERSION", "KIND", "WORKERS", "ID", "DESCRIPTION"),
            [
                (
                    row.definition.project,
                    row.definition.name,
                    row.definition.version,
                    row.definition.kind,
                    str(row.workers),
                    row.definition.id,
                    row.definition.description,
                )
                for row in rows
            ],
        )

    asyncio.run(ask())


@click.command()
@options.url
@options.project
@options.as_json
def workers(url: str | None, project: str | None, as_json: bool) -> None:
    """List the workers that are alive."""

    async def ask() -> None:
        async with options.client(url, project) as client:
            rows = await client.workers()
        if as_json:
            display.document([display.fields(row) for row in rows])
            return
        display.rows(
            ("WORKER", "PROJECT", "HOST", "PID", "BUSY", "SINCE", "SERVES"),
            [
                (
                    row.id,
                    row.project,
                    row.host,
                    str(row.pid),
                    f"{row.busy}/{row.slots}",
                    display.clock(row.started_at),
                    ", ".join(row.definitions),
                )
                for row in rows
            ],
        )

    asyncio.run(ask())


@click.group()
def runs() -> None:
    """Find runs and look into them."""


@runs.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only runs in this state.")
@click.option("--definition", metavar="IDENTIFIER", help="Only runs of this; a name is all of it.")
@click.option("--since", metavar="AGE", help="Only runs asked for since then: 30s, 15m, 4h, 7d.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--roots", is_flag=True, help="Only runs that no other run called.")
@options.url
@options.project
@options.as_json
def list_runs(
    state: str | None,
    definition: str | None,
    since: str | None,
    limit: int,
    roots: bool,
    url: str | None,
    project: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    after = None if since is None else time.time() - age(since)

    async def ask() -> None:
        async with options.client(url, project) as client:
            rows = await client.runs(
                state=cast(RunState | None, state),
                definition=definition,
                since=after,
                limit=limit,
                roots_only=roots,
            )
        if as_json:
            display.document([display.fields(row) for row in rows])
            return
        now = time.time()
        display.rows(
            ("RUN", "DEFINITION", "STATE", "ASKED FOR AT", "TOOK", "HOST", "FAILURE"),
            [_cells(row, now) for row in rows],
        )

    asyncio.run(ask())


@runs.command("show")
@click.argument("run")
@options.url
@options.project
@options.as_json
def show_run(run: str, url: str | None, project: str | None, as_json: bool) -> None:
    """Show RUN and all below it: where and how each ended."""

    async def ask() -> None:
        async with options.client(url, project) as client:
            rows = await client.show(run)
        if as_json:
            display.document(display.nested(rows))
            return
        Console(highlight=False).print(tree(rows), soft_wrap=True)
        for row in rows:
            if row.failure is not None and row.failure.traceback:
                click.echo(f"\n{row.id} of {row.definition} {row.state}:")
                click.echo(row.failure.traceback.rstrip())

    asyncio.run(ask())


def age(text: str) -> float:
    """Seconds of an age such as `15m`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no age: write 30s, 15m, 4h or 7d")
    return float(match[1]) * UNITS[match[2]]


def _cells(row: RunRow, now: float) -> tuple[str, ...]:
    failure = "" if row.failure is None else f"{row.failure.type}: {row.failure.message}"
    return (
        row.id,
        row.definition,
        row.state,
        display.clock(row.created_at),
        display.took(row, now),
        row.host or "",
        failure.partition("\n")[0],
    )
