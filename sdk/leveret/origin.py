"""Who wrote a payload: what its prelude tells, for errors that say whose versions don't fit."""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache, lru_cache
from typing import Any

import msgpack

from leveret.layout import Flag, Parts

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LONGEST = 80
"""Characters of each part that an error repeats: anybody may have written them."""

Definitions = Sequence[tuple[str, str, bytes]]


@dataclass(frozen=True, slots=True)
class Origin:
    """A process that sealed a payload."""

    host: str
    process: int
    leveret: str
    python: str
    """Major and minor version: code by value fits no other."""
    cloudpickle: str | None
    """Its version, if there are pickles."""

    @classmethod
    def here(cls, *, pickles: bool) -> "Origin":
        """This process."""
        return _here(os.getpid(), pickles)

    @classmethod
    def read(cls, prelude: bytes | memoryview) -> tuple["Origin", Definitions]:
        """The origin and the classes of a script, as `packed` wrote them. Raises anything."""
        fields, definitions = msgpack.unpackb(prelude)
        return cls(*fields), definitions

    def packed(self, definitions: Definitions) -> bytes:
        """The prelude."""
        return msgpack.packb([astuple(self), definitions]) if definitions else _packed(self)

    def __str__(self) -> str:
        host, process, leveret, python = map(_brief, astuple(self)[:4])
        return f"process {process} on {host}, with leveret {leveret} and Python {python}"


@lru_cache(maxsize=64)
def _packed(origin: Origin) -> bytes:
    return msgpack.packb([astuple(origin), ()])


def told(parts: Parts) -> str:
    """By whom a payload says to be written, as an error's last words; nothing if it can't tell."""
    if Flag.ENCRYPTED in parts.flags:
        return ""
    try:
        return f". It was written, as it says, by {Origin.read(parts.prelude)[0]}"
    except Exception:  # whatever bytes that are no prelude lead to
        return ""


@cache
def _here(process: int, pickles: bool) -> Origin:
    from leveret import __version__

    return Origin(
        socket.gethostname(), process, __version__, PYTHON, _cloudpickle() if pickles else None
    )


def _cloudpickle() -> str:
    from leveret.pickles import VERSION  # only now: most payloads need no pickle

    return VERSION


def _brief(field: Any) -> str:
    text = str(field)[:LONGEST]
    return text if text.isprintable() else repr(text)
