"""Stored payloads on this host: fetched once, mapped by every process that needs them.

A folder of files named by their content. A process that lacks one takes a lock of the file system,
so that of several on a host one fetches, and the others then find the file. What was used longest
ago goes when room is needed; who has mapped it keeps it.
"""

import fcntl
import mmap
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from leveret_broker.errors import ContentDamaged, ObjectMissing, StoreError
from leveret_broker.objects import Bytes, Folder, Found
from leveret_broker.references import Reference, hasher

_PIECE = 4 * 1024 * 1024
"""Bytes that are hashed at a time."""

_MOST_KNOWN = 10_000
"""Files that are remembered as verified."""

Identity = tuple[int, ...]


class Verified:
    """Opens files that hold what a reference says, each hashed once as long as it stays as it is.

    `by_times`: a file whose times have changed is hashed again.
    """

    def __init__(self, *, by_times: bool) -> None:
        self._by_times = by_times
        self._known: dict[bytes, Identity] = {}

    def open(self, path: Path, reference: Reference, *, is_new: bool = False) -> memoryview:
        """The file's content, mapped: writable, though what is written reaches no file.

        `is_new`: this process has just verified it. Raises `ContentDamaged`, and `OSError` if it
        can't be opened.
        """
        with path.open("rb", buffering=0) as file:
            about = os.fstat(file.fileno())
            if about.st_size != reference.size:
                raise ContentDamaged(f"{about.st_size} bytes are left of {reference.size}")
            identity = self._identity(about)
            if self._known.get(reference.digest) != identity:
                if not is_new and _digest_of(file.fileno()) != reference.digest:
                    raise ContentDamaged("its content is something else than its name says")
                self._remember(reference.digest, identity)
            if not reference.size:
                return memoryview(bytearray())
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))

    def _identity(self, about: os.stat_result) -> Identity:
        file = (about.st_dev, about.st_ino, about.st_size)
        return (*file, about.st_mtime_ns, about.st_ctime_ns) if self._by_times else file

    def _remember(self, digest: bytes, identity: Identity) -> None:
        self._known.pop(digest, None)
        self._known[digest] = identity
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]


class Cache:
    """Copies of stored payloads in a folder of this host."""

    def __init__(self, folder: Path, *, bound: int) -> None:
        """`bound`: bytes that the files have together, unless a single one is larger."""
        self._folder = folder
        self._bound = bound
        self._files = Folder(folder, durable=False)
        self._verified = Verified(by_times=False)  # using a copy changes them

    def get(self, reference: Reference, fetch: Callable[[], Iterator[Bytes]]) -> memoryview:
        """The content, fetched if this host has no copy. Raises `StoreError`."""
        found = self._copy(reference)
        if found is not None:
            return found
        with self._locked(reference.name[:2]):
            found = self._copy(reference)  # somebody else may have fetched it meanwhile
            if found is not None:
                return found
            pieces = fetch()  # first: a reference that lies about its size must cost nothing
            self._make_room(reference.size)
            self._files.write(reference.name, checked(pieces, reference))
            found = self._copy(reference, is_new=True)
        if found is None:
            raise StoreError(f"{self._folder} lost what was fetched into it")
        return found

    def _copy(self, reference: Reference, *, is_new: bool = False) -> memoryview | None:
        """What is here, if it is whole."""
        try:
            path = self._files.file(reference.name)
            assert path is not None, "a folder has files"
            found = self._verified.open(path, reference, is_new=is_new)
            os.utime(path)
        except (ObjectMissing, FileNotFoundError):
            return None
        except ContentDamaged:
            self._files.discard(reference.name)
            return None
        except OSError as error:
            raise StoreError(f"{self._folder} can't be used as a cache: {error}") from error
        return found

    def _make_room(self, size: int) -> None:
        with self._locked("room"):
            files = sorted(self._files.listed(), key=_last_used)
            left = self._bound - size - sum(found.size for found in files)
            for found in files:
                if left >= 0:
                    return
                self._files.discard(found.name)
                left += found.size

    @contextmanager
    def _locked(self, name: str) -> Generator[None]:
        """Hold a lock that all processes of the host respect; it goes with the process."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = (self._folder / f"{name}.lock").open("wb")
        except OSError as error:
            raise StoreError(
                f"{self._folder} can't be used as a cache of stored payloads ({error.strerror}): "
                "set LEVERET_PAYLOAD_CACHE to a folder that can be written"
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def checked(pieces: Iterator[Bytes], reference: Reference) -> Iterator[Bytes]:
    """The same pieces. Raises `ContentDamaged` in the end if they aren't what was referred to."""
    digest, size = hasher(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
        if size > reference.size:
            break
        yield piece
    if size != reference.size:
        more = "more than" if size > reference.size else f"{size} of"
        raise ContentDamaged(f"{more} {reference.size} bytes came")
    if digest.digest() != reference.digest:
        raise ContentDamaged("its content is something else than its name says")


def _digest_of(descriptor: int) -> bytes:
    digest, buffer = hasher(), bytearray(_PIECE)
    view = memoryview(buffer)
    while count := os.readv(descriptor, [view]):
        digest.update(view[:count])
    return digest.digest()


def _last_used(found: Found) -> float:
    return found.modified_at


def usual_folder() -> Path:
    """Where a user's copies are, by the convention of the desktops."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "leveret" / "payloads"
