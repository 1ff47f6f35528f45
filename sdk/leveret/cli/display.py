"""How values look: tables on a terminal, plain columns in a pipe, JSON when asked for."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import click
from rich.console import Console
from rich.pretty import pprint
from rich.table import Table

from leveret_broker.messages import RunRow, Wire

LONG = ("DESCRIPTION", "FAILURE", "SERVES")
"""Columns that may take several lines; ids and names have to be copied in one piece."""


def document(value: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=plain))


def value(result: object) -> None:
    """Print a run's result for a person."""
    if sys.stdout.isatty():
        pprint(result, console=Console(), max_length=20, max_string=1000)
    elif isinstance(result, str):
        click.echo(result)
    else:
        click.echo(json.dumps(result, ensure_ascii=False, default=plain))


def plain(value: object) -> object:
    """Something that JSON has, for what it lacks: arrays and sets as lists, the rest as text."""
    to_list = getattr(value, "tolist", None)
    if callable(to_list):
        return to_list()
    if isinstance(value, (set, frozenset)):
        return list(cast(Iterable[object], value))
    return str(value)


def rows(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table on a terminal, and aligned columns elsewhere."""
    if sys.stdout.isatty():
        table = Table(header_style="bold", box=None, pad_edge=False)
        for heading in headings:
            table.add_column(heading, no_wrap=heading not in LONG, overflow="fold")
        for line in lines:
            table.add_row(*line)
        Console(highlight=False).print(table)
        return
    cells = [headings, *lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(headings))]
    for line in cells:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(padded).rstrip())


def moment(seconds: float | None) -> str | None:
    """Seconds since the Unix epoch as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def clock(seconds: float | None) -> str:
    """The same for a person: local date and time to the second."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def took(row: RunRow, now: float) -> str:
    """How long the latest attempt has executed, if that executes or was the last."""
    if row.started_at is None or row.state in ("waiting", "parked"):
        return ""
    return f"{(row.finished_at or now) - row.started_at:.2f} s"


def fields(message: Wire) -> dict[str, Any]:
    """A message as JSON fields; moments, whose names end in `_at`, as ISO 8601."""
    return {name: _field(name, value) for name, value in message.model_dump().items()}


def _field(name: str, value: Any) -> Any:
    match value:
        case dict():
            within = cast(dict[str, Any], value)
            return {key: _field(key, each) for key, each in within.items()}
        case list() | tuple():
            return [_field(name, each) for each in cast(Sequence[Any], value)]
        case _:
            return moment(value) if name.endswith("_at") else value


def nested(rows: Sequence[RunRow]) -> dict[str, Any]:
    """A tree of runs as one object, each with its `children`."""
    nodes: dict[str, dict[str, Any]] = {}
    for row in rows:
        node = nodes[row.id] = {**fields(row), "children": []}
        if row.parent in nodes:
            nodes[row.parent]["children"].append(node)
    return nodes[rows[0].id]


def paragraph(text: str) -> None:
    """Print a text wrapped to the terminal's width, and in one line elsewhere."""
    flowing = " ".join(text.split())
    if sys.stdout.isatty():
        flowing = click.wrap_text(flowing, width=Console().width)
    click.echo(flowing)


def pairs(values: Mapping[str, str]) -> None:
    """Print names and values, one a line."""
    width = max(map(len, values))
    for name, text in values.items():
        click.echo(f"{name.ljust(width)}  {text}")
