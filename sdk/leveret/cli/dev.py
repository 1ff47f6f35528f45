"""`leveret dev`: coordinator and worker in one process, and a prompt to try things at."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import click

from leveret.cli import options
from leveret.cli.services import load
from leveret.cli.start import arguments, finish
from leveret.client import Client, local
from leveret.errors import LeveretError
from leveret_broker.lifecycle import LoopMailbox

HELP = """Type an identifier, and its arguments as JSON if it takes any:

    train_and_pick_model
    add {"a": 1, "b": 2}

`definitions` lists what there is, `runs` what was run; Ctrl-D leaves."""


@click.command()
@click.argument("app", nargs=-1, required=True)
@click.option(
    "--state",
    envvar="LEVERET_STATE",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep runs and definitions in this folder.  [LEVERET_STATE]",
)
@options.project
@options.slots
def dev(
    app: tuple[str, ...],
    state: Path | None,
    project: str | None,
    slots: int | None,
    processes: int | None,
) -> None:
    """Serve APP's modules or files in this process, and run them from a prompt."""
    load(app)
    asyncio.run(_serve(local(project, slots=slots, processes=processes, state=state)))


async def _serve(client: Client) -> None:
    async with client:
        await _definitions(client)
        if sys.stdin.isatty():
            click.echo(f"\n{HELP}\n")
        async for line in _lines():
            if line.strip():
                await _obey(client, line.strip())


async def _lines() -> AsyncIterator[str]:
    """What is typed, line by line.

    It is read on a daemon thread, because nothing else could leave a prompt that is interrupted.
    """
    loop = asyncio.get_running_loop()
    while True:
        typed: asyncio.Future[str | None] = loop.create_future()
        read = partial(_read, LoopMailbox(loop), typed)
        threading.Thread(target=read, name="leveret-prompt", daemon=True).start()
        line = await typed
        if line is None:
            return
        yield line


def _read(mailbox: LoopMailbox, typed: "asyncio.Future[str | None]") -> None:
    """Read one line from standard input, `None` at its end."""
    try:
        line = input("leveret> " if sys.stdin.isatty() else "")
    except EOFError:
        line = None
    mailbox.post(lambda: typed.set_result(line) if not typed.done() else None)


async def _obey(client: Client, line: str) -> None:
    identifier, _, given = line.partition(" ")
    try:
        if identifier == "definitions":
            await _definitions(client)
        elif identifier == "runs":
            await _runs(client)
        else:
            args, kwargs = arguments(given.strip() or None)
            await finish(await client.start(identifier, *args, **kwargs), kept=False)
    except (LeveretError, click.ClickException) as error:
        message = error.message if isinstance(error, click.ClickException) else str(error)
        click.echo(f"leveret: {message}", err=True)


async def _definitions(client: Client) -> None:
    for row in await client.definitions():
        definition = row.definition
        click.echo(f"{definition.kind:8}  {definition.queue}  {definition.description}".rstrip())


async def _runs(client: Client) -> None:
    for row in await client.runs(roots_only=True):
        click.echo(f"{row.id}  {row.state:9}  {row.definition}")
