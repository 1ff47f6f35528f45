"""`leveret admin prune`: remove runs that ended long ago."""

import asyncio

import click

from leveret.cli import display, options
from leveret_broker import ages
from leveret_broker.messages import Position, Prune, Pruned


@click.command()
@click.option(
    "--older-than",
    metavar="AGE",
    type=options.Age(least=3600.0),
    required=True,
    help="What ended longer ago: 4h, 30d; 1h at least.",
)
@click.option("--dry-run", is_flag=True, help="Only count what would be removed.")
@options.url
@options.project
@options.as_json
def prune(
    older_than: float, dry_run: bool, url: str | None, project: str | None, as_json: bool
) -> None:
    """Remove root runs that ended long ago, with all below them.

    Of --project, or of all. What another run has as an input is kept with it, and what a program
    waits for. Shipped code goes with the last run of it. A key can be used for a new run once its
    run is gone.
    """

    async def ask() -> Pruned:
        async with options.client(url, project) as client:
            done = Pruned(request="")
            place: Position | None = None
            while True:
                portion = await client.connection.ask(
                    Pruned,
                    Prune,
                    project=client.connection.known_project,
                    older_than=older_than,
                    after=place,
                    dry_run=dry_run,
                )
                done = _sum(done, portion)
                place = portion.place
                if place is None:
                    return done

    done = asyncio.run(ask())
    if as_json:
        display.document({**done.model_dump(include={"trees", "runs", "code"}), "dry_run": dry_run})
        return
    verb = "would be removed" if dry_run else "removed"
    code = f", and {_times(done.code, 'revision')} of shipped code" if done.code else ""
    click.echo(
        f"{verb}: {_times(done.runs, 'run')} in {_times(done.trees, 'tree')}{code}, "
        f"ended more than {ages.text(older_than)} ago"
    )


def _sum(one: Pruned, other: Pruned) -> Pruned:
    return Pruned(
        request=one.request,
        trees=one.trees + other.trees,
        runs=one.runs + other.runs,
        code=one.code + other.code,
    )


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
