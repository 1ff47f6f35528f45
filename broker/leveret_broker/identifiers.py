"""Names, versions, database ids, and the texts by which a person means a definition.

A name becomes part of a queue's name (`project:name:version`, at most 255 bytes in RabbitMQ), hence
the alphabet and the lengths. Ids are ULIDs behind a prefix that shows what they belong to.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from leveret_broker.errors import InvalidIdentifier, InvalidName

if TYPE_CHECKING:
    from packaging.version import Version

Kind = Literal["task", "workflow", "step"]
"""A step is what `leveret.step` recorded: it has a row like a run, and is never executed again."""

PREFIXES = {
    "task": "task",
    "workflow": "wf",
    "step": "step",
    "run": "run",
    "session": "session",
    "worker": "worker",
    "request": "request",
}
LONGEST = {"project": 63, "name": 127, "version": 60}
"""Bytes a part may have; with two colons they stay under RabbitMQ's 255."""

_RESERVED = ("replies", "control")
_PART = re.compile(r"[A-Za-z0-9_.\-]+", re.ASCII)
_DATABASE_ID = re.compile(r"(task|wf|step|run|session|worker)_[0-9A-HJKMNP-TV-Z]{26}", re.ASCII)
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identifier:
    """What a person wrote to mean a definition, taken apart but not yet resolved."""

    text: str
    project: str | None = None
    name: str | None = None
    version: str | None = None
    """A workflow's revision or a task's version."""
    database_id: str | None = None


def parse(text: str) -> Identifier:
    """Take an identifier apart.

    The forms are `name`, `name:revision`, `project:name:revision` and a definition's database id.
    Raises `InvalidIdentifier` for anything else.
    """
    if is_database_id(text):
        if not text.startswith(("task_", "wf_")):
            raise InvalidIdentifier(
                f"{text!r} is the id of a {text.partition('_')[0]}, not of a definition"
            )
        return Identifier(text=text, database_id=text)
    parts = text.split(":")
    for part in parts:
        if not _PART.fullmatch(part):
            raise InvalidIdentifier(
                f"{text!r} is no identifier: write name, name:revision, project:name:revision "
                "or a database id, with letters, digits, '_', '-' and '.' in each part"
            )
    match parts:
        case [name]:
            return Identifier(text=text, name=name)
        case [name, version]:
            return Identifier(text=text, name=name, version=version)
        case [project, name, version]:
            return Identifier(text=text, project=project, name=name, version=version)
        case _:
            raise InvalidIdentifier(
                f"{text!r} has {len(parts)} parts: the longest form is project:name:revision"
            )


def check(what: Literal["project", "name", "version"], text: str) -> str:
    """Return the text if it may be a definition's project, name or version.

    Raises `InvalidName` saying what is allowed.
    """
    if not _PART.fullmatch(text):
        raise InvalidName(
            f"{text!r} can't be a {what}: it takes letters, digits, '_', '-' and '.', "
            "and at least one of them"
        )
    if len(text) > LONGEST[what]:
        raise InvalidName(
            f"{text[:20]!r}… can't be a {what}: it has {len(text)} characters, "
            f"{LONGEST[what]} are allowed"
        )
    if is_database_id(text):
        raise InvalidName(f"{text!r} can't be a {what}: it has the form of a database id")
    if what == "project" and text.startswith(("amq.", "leveret.")):
        raise InvalidName(f"{text!r} can't be a project: this beginning is the broker's own")
    if what == "project" and text in _RESERVED:
        raise InvalidName(f"{text!r} can't be a project: queues of all projects begin like that")
    if what == "name" and text.startswith("leveret."):
        raise InvalidName(f"{text!r} can't be a name: this beginning is leveret's own")
    return text


def is_database_id(text: str) -> bool:
    """Whether the text has the form of an id that a catalog issues (`wf_…`, `task_…`, `run_…`)."""
    return _DATABASE_ID.fullmatch(text) is not None


def new_id(
    kind: Literal["task", "workflow", "step", "run", "session", "worker", "request"],
) -> str:
    """A globally unique id; later ones of a kind sort after earlier ones, to the millisecond."""
    from ulid import ULID  # imported late: `import leveret` needs names only

    return f"{PREFIXES[kind]}_{ULID()}"


def child_run_id(parent: str, callee: str, identity: str, ordinal: int) -> str:
    """The id of the run that a workflow run's call creates: the same for the same call.

    It is derived, never issued, so that a workflow run that is executed again asks for the runs
    that it has already. It keeps the parent's first ten characters, the time at which the root run
    was made, so that a tree's runs lie side by side in the catalog; the rest is 80 bits of
    BLAKE2b over all four arguments.
    """
    spelled = "\0".join((parent, callee, identity, str(ordinal))).encode()
    number = int.from_bytes(hashlib.blake2b(spelled, digest_size=10).digest())
    digits = "".join(_CROCKFORD[number >> shift & 31] for shift in range(75, -1, -5))
    return parent[:14] + digits


def keyed_run_id(project: str, callee: str, key: str) -> str:
    """The id of the root run that this key names: the same for whoever asks.

    It has 125 bits of BLAKE2b over the three and no time, since nobody knows when it began.
    """
    spelled = "\0".join((project, callee, key)).encode()
    number = int.from_bytes(hashlib.blake2b(spelled, digest_size=16).digest()) >> 3
    return "run_0" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(120, -1, -5))


def version_order(version: str) -> "tuple[int, Version, str]":
    """A sort key for versions: PEP 440 order, and texts that PEP 440 doesn't know before all."""
    from packaging.version import InvalidVersion, Version

    try:
        return 1, Version(version), version
    except InvalidVersion:
        return 0, Version("0"), version


def suggestion(wanted: str, known: Iterable[str]) -> str:
    """A closing sentence with the most similar names, empty if none is similar."""
    found = get_close_matches(wanted, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(found)}?" if found else ""
