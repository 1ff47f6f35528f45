"""How the statements of `catalog.sql` reach SQLite: by aiosql, through an adapter of our own.

aiosqlite hands every call to its thread and back. aiosql's adapter makes three such trips for a
statement (execute, fetch, close), this one makes one, or two where it counts the changed rows.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import cache
from importlib.resources import as_file, files
from typing import Any, Protocol

import aiosql
from aiosql.queries import Queries


class Cursor(Protocol):
    """What is left of a statement that returns no rows."""

    @property
    def rowcount(self) -> int: ...
    async def close(self) -> None: ...


class Connection(Protocol):
    """What the catalog uses of an `aiosqlite.Connection`."""

    row_factory: Any

    def execute_fetchall(self, sql: str, parameters: Any = ...) -> Awaitable[Iterable[Any]]: ...
    def executemany(self, sql: str, parameters: Iterable[Any]) -> Awaitable[Cursor]: ...
    def executescript(self, sql_script: str) -> Awaitable[Cursor]: ...
    async def rollback(self) -> None: ...
    async def close(self) -> None: ...


Connect = Callable[[str], Awaitable[Connection]]
"""Opens the database of this name, a path or `:memory:`, with no transaction begun by itself."""


class Adapter:
    """The interface that aiosql expects, as far as `catalog.sql` uses it."""

    is_aio_driver = True

    def process_sql(self, _name: str, _operation: object, sql: str) -> str:
        return sql

    async def select(
        self,
        connection: Connection,
        _name: str,
        sql: str,
        parameters: dict[str, Any],
        _record_class: None = None,
    ) -> AsyncIterator[Any]:
        for row in await connection.execute_fetchall(sql, parameters):
            yield row

    async def select_value(
        self, connection: Connection, _name: str, sql: str, parameters: dict[str, Any]
    ) -> Any:
        rows = await connection.execute_fetchall(sql, parameters)
        return next((row[0] for row in rows), None)

    async def insert_update_delete(
        self, connection: Connection, _name: str, sql: str, parameters: dict[str, Any]
    ) -> None:
        await connection.execute_fetchall(sql, parameters)

    async def insert_update_delete_many(
        self,
        connection: Connection,
        _name: str,
        sql: str,
        parameters: Sequence[dict[str, Any]],
    ) -> int:
        """The number of rows that were changed."""
        cursor = await connection.executemany(sql, parameters)
        changed = cursor.rowcount
        await cursor.close()
        return changed

    async def execute_script(self, connection: Connection, sql: str) -> None:
        cursor = await connection.executescript(sql)
        await cursor.close()


@cache
def load() -> Queries:
    """The statements of `catalog.sql`, each a method that takes the connection first.

    Read once a process.
    """
    with as_file(files("leveret_coordinator") / "catalog.sql") as path:
        return aiosql.from_path(path, Adapter)
