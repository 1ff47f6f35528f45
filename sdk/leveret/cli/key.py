"""`leveret key`: what signs, and if wished encrypts, the payloads of a project."""

import os
from pathlib import Path

import click

from leveret import keys
from leveret.cli import options


@click.group()
def key() -> None:
    """Make the key that signs payloads, and tell which keys are in use."""


@key.command()
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it into this new file, which nobody else can read, for LEVERET_KEY_FILE.",
)
def new(path: Path | None) -> None:
    """Print a fresh random key, for LEVERET_KEY of callers and workers alike."""
    text = keys.new_key()
    if path is None:
        click.echo(text)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.ClickException(f"{path} can't be made: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{text}\n")


@key.command()
def ids() -> None:
    """Print the ids of the keys that the settings hold, the one that signs first.

    Errors name keys by them. An id tells nothing of its key.
    """
    ring = options.keyring()
    if ring is None:
        raise click.ClickException("there is no key: set LEVERET_KEY, or LEVERET_KEY_FILE")
    for each in ring.keys:
        click.echo(keys.key_id(each).hex())
