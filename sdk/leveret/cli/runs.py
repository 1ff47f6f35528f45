"""`leveret runs`: find runs, look into them, stop, repeat and resume them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast, get_args

import click
from rich.console import Console

from leveret.cli import DONE, WRONG_USAGE, attempts, display, exit_code, explain, options
from leveret.client import Client
from leveret.errors import CoordinatorUnreachable, LeveretError
from leveret.runs import Run
from leveret.watch import moment, tree
from leveret_broker.messages import Retried, RunRow, RunState

STATES = get_args(RunState)
ENDS = {"cancelled": "been cancelled"}
"""States that don't follow `had` as they are."""


@click.group()
def runs() -> None:
    """Find runs, look into them, stop them, repeat them."""


@runs.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only runs in this state.")
@click.option("--definition", metavar="IDENTIFIER", help="Only runs of this; a name is all of it.")
@click.option(
    "--since",
    metavar="AGE",
    type=options.Age(),
    help="Only runs asked for since then: 30s, 15m, 4h, 7d.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--after", metavar="RUN", help="Only those listed after RUN: the next page.")
@click.option("--roots", is_flag=True, help="Only runs that no other run called.")
@options.url
@options.project
@options.as_json
def list_runs(
    state: str | None,
    definition: str | None,
    since: float | None,
    limit: int,
    after: str | None,
    roots: bool,
    url: str | None,
    project: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    begin = None if since is None else time.time() - since

    async def ask() -> None:
        async with options.client(url, project) as client:
            rows = await client.runs(
                state=cast(RunState | None, state),
                definition=definition,
                since=begin,
                limit=limit,
                after=after,
                roots_only=roots,
            )
        if as_json:
            display.document([display.fields(row) for row in rows])
        else:
            display.rows(*_table(rows, time.time()))
            if len(rows) == limit:
                click.echo(f"for those before: --after {rows[-1].id}", err=True)

    asyncio.run(ask())


@runs.command("show")
@click.argument("run")
@options.url
@options.project
@options.as_json
def show_run(run: str, url: str | None, project: str | None, as_json: bool) -> None:
    """Show RUN and all below it: its attempts, where and how each ended."""

    async def ask() -> None:
        async with options.client(url, project) as client:
            rows = await client.show(run)
        if as_json:
            display.document(display.nested(rows))
            return
        now = time.time()
        Console(highlight=False).print(tree(rows), soft_wrap=True)
        for row in filter(attempts.is_told, rows):
            click.echo("\n" + "\n".join(attempts.lines(row, now)))
        for row in rows:
            for heading, traceback in attempts.tracebacks(row):
                click.echo(f"\n{heading}\n{traceback}")

    asyncio.run(ask())


@runs.command("cancel")
@click.argument("run", nargs=-1, required=True)
@options.url
@options.project
@options.as_json
def cancel_runs(run: tuple[str, ...], url: str | None, project: str | None, as_json: bool) -> int:
    """Stop each RUN and all below it, whether it waits or executes."""

    async def ask() -> int:
        documents: list[dict[str, object]] = []
        code = DONE
        async with options.client(url, project) as client:
            for each in run:
                try:
                    stopped = list(await client.cancel(each))
                    row = (await client.show(each))[0]
                except CoordinatorUnreachable:
                    raise
                except LeveretError as error:
                    explain(error)
                    code = code or exit_code(error)
                    continue
                documents.append({"run": each, "state": row.state, "stopped": stopped})
                told = _tell_stopped(row, stopped, quiet=as_json)
                code = code or told
        if as_json:
            display.document(documents)
        return code

    return asyncio.run(ask())


@runs.command("retry")
@click.argument("run")
@click.option(
    "--revision",
    metavar="N",
    help="Go on with this revision of the workflow, or version of the task.",
)
@options.url
@options.project
@options.as_json
def retry_run(
    run: str, revision: str | None, url: str | None, project: str | None, as_json: bool
) -> None:
    """Execute RUN again, which failed or was cancelled, or is parked.

    What failed below it is executed again, what succeeded is kept: equal calls get the results
    that they had, with other code too.
    """

    async def ask(client: Client) -> Retried:
        return await Run(client.connection, run).retry(revision=revision)

    asyncio.run(_begin_again(options.client(url, project), ask, as_json=as_json))


@runs.command("resume")
@click.argument("run")
@options.url
@options.project
@options.as_json
def resume_run(run: str, url: str | None, project: str | None, as_json: bool) -> None:
    """Go on with RUN, which is parked: it gets all its retries anew."""

    async def ask(client: Client) -> Retried:
        return await Run(client.connection, run).resume()

    asyncio.run(_begin_again(options.client(url, project), ask, as_json=as_json))


async def _begin_again(
    client: Client, ask: Callable[[Client], Awaitable[Retried]], *, as_json: bool
) -> None:
    async with client:
        begun = await ask(client)
    if as_json:
        display.document(begun.model_dump(exclude={"type", "request"}))
    else:
        click.echo(f"{begun.run}: attempt {begun.attempt}, by {begun.definition}")


def _tell_stopped(row: RunRow, stopped: Sequence[str], *, quiet: bool) -> int:
    """Say what was stopped, or that nothing was left to stop; return the exit code."""
    below = len(stopped) - (row.id in stopped)
    if row.id in stopped:
        if not quiet:
            click.echo(f"{row.id} cancelled" + (f", with {below} below it" if below else ""))
        return DONE
    when = "" if row.finished_at is None else f" at {moment(row.finished_at, time.time())}"
    text = f"run {row.id} was not cancelled: it had already {ENDS.get(row.state, row.state)}{when}"
    click.echo(f"leveret: {text}" + (f"; {below} below it were" if below else ""), err=True)
    return WRONG_USAGE


def _table(rows: Sequence[RunRow], now: float) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and cells. When a run goes on is a column if one of them waits for a time."""
    has_due = any(row.due_at is not None for row in rows)
    due = ("DUE AT",) if has_due else ()
    headings = ("RUN", "DEFINITION", "STATE", *due, "ASKED FOR AT", "TOOK", "HOST", "FAILURE")
    return headings, [_cells(row, now, has_due=has_due) for row in rows]


def _cells(row: RunRow, now: float, *, has_due: bool) -> tuple[str, ...]:
    failure = "" if row.failure is None else f"{row.failure.type}: {row.failure.message}"
    return (
        row.id,
        row.definition,
        row.state,
        *((display.clock(row.due_at),) if has_due else ()),
        display.clock(row.created_at),
        display.took(row, now),
        row.host or "",
        failure.partition("\n")[0],
    )
