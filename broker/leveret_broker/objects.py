"""Where stored payloads lie: objects with a name, a content that never changes, and an age.

`open_objects` gives a folder (`file://`, or a plain path), or whatever fsspec has for a URL. An
object appears whole or not at all, whoever else writes it at the same time. Everything here blocks:
it belongs on a thread.
"""

import os
import secrets
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from leveret_broker.errors import ObjectMissing, StoreDenied, StoreError

PIECE = 16 * 1024 * 1024
"""Bytes that are read or written at a time."""
_NAME = 64
"""Characters of an object's name, hexadecimal digits. Anything else in a store is none of ours."""
_OWNER = "owner"
"""The object that says whose janitor cleans the store."""
_REMOVING = ".removing"
_PARTIAL = ".partial"

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An object in a listing."""

    name: str
    size: int
    modified_at: float
    """Seconds since the Unix epoch, by the store's clock."""


class Objects(Protocol):
    """A store. Methods raise `StoreError` if it can't be used, `StoreDenied` if it may not be."""

    @property
    def place(self) -> str:
        """Its URL, without passwords."""
        ...

    def find(self, name: str) -> "Found | None":
        """The object of this name, if there is one."""
        ...

    def write(self, name: str, chunks: Iterable[Bytes]) -> None:
        """Make the object. If `chunks` raises a `StoreError`, it is raised, and nothing is made."""
        ...

    def renew(self, name: str) -> bool:
        """Make it as young as if it were written now. If that fails it is to be written again."""
        ...

    def read(self, name: str) -> Iterator[Bytes]:
        """Its content, piece by piece. Raises `ObjectMissing`."""
        ...

    def file(self, name: str) -> Path | None:
        """The file that it is, if it is one on this host's file systems."""
        ...

    def listed(self) -> Iterator[Found]:
        """All objects, in no order."""
        ...

    def remove(self, name: str, *, modified_before: float) -> bool:
        """Remove it, unless it is younger by now. Whether it was removed."""
        ...

    def sweep(self, *, modified_before: float) -> None:
        """Mend and remove what processes that were killed have left."""
        ...

    def owner(self, proposed: str) -> str:
        """Whose janitor cleans here: the proposed one, if there was none before."""
        ...


def open_objects(url: str, *, durable: bool = True) -> Objects:
    """The store of a URL. `durable` objects survive a power failure from `write`'s return on.

    Raises `StoreError` for a URL that nothing here can open.
    """
    folder = folder_of(url)
    if folder is not None:
        return Folder(folder, durable=durable)
    from leveret_broker.remote_objects import RemoteObjects  # late: fsspec takes a while

    return RemoteObjects(url)


def folder_of(url: str) -> Path | None:
    """The folder that a `file://` URL or a plain path names, `None` for other URLs."""
    if "://" not in url:
        return Path(url).expanduser().absolute()
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise StoreError(f"{url} names the host {parts.netloc}: write file:///folder for a folder")
    return Path(unquote(parts.path)).absolute()


def is_name(text: str) -> bool:
    """Whether this can be an object's name."""
    return len(text) == _NAME and not set(text) - set("0123456789abcdef")


def path_of(name: str) -> str:
    """Where an object lies below the store's root: not all in one folder."""
    return f"{name[:2]}/{name}"


class Folder:
    """A store in a folder, which several hosts may share.

    A removal first sets the object aside, so that who renews it meanwhile either made it young
    before, and it is given back, or doesn't find it, and writes it again. Who reads looks in both
    places.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._folder = folder
        self._durable = durable

    @property
    def place(self) -> str:
        return self._folder.as_uri()

    def find(self, name: str) -> Found | None:
        with self._mapped():
            return _found(self._path(name))

    def write(self, name: str, chunks: Iterable[Bytes]) -> None:
        path = self._path(name)
        with self._mapped():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{name}.{secrets.token_hex(8)}{_PARTIAL}")
            try:
                with partial.open("xb", buffering=0) as file:
                    for chunk in chunks:
                        _write_all(file.fileno(), memoryview(chunk).cast("B"))
                    if self._durable:
                        os.fsync(file.fileno())
                partial.replace(path)
                if self._durable:
                    _sync_folder(path.parent)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def renew(self, name: str) -> bool:
        try:
            os.utime(self._path(name))
        except OSError:  # it is gone, or somebody else's
            return False
        return True

    def read(self, name: str) -> Iterator[Bytes]:
        with self._mapped(), self._found(name).open("rb", buffering=0) as file:
            while piece := file.read(PIECE):
                yield piece

    def file(self, name: str) -> Path | None:
        with self._mapped():
            return self._found(name)

    def listed(self) -> Iterator[Found]:
        with self._mapped():
            for path in self._files():
                if is_name(path.name) and (found := _found(path)) is not None:
                    yield found

    def remove(self, name: str, *, modified_before: float) -> bool:
        path = self._path(name)
        aside = path.with_name(name + _REMOVING)
        with self._mapped():
            try:
                path.rename(aside)
            except FileNotFoundError:
                return False
            if aside.stat().st_mtime >= modified_before:
                aside.rename(path)
                return False
            aside.unlink()
            return True

    def discard(self, name: str) -> None:
        """Remove it, however young it is. Who has opened it keeps it."""
        with self._mapped():
            self._path(name).unlink(missing_ok=True)

    def sweep(self, *, modified_before: float) -> None:
        with self._mapped():
            for path in self._files():
                with suppress(FileNotFoundError):
                    if path.name.endswith(_REMOVING):
                        _give_back(path)
                    elif path.name.endswith(_PARTIAL) and path.stat().st_mtime < modified_before:
                        path.unlink()

    def owner(self, proposed: str) -> str:
        path = self._folder / _OWNER
        with self._mapped():
            self._folder.mkdir(parents=True, exist_ok=True)
            mine = path.with_name(f"{_OWNER}.{secrets.token_hex(8)}{_PARTIAL}")
            mine.write_text(proposed)
            try:
                os.link(mine, path)  # with its text in it, and only if there is none
            except FileExistsError:
                pass
            finally:
                mine.unlink()
            return path.read_text().strip()

    def _path(self, name: str) -> Path:
        return self._folder / path_of(name)

    def _found(self, name: str) -> Path:
        """Where it is now. A removal that gives it back moves it twice."""
        path = self._path(name)
        for _ in range(3):
            for place in (path, path.with_name(name + _REMOVING)):
                if place.exists():
                    return place
        raise ObjectMissing(f"{self.place} has no object {name}")

    def _files(self) -> Iterator[Path]:
        if not self._folder.exists():
            return
        for folder in self._folder.iterdir():
            if len(folder.name) == 2 and folder.is_dir():
                yield from folder.iterdir()

    @contextmanager
    def _mapped(self) -> Generator[None]:
        try:
            yield
        except PermissionError as error:
            raise StoreDenied(f"{self.place} may not be used: {_reason(error)}") from error
        except FileNotFoundError as error:
            raise ObjectMissing(f"{self.place} has no {error.filename} any more") from error
        except OSError as error:
            raise StoreError(f"{self.place} can't be used: {_reason(error)}") from error


def _found(path: Path) -> Found | None:
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return Found(name=path.name, size=about.st_size, modified_at=about.st_mtime)


def _give_back(aside: Path) -> None:
    """Undo a removal that was cut short, unless the object was written again meanwhile."""
    path = aside.with_name(aside.name.removesuffix(_REMOVING))
    if path.exists():
        aside.unlink()
    else:
        aside.rename(path)


def _reason(error: OSError) -> str:
    return f"{error.strerror} ({error.filename})" if error.filename else str(error)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data[:PIECE]) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
