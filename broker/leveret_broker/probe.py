"""Asking the services of this machine or container how they are. Quick to import."""

import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a service said, or what its silence means."""

    kind: str
    """`coordinator` or `worker`."""
    pid: int | None
    """Its process id where it runs; `None` if it didn't say."""
    text: str
    """A sentence without its subject."""
    is_ready: bool
    is_live: bool

    @property
    def subject(self) -> str:
        """Who it is about."""
        return self.kind if self.pid is None else f"{self.kind} (process {self.pid})"


def ask_all(sockets: Sequence[Path], *, within: float) -> list[Answer]:
    """What all services that have not ended answer, within so many seconds in all."""
    deadline = time.monotonic() + within
    asked = [(path, _connected(path)) for path in sockets]
    return [_answer(path, asking, deadline, within) for path, asking in asked if asking is not None]


def _connected(path: Path) -> socket.socket | str | None:
    """A connection, or what keeps from having one; `None` if nobody is behind it any more."""
    asking = socket.socket(socket.AF_UNIX)
    try:
        asking.setblocking(False)
        asking.connect(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        asking.close()
        return None
    except BlockingIOError:  # so many ask already that it hasn't heard
        asking.close()
        return "does not answer: its event loop is stuck, or it is stopped"
    except OSError as error:
        asking.close()
        return f"can't be asked: {error.strerror} ({path})"
    return asking


def _answer(path: Path, asking: socket.socket | str, deadline: float, within: float) -> Answer:
    kind = path.stem.rpartition("-")[0]
    if isinstance(asking, str):
        return Answer(kind=kind, pid=None, text=asking, is_ready=False, is_live=False)
    with asking:
        try:
            said = _read(asking, deadline)
            return Answer(**said)
        except TimeoutError:
            text = (
                f"has not answered within {within:g} s: its event loop is stuck, or it is stopped"
            )
        except (OSError, ValueError, TypeError):
            text = "ended while it was asked"
    return Answer(kind=kind, pid=None, text=text, is_ready=False, is_live=False)


def _read(asking: socket.socket, deadline: float) -> dict[str, Any]:
    said = b""
    while True:
        asking.settimeout(max(0.001, deadline - time.monotonic()))
        more = asking.recv(65536)
        if not more:
            answer: dict[str, Any] = json.loads(said)
            return answer
        said += more
