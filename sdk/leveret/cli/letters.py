"""`leveret admin dead-letters`: what was set aside, by whom it was read, and why."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import click
import msgpack

from leveret.cli import display, options
from leveret.errors import CoordinatorUnreachable, IdentificationError
from leveret.settings import security
from leveret_broker import topology
from leveret_broker.errors import TransportError
from leveret_broker.rabbitmq_browsing import Seen, look_through
from leveret_broker.urls import parse

LONGEST_TEXT = 200
"""Characters of a field that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A message that was set aside."""

    origin: str
    """The queue in which it was."""
    reason: str
    body: bytes

    @property
    def kind(self) -> str:
        """The reason without its particulars, to be counted by."""
        return ": ".join(self.reason.split(": ")[:2])

    @property
    def id(self) -> str:
        """The same for equal ones."""
        hashed = hashlib.blake2b(f"{self.origin}\n{self.reason}\n".encode(), digest_size=4)
        hashed.update(self.body)
        return hashed.hexdigest()

    @classmethod
    def of(cls, seen: Seen) -> "Letter":
        """What its headers tell: ours, or else those of the broker."""
        origin, reason = _by_broker(seen.headers)
        return cls(
            origin=str(seen.headers.get(topology.ORIGIN_HEADER, origin)),
            reason=str(seen.headers.get(topology.REASON_HEADER, reason)),
            body=seen.body,
        )


@click.command("dead-letters")
@options.url
@click.option("--show", metavar="ID", help="Show this one.")
@options.as_json
def dead_letters(url: str | None, show: str | None, as_json: bool) -> None:
    """Count what was set aside in leveret.dead, by queue and reason, with one of each. It stays.

    --url is of somebody who may read that queue.
    """
    if show is not None:
        _show(_found(url, show), as_json)
        return
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}

    def count(seen: Seen) -> None:
        letter = Letter.of(seen)
        group = letter.origin, letter.kind
        counts[group] += 1
        examples.setdefault(group, letter.id)

    _look(url, count)
    lines = [(*group, number, examples[group]) for group, number in counts.most_common()]
    if as_json:
        names = ("queue", "reason", "count", "example")
        groups = [dict(zip(names, line, strict=True)) for line in lines]
        display.document({"count": counts.total(), "groups": groups})
        return
    table = [(str(n), example, _printable(q), _printable(why)) for q, why, n, example in lines]
    display.rows(("COUNT", "EXAMPLE", "QUEUE", "REASON"), table)


def _found(url: str | None, wanted: str) -> Letter:
    found: list[Letter] = []

    def keep(seen: Seen) -> None:
        letter = Letter.of(seen)
        if not found and letter.id == wanted:
            found.append(letter)

    _look(url, keep)
    if not found:
        raise IdentificationError(
            f"{topology.DEAD.name} holds no message {wanted}: `leveret admin dead-letters` has ids"
        )
    return found[0]


def _look(url: str | None, see: Callable[[Seen], None]) -> None:
    looking = _looking(options.need_url(url), see)
    try:
        asyncio.run(looking)
    except TransportError as error:
        raise CoordinatorUnreachable(f"{topology.DEAD.name} can't be looked at: {error}") from error


async def _looking(url: str, see: Callable[[Seen], None]) -> None:
    await look_through(parse(url), topology.DEAD.name, see, security=security())


def _show(letter: Letter, as_json: bool) -> None:
    told = {
        "id": letter.id,
        "queue": letter.origin,
        "reason": letter.reason,
        "bytes": len(letter.body),
        "message": _content(letter.body),
    }
    if as_json:
        display.document(told)
        return
    message = json.dumps(told.pop("message"), indent=2)
    display.pairs({name: _printable(str(value)) for name, value in told.items()})
    click.echo(message)


def _content(body: bytes) -> object:
    """The message's fields if it has any, else its first bytes. Nothing in it is opened."""
    try:
        return _shown(msgpack.unpackb(body, strict_map_key=False))
    except Exception:  # msgpack raises a dozen types for bytes that aren't its own
        return _shown(body)


def _shown(value: Any) -> object:
    match value:
        case bytes():
            start = value[:LONGEST_TEXT]
            return f"{len(value)} bytes: {start!r}{'…' if len(value) > len(start) else ''}"
        case str():
            return value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]}…"
        case dict():
            fields = cast("dict[object, object]", value)
            return {str(_shown(name)): _shown(field) for name, field in fields.items()}
        case list():
            return [_shown(each) for each in cast("Sequence[object]", value)]
        case None | bool() | int() | float():
            return value
        case _:
            return repr(value)[:LONGEST_TEXT]


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor: a stranger may have written it."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _by_broker(headers: Mapping[str, Any]) -> tuple[str, str]:
    """The queue and the reason, as the broker notes them when it sets a message aside itself."""
    match headers.get("x-death"):
        case [{"queue": queue, "reason": reason}, *_]:
            return _text(queue), f"set aside by the broker: {_text(reason)}"
        case _:
            return "?", "nobody says why"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
