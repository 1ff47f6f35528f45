"""`leveret key`: what signs the payloads that only Python can read."""

import click

from leveret import keys


@click.group()
def key() -> None:
    """Make the key that signs pickles."""


@key.command()
def new() -> None:
    """Print a fresh random key, for LEVERET_KEY of callers and workers alike."""
    click.echo(keys.new_key())
