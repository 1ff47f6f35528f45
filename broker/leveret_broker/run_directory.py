"""Where the services of a machine or container are found by who asks how they are.

Each has a socket in a folder that only its user reaches. A container needs none to be mounted: with
a read-only root file system and nothing writable on it, `/dev/shm` is there.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "LEVERET_RUN_DIR"
SUFFIX = ".health"


class NoRunDirectory(Exception):
    """No folder can hold a socket. The text says which were tried, and what each refused."""


def candidates(environment: Mapping[str, str]) -> list[Path]:
    """The folders that may be it, the best first. A folder that is given is the only one."""
    if given := environment.get(VARIABLE):
        return [Path(given)]
    mine = f"leveret-{os.getuid()}"
    runtime = environment.get("XDG_RUNTIME_DIR")
    return [
        *([Path(runtime) / "leveret"] if runtime else []),
        Path(environment.get("TMPDIR") or "/tmp") / mine,  # noqa: S108  # checked to be ours
        Path("/dev/shm") / mine,  # noqa: S108
    ]


def prepare(environment: Mapping[str, str]) -> Path:
    """The first folder that a socket can be made in, made if it is not there.

    Raises `NoRunDirectory`.
    """
    refusals: list[str] = []
    for folder in candidates(environment):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            refusal = _refusal(folder, is_given=VARIABLE in environment)
        except OSError as error:
            refusal = error.strerror or str(error)
        if refusal is None:
            return folder
        refusals.append(f"{folder}: {refusal}")
    raise NoRunDirectory("; ".join(refusals))


def sockets(environment: Mapping[str, str]) -> list[Path]:
    """Those of all services that were started here, and of some that have ended."""
    return [path for folder in candidates(environment) for path in folder.glob(f"*{SUFFIX}")]


def _refusal(folder: Path, *, is_given: bool) -> str | None:
    found = folder.lstat()
    if not is_given and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
        return "it belongs to another user"  # who could answer in our place
    return None if os.access(folder, os.W_OK | os.X_OK) else "it can't be written to"
