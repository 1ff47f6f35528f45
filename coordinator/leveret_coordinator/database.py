"""A connection to the catalog's database: opened, recognized, brought up to date, closed."""

import os
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiosqlite
from aiosql.queries import Queries

from leveret_broker import logs
from leveret_coordinator import migrations, statements
from leveret_coordinator.errors import (
    CatalogConflict,
    CatalogError,
    CatalogTooNew,
    CatalogUnavailable,
    NotACatalog,
)
from leveret_coordinator.lock import CatalogLock, advice

log = logs.get_logger("leveret.coordinator")

APPLICATION_ID = 0x6C767274
"""'lvrt', in the header of every catalog."""

_OUTSIDE_CAUSES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}


async def in_a_thread(name: str) -> statements.Connection:
    """A connection whose statements run on a thread of its own."""
    return await aiosqlite.connect(name, isolation_level=None)


class Database:
    """The one connection that writes. Made by `open`; every use of it is by one task at a time."""

    def __init__(
        self, name: str, lock: CatalogLock | None, connection: statements.Connection
    ) -> None:
        self.name = name
        self._lock = lock
        self.connection = connection
        self.sql: Queries = statements.load()

    @classmethod
    async def open(cls, path: Path | None, connect: statements.Connect = in_a_thread) -> "Database":
        """Open a file, making it if there is none, or a database in memory for `None`.

        Raises `CatalogInUse`, `CatalogTooNew`, `NotACatalog` or `CatalogUnavailable`.
        """
        lock = _locked(path) if path is not None else None
        name = str(path) if path is not None else ":memory:"
        try:
            if path is not None:
                _check_usable(path)
            with mapped_errors(name):
                connection = await connect(name)
        except BaseException:
            _release(lock)
            raise
        database = cls(name, lock, connection)
        try:
            await database._prepare()
        except BaseException:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        """Close the file and give back the lock. Twice is fine."""
        try:
            await self.connection.close()
        finally:
            _release(self._lock)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None, None]:
        """All or nothing, durable at the end of the block."""
        with mapped_errors(self.name):
            try:
                await self.sql.begin(self.connection)
                yield
                await self.sql.commit(self.connection)
            except BaseException:
                await self.connection.rollback()
                raise

    async def _prepare(self) -> None:
        with mapped_errors(self.name):
            connection, sql = self.connection, self.sql
            connection.row_factory = sqlite3.Row
            await self._recognize()
            await sql.configure(connection)
            version: int = await sql.schema_version(connection)
            for migration in migrations.load():
                if migration.number > version:
                    await self._migrate(migration)
            await sql.enforce_references(connection)
            if version == 0 and self._lock is not None:
                log.info("catalog made", catalog=self.name)

    async def _recognize(self) -> None:
        try:
            application: int = await self.sql.application_id(self.connection)
            tables: int = await self.sql.table_count(self.connection)
            version: int = await self.sql.schema_version(self.connection)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                raise
            raise NotACatalog(_not_a_catalog(self.name)) from error
        if application != APPLICATION_ID and (application or tables or version):
            raise NotACatalog(_not_a_catalog(self.name))
        newest = max(migration.number for migration in migrations.load())
        if version > newest:
            raise CatalogTooNew(
                f"The catalog {self.name} has schema {version}, and this leveret knows schemas up "
                f"to {newest}: it was last used by a newer version. Upgrade leveret, or use "
                "another catalog."
            )

    async def _migrate(self, migration: migrations.Migration) -> None:
        try:
            await self.connection.executescript(migration.script)
        except BaseException:
            await self.connection.rollback()
            raise


@contextmanager
def mapped_errors(name: str) -> Generator[None, None, None]:
    """Turn SQLite's exceptions into ours, by whether the statement or the world is to blame."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise CatalogConflict(f"The catalog {name} refused a row: {error}.") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _OUTSIDE_CAUSES:
            raise CatalogUnavailable(f"The catalog {name} can't be used now: {error}.") from error
        raise CatalogError(f"The catalog {name} failed: {error}.") from error


def _locked(path: Path) -> CatalogLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogUnavailable(
            f"The folder of the catalog {path} can't be made: {error.strerror}.{advice(error)}"
        ) from error
    lock = CatalogLock(path)
    lock.acquire()
    return lock


def _check_usable(path: Path) -> None:
    """Open the file before SQLite does: a connection that fails leaves its thread to itself."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
    except OSError as error:
        raise CatalogUnavailable(
            f"The catalog {path} can't be used now: {error.strerror}.{advice(error)}"
        ) from error


def _release(lock: CatalogLock | None) -> None:
    if lock is not None:
        lock.release()


def _not_a_catalog(name: str) -> str:
    return (
        f"{name} is not a catalog of leveret: it holds something else, which was left as it is. "
        "Give another path."
    )
