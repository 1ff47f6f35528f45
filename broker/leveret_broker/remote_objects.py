"""A payload store that fsspec reaches: `s3://`, `gs://`, `memory://`, and what else it knows.

S3 and Google's store make an object visible when its last piece has arrived. Elsewhere it is
written under another name and then renamed.
"""

import secrets
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leveret_broker.errors import ObjectMissing, StoreDenied, StoreError
from leveret_broker.objects import PIECE, Bytes, Found, is_name, path_of
from leveret_broker.urls import redact

_UPLOADING = ("s3", "s3a", "gs", "gcs")
"""Protocols whose files are there only once they are complete."""
_DENIED = ("credential", "forbidden", "accessdenied", "unauthorized", "signaturedoesnotmatch")
"""What the names or texts of errors about permissions have in them, whatever the library."""
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "created")
"""Where filesystems keep the time in what they tell of a file."""
_PARTIALS = ".partial"
_OWNER = "owner"

_shared_files = threading.Lock()
"""In `memory://` everybody reads through the same file, which has one position."""


class RemoteObjects:
    """See `objects.Objects`."""

    def __init__(self, url: str) -> None:
        self._place = redact(url)
        from fsspec.core import url_to_fs

        try:
            # Listings that are kept would hide what other processes write.
            self._files, root = url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise StoreError(
                f"{self._place} needs a library that is not installed here: {error}"
            ) from error
        except Exception as error:  # each protocol has its own
            raise StoreError(f"{self._place} is no payload store: {error}") from error
        self._root = root.rstrip("/")
        protocol = self._files.protocol
        names = (protocol,) if isinstance(protocol, str) else protocol
        self._uploads = any(name in _UPLOADING for name in names)

    @property
    def place(self) -> str:
        return self._place

    def find(self, name: str) -> Found | None:
        with self._mapped(), suppress(FileNotFoundError):
            return self._found(name, self._files.info(self._path(name)))
        return None

    def write(self, name: str, chunks: Iterable[Bytes]) -> None:
        with self._mapped():
            if self._uploads:
                self._upload(self._path(name), chunks)
            else:
                self._write_and_rename(self._path(name), chunks)

    def renew(self, name: str) -> bool:
        return False  # only writing makes an object younger everywhere

    def read(self, name: str) -> Iterator[Bytes]:
        path, start = self._path(name), 0
        with self._mapped():
            size = int(self._files.info(path)["size"])
            while start < size:
                with nullcontext() if self._files.async_impl else _shared_files:
                    piece = self._files.cat_file(path, start=start, end=min(start + PIECE, size))
                if not piece:
                    return
                start += len(piece)
                yield piece

    def file(self, name: str) -> Path | None:
        return None

    def listed(self) -> Iterator[Found]:
        with self._mapped(), suppress(FileNotFoundError):
            for path, about in self._files.find(self._root, detail=True).items():
                name = path.rpartition("/")[2]
                if is_name(name):
                    yield self._found(name, about)

    def remove(self, name: str, *, modified_before: float) -> bool:
        found = self.find(name)
        if found is None or found.modified_at >= modified_before:
            return False
        with self._mapped():
            self._files.rm_file(self._path(name))
        return True

    def sweep(self, *, modified_before: float) -> None:
        with self._mapped(), suppress(FileNotFoundError):
            found = self._files.find(f"{self._root}/{_PARTIALS}", detail=True)
            for path, about in found.items():
                if self._time(about) < modified_before:
                    self._files.rm_file(path)

    def owner(self, proposed: str) -> str:
        path = f"{self._root}/{_OWNER}"
        with self._mapped():
            try:
                return self._files.cat_file(path).decode().strip()
            except FileNotFoundError:
                self._files.makedirs(self._root, exist_ok=True)
                self._files.pipe_file(path, proposed.encode())
            return self._files.cat_file(path).decode().strip()

    def _path(self, name: str) -> str:
        return f"{self._root}/{path_of(name)}"

    def _upload(self, path: str, chunks: Iterable[Bytes]) -> None:
        file = self._files.open(path, "wb", autocommit=False, block_size=PIECE)
        try:
            _write_pieces(file, chunks)
            file.close()
            file.commit()
        except BaseException:
            with suppress(Exception):  # the first error counts
                file.discard()
            raise

    def _write_and_rename(self, path: str, chunks: Iterable[Bytes]) -> None:
        partial = f"{self._root}/{_PARTIALS}/{secrets.token_hex(16)}"
        for folder in (partial, path):
            self._files.makedirs(folder.rpartition("/")[0], exist_ok=True)
        try:
            with self._files.open(partial, "wb") as file:
                _write_pieces(file, chunks)
            self._files.mv(partial, path)
        except BaseException:
            with suppress(Exception):
                self._files.rm_file(partial)
            raise

    def _found(self, name: str, about: dict[str, Any]) -> Found:
        return Found(name=name, size=int(about["size"] or 0), modified_at=self._time(about))

    def _time(self, about: dict[str, Any]) -> float:
        found = next((about[key] for key in _TIMES if about.get(key) is not None), None)
        if found is None:
            found = self._files.modified(str(about["name"]))
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if isinstance(found, datetime):
            found = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        return float(found)

    @contextmanager
    def _mapped(self) -> Generator[None]:
        try:
            yield
        except (StoreError, GeneratorExit):
            raise
        except FileNotFoundError as error:
            raise ObjectMissing(f"{self._place} has no such object: {error}") from error
        except Exception as error:  # each protocol has its own
            told = f"{type(error).__name__}: {error}"
            kind = told.replace(" ", "").lower()
            if isinstance(error, PermissionError) or any(word in kind for word in _DENIED):
                raise StoreDenied(f"{self._place} may not be used: {told}") from error
            raise StoreError(f"{self._place} can't be used: {told}") from error


def _write_pieces(file: Any, chunks: Iterable[Bytes]) -> None:
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), PIECE):
            file.write(view[start : start + PIECE])
