"""How the statements of `catalog.sql` reach SQLite: by aiosql, on the thread of the connection.

Whoever has `Statements` is on that thread, and asks without waiting. A trip to the thread and back
costs more than most statements do, so what belongs together makes it together.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import as_file, files
from typing import Any, Protocol, TypeVar

import aiosql
from aiosql.queries import Queries

T = TypeVar("T")


class Connection(Protocol):
    """A connection to SQLite, and the thread that it belongs to."""

    def run(self, work: Callable[[sqlite3.Connection], T]) -> Awaitable[T]:
        """Do all of it on the connection's thread, in one trip."""
        ...

    async def close(self) -> None: ...


Connect = Callable[[str], Awaitable[Connection]]
"""Opens the database of this name, a path or `:memory:`, with no transaction begun by itself."""


class Statements:
    """The statements by their names, on a connection. To be used on the connection's thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queries = load()

    def use_named_columns(self) -> None:
        """From now on, rows are to be read by the names of their columns."""
        self._connection.row_factory = sqlite3.Row

    def rows(self, statement: str, **parameters: object) -> list[Any]:
        """The rows of one that reads."""
        return list(getattr(self._queries, statement)(self._connection, **parameters))

    def value(self, statement: str, **parameters: object) -> Any:
        """The one value of one that reads one; `None` if there is no row."""
        return getattr(self._queries, statement)(self._connection, **parameters)

    def do(self, statement: str, **parameters: object) -> None:
        """Carry out one that changes something."""
        getattr(self._queries, statement)(self._connection, **parameters)

    def do_for_each(self, statement: str, parameters: Sequence[Any]) -> int:
        """Carry it out for each of these, and return how many rows were changed."""
        if not parameters:
            return 0
        changed: int = getattr(self._queries, statement)(self._connection, parameters)
        return changed

    def script(self, script: str) -> None:
        """Carry out several statements; if one fails, none of them if they are a transaction."""
        try:
            self._connection.executescript(script)
        except BaseException:
            self._connection.rollback()
            raise

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """All or nothing, durable at the end of the block."""
        try:
            self.do("begin")
            yield
            self.do("commit")
        except BaseException:
            self._connection.rollback()
            raise


class _Adapter:
    """The interface that aiosql expects, as far as `catalog.sql` uses it.

    Its own adapter makes a cursor a statement and closes it; this one leaves both to `sqlite3`.
    """

    is_aio_driver = False

    def process_sql(self, _name: str, _operation: object, sql: str) -> str:
        return sql

    def select(
        self,
        connection: sqlite3.Connection,
        _name: str,
        sql: str,
        parameters: dict[str, Any],
        _record_class: None = None,
    ) -> list[Any]:
        return connection.execute(sql, parameters).fetchall()

    def select_value(
        self, connection: sqlite3.Connection, _name: str, sql: str, parameters: dict[str, Any]
    ) -> Any:
        rows = connection.execute(sql, parameters).fetchall()
        return rows[0][0] if rows else None

    def insert_update_delete(
        self, connection: sqlite3.Connection, _name: str, sql: str, parameters: dict[str, Any]
    ) -> None:
        connection.execute(sql, parameters).fetchall()

    def insert_update_delete_many(
        self,
        connection: sqlite3.Connection,
        _name: str,
        sql: str,
        parameters: Sequence[dict[str, Any]],
    ) -> int:
        return connection.executemany(sql, parameters).rowcount

    def execute_script(self, connection: sqlite3.Connection, sql: str) -> None:
        connection.executescript(sql)


@cache
def load() -> Queries:
    """The statements of `catalog.sql`, each a method that takes the connection first."""
    with as_file(files("leveret_coordinator") / "catalog.sql") as path:
        return aiosql.from_path(path, _Adapter)
