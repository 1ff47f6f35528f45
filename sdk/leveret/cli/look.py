"""Commands that look: `resolve`, `definitions`, `workers` and `why`."""

import asyncio

import click

from leveret.cli import display, options


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


@click.command()
@click.argument("run")
@options.url
@options.project
@options.as_json
def why(run: str, url: str | None, project: str | None, as_json: bool) -> None:
    """Say why RUN does not move: one paragraph, down to the run that holds it up."""

    async def ask() -> None:
        async with options.client(url, project) as client:
            explanation = await client.explain(run)
        if as_json:
            display.document(explanation.model_dump(exclude={"type", "request"}))
        else:
            display.paragraph(explanation.text)

    asyncio.run(ask())
