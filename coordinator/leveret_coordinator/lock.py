"""One coordinator a catalog: a lock file beside it, which the operating system frees on any death.

The file is beside the catalog itself, whatever links lead there. The lock is the kernel's, not the
file's existence, so a file that was left behind means nothing, and containers that share a volume
see each other's. What is written into it is for people only: a process id means nothing elsewhere.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from leveret_broker.clock import SystemClock
from leveret_coordinator.errors import CatalogInUse, CatalogUnavailable


class CatalogLock:
    """Held from `acquire` until `release`, or until the process ends."""

    def __init__(self, catalog: Path, now: Callable[[], float] | None = None) -> None:
        """`now`: seconds since the Unix epoch."""
        self._catalog = catalog
        self._now = now or SystemClock().now
        self._path = Path(f"{os.path.realpath(catalog)}.lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take it at once.

        Raises `CatalogInUse`, naming the holder, if it is taken, and `CatalogUnavailable` if files
        can't be locked or written there.
        """
        try:
            while self._file is None:
                self._file = self._locked()
        except OSError as error:
            raise CatalogUnavailable(
                f"The catalog {self._catalog} can't be locked: {error.strerror} ({self._path})."
                f"{advice(error)}"
            ) from error

    def _locked(self) -> int | None:
        """The file, locked; `None` if it was removed before it was."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(file)
            if self._is_still_there(file):
                self._write_holder(file)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    def _is_still_there(self, file: int) -> bool:
        """A lock on a file that was removed keeps nobody out: the next one makes another."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))  # noqa: PTH116
        except FileNotFoundError:
            return False

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 300).decode(errors="replace") or "unknown"
            raise CatalogInUse(
                f"The catalog {self._catalog} is in use by another coordinator ({holder}): "
                "stop that program first, or use another catalog."
            ) from error

    def _write_holder(self, file: int) -> None:
        since = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        holder = f"process {os.getpid()} on host {socket.gethostname()}, since {since}"
        os.ftruncate(file, 0)
        os.write(file, holder.encode())

    def release(self) -> None:
        """Give it back. Twice is fine."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def advice(error: OSError) -> str:
    """What to do about a file that can't be written, as a sentence of its own if there is one."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f" This process is user {os.geteuid()}: give that user write access to the catalog "
            "and its folder (of a container: to the volume), or use another catalog."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return " Make room on that disk; nothing was lost."
    return ""
