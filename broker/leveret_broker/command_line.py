"""Passwords given in a command's arguments, which everybody on the machine can read."""

import os
import sys
from collections.abc import Mapping, Sequence

from leveret_broker.urls import redact

_VARIABLES = {"--url": "LEVERET_URL", "--management": "LEVERET_MANAGEMENT"}
"""Options whose URL may hold a password, and the variables that say the same."""


def hide_passwords() -> None:
    """If URLs in this process's arguments hold passwords, start it again with them in its
    environment.

    The process keeps its number; what others could read until then is told. Elsewhere than on
    POSIX it is only told.
    """
    command, found = split(sys.orig_argv)
    if not found:
        return
    for option in found:
        sys.stderr.write(
            f"leveret: the password in {option} could be read in the list of processes: set "
            f"{_VARIABLES[option]} instead\n"
        )
    sys.stderr.flush()
    if os.name == "posix":
        hidden = {_VARIABLES[option]: url for option, url in found.items()}
        environment: Mapping[str, str] = {**os.environ, **hidden}
        os.execve(sys.executable, command, environment)  # noqa: S606  # the same command


def split(command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command without the URLs that hold passwords, and those by their options."""
    rest: list[str] = []
    found: dict[str, str] = {}
    arguments = iter(command)
    for argument in arguments:
        option, equals, value = argument.partition("=")
        given = [argument]
        if option in _VARIABLES and not equals:
            value = next(arguments, "")
            given.append(value)
        if option in _VARIABLES and redact(value) != value:
            found[option] = value
        else:
            rest += given
    return (rest, found) if found else (list(command), {})
