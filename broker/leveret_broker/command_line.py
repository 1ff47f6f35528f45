"""Passwords given in a command's arguments, which everybody on the machine can read."""

import os
import sys
from collections.abc import Mapping, Sequence

from leveret_broker.urls import redact

_OPTION, _VARIABLE = "--url", "LEVERET_URL"


def hide_password() -> None:
    """If `--url` of this process holds a password, start it again with the URL in its environment.

    The process keeps its number; what others could read until then is told. Elsewhere than on
    POSIX it is only told.
    """
    command, url = split(sys.orig_argv)
    if url is None:
        return
    sys.stderr.write(
        f"leveret: the password in {_OPTION} could be read in the list of processes: set "
        f"{_VARIABLE} instead\n"
    )
    sys.stderr.flush()
    if os.name == "posix":
        environment: Mapping[str, str] = {**os.environ, _VARIABLE: url}
        os.execve(sys.executable, command, environment)  # noqa: S606  # the same command


def split(command: Sequence[str]) -> tuple[list[str], str | None]:
    """The command without its URL, and the URL; `None` if none holds a password."""
    rest: list[str] = []
    found: str | None = None
    arguments = iter(command)
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option != _OPTION:
            rest.append(argument)
            continue
        found = value if equals else next(arguments, None)
    if found is None or redact(found) == found:
        return list(command), None
    return rest, found
