"""A connection to the catalog's database: opened, recognized, brought up to date, closed."""

import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import aiosqlite

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

T = TypeVar("T")

log = logs.get_logger("leveret.coordinator")

APPLICATION_ID = 0x6C767274
"""'lvrt', in the header of every catalog."""

STATEMENTS_KEPT = 512
"""Compiled, by SQLite: more than `catalog.sql` has."""

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


class ThreadConnection(aiosqlite.Connection):
    """aiosqlite makes a trip to its thread for each statement; this one makes one for many."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do all of it on the thread."""
        done: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return done


async def in_a_thread(name: str) -> statements.Connection:
    """A connection on a thread of its own."""
    connection = ThreadConnection(
        lambda: sqlite3.connect(name, isolation_level=None, cached_statements=STATEMENTS_KEPT), 1
    )
    await connection
    return connection


class Database:
    """The one connection that writes. Made by `open`; every use of it is by one task at a time."""

    def __init__(
        self, name: str, lock: CatalogLock | None, connection: statements.Connection
    ) -> None:
        self.name = name
        self._lock = lock
        self._connection = connection

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
            with _mapped_errors(name):
                connection = await connect(name)
        except BaseException:
            _release(lock)
            raise
        database = cls(name, lock, connection)
        try:
            await database.run(database._prepare)
        except BaseException:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        """Close the file and give back the lock. Twice is fine."""
        try:
            await self._connection.close()
        finally:
            _release(self._lock)

    async def run(self, work: Callable[[statements.Statements], T]) -> T:
        """Do all of it on the database's thread. Raises what `work` raises, SQLite's as ours."""
        with _mapped_errors(self.name):
            return await self._connection.run(
                lambda connection: work(statements.Statements(connection))
            )

    async def write(self, work: Callable[[statements.Statements], T]) -> T:
        """The same, in one transaction: all or nothing, durable when it returns."""

        def whole(sql: statements.Statements) -> T:
            with sql.transaction():
                return work(sql)

        return await self.run(whole)

    def _prepare(self, sql: statements.Statements) -> None:
        sql.use_named_columns()
        self._recognize(sql)
        sql.do("configure")
        version: int = sql.value("schema_version")
        for migration in migrations.load():
            if migration.number > version:
                sql.script(migration.script)
        sql.do("enforce_references")
        if version == 0 and self._lock is not None:
            log.info("catalog made", catalog=self.name)

    def _recognize(self, sql: statements.Statements) -> None:
        try:
            application: int = sql.value("application_id")
            tables: int = sql.value("table_count")
            version: int = sql.value("schema_version")
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


@contextmanager
def _mapped_errors(name: str) -> Generator[None, None, None]:
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
