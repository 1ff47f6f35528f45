"""The folder in which an embedded runtime keeps large payloads, for itself and its children."""

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import IO

from leveret.errors import StateError

PAYLOADS = "payloads"
"""The folder's name in that of `state=`."""
_PREFIX = "leveret-payloads-"
_LOCK = "lock"


class PayloadFolder:
    """In the folder of `state=`, or one that goes with the runtime.

    A process that is killed leaves its temporary folder behind. The next one removes those whose
    lock nobody holds any more.
    """

    def __init__(self, state: Path | None) -> None:
        self._is_temporary = state is None
        if state is not None:
            self.path = state.absolute() / PAYLOADS
        else:
            self.path = Path(tempfile.gettempdir()).absolute() / f"{_PREFIX}{secrets.token_hex(8)}"
        self._lock: IO[bytes] | None = None

    def open(self) -> None:
        """Make the folder. Raises `StateError` if there can be none."""
        try:
            if self._is_temporary:
                _remove_abandoned(self.path.parent)
                self.path.mkdir(mode=0o700)
                self._lock = _locked(self.path)
            else:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(
                f"large payloads can't be kept in {self.path}: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Remove it if it is temporary. What is mapped from it stays."""
        if not self._is_temporary:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _locked(folder: Path) -> IO[bytes]:
    """Held as long as the file is open. Raises `BlockingIOError` if somebody else holds it."""
    file = (folder / _LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, or somebody else's
            if folder.stat().st_uid == os.getuid() and (folder / _LOCK).exists():
                with _locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)
