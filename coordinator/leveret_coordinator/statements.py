"""How the statements of `catalog.sql` reach SQLite: by aiosql, through an adapter of our own.

aiosqlite hands every call to its thread and back. aiosql's adapter makes three such trips for a
statement (execute, fetch, close), this one makes one, or two where it counts the changed rows.
"""

from collections.abc import AsyncIterator, Sequence
from importlib.resources import as_file, files
from typing import Any

import aiosql
import aiosqlite
from aiosql.queries import Queries


class Adapter:
    """The interface that aiosql expects, as far as `catalog.sql` uses it."""

    is_aio_driver = True

    def process_sql(self, _name: str, _operation: object, sql: str) -> str:
        return sql

    async def select(
        self,
        connection: aiosqlite.Connection,
        _name: str,
        sql: str,
        parameters: dict[str, Any],
        _record_class: None = None,
    ) -> AsyncIterator[Any]:
        for row in await connection.execute_fetchall(sql, parameters):
            yield row

    async def select_value(
        self, connection: aiosqlite.Connection, _name: str, sql: str, parameters: dict[str, Any]
    ) -> Any:
        rows = await connection.execute_fetchall(sql, parameters)
        return next((row[0] for row in rows), None)

    async def insert_update_delete(
        self, connection: aiosqlite.Connection, _name: str, sql: str, parameters: dict[str, Any]
    ) -> None:
        await connection.execute_fetchall(sql, parameters)

    async def insert_update_delete_many(
        self,
        connection: aiosqlite.Connection,
        _name: str,
        sql: str,
        parameters: Sequence[dict[str, Any]],
    ) -> int:
        """The number of rows that were changed."""
        cursor = await connection.executemany(sql, parameters)
        changed = cursor.rowcount
        await cursor.close()
        return changed

    async def execute_script(self, connection: aiosqlite.Connection, sql: str) -> None:
        cursor = await connection.executescript(sql)
        await cursor.close()


def load() -> Queries:
    """The statements of `catalog.sql`, each a method that takes the connection first."""
    with as_file(files("leveret_coordinator") / "catalog.sql") as path:
        return aiosql.from_path(path, Adapter)
