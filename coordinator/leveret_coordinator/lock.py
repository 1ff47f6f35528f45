"""One coordinator a catalog: a lock file beside it, which the operating system frees on any death.

The file is beside the catalog itself, whatever links lead there. The lock is the kernel's, not the
file's existence, so a file that was left behind means nothing.
"""

import fcntl
import os
import socket
from pathlib import Path

from leveret_coordinator.errors import CatalogInUse, CatalogUnavailable


class CatalogLock:
    """Held from `acquire` until `release`, or until the process ends."""

    def __init__(self, catalog: Path) -> None:
        self._catalog = catalog
        self._path = Path(f"{os.path.realpath(catalog)}.lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take it at once.

        Raises `CatalogInUse`, naming the holder, if it is taken, and `CatalogUnavailable` if files
        can't be locked or written there.
        """
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._lock(file)
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            raise CatalogUnavailable(
                f"The catalog {self._catalog} can't be locked: {error.strerror} ({self._path})."
            ) from error
        self._file = file

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 300).decode(errors="replace") or "unknown"
            raise CatalogInUse(
                f"The catalog {self._catalog} is in use by another coordinator ({holder}): "
                "stop that program first, or use another catalog."
            ) from error
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}@{socket.gethostname()}".encode())

    def release(self) -> None:
        """Give it back. Twice is fine."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
