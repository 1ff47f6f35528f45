"""The catalog's database: it outlives the coordinators, which come to it one after the other.

Statements run in place. Behind each commit, and behind some of the others, is an await at which the
coordinator may be killed: what it had not committed is rolled back, as SQLite does with the file of
a process that died.
"""

import random
import sqlite3
from collections.abc import Callable, Generator, Iterable
from types import coroutine
from typing import Any


@coroutine
def _let_others() -> Generator[None, None, None]:
    yield


class Disk:
    """The database, what was committed in it, and who uses it now."""

    def __init__(
        self, image: bytes | None, on_commit: Callable[[], None], rng: random.Random
    ) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)
        if image is not None:
            self.database.deserialize(image)
        self.on_commit = on_commit
        self.rng = rng
        self._user: InlineConnection | None = None

    async def connect(self, _name: str) -> "InlineConnection":
        """What a coordinator opens its catalog with."""
        self._user = InlineConnection(self)
        return self._user

    def lose_user(self) -> None:
        """The coordinator was killed."""
        if self._user is not None:
            self._user.is_dead = True
        if self.database.in_transaction:
            self.database.rollback()

    def image(self) -> bytes:
        """All that is committed."""
        return self.database.serialize()

    def close(self) -> None:
        self.database.close()


class InlineConnection:
    """What the catalog uses of an `aiosqlite.Connection`, without its thread."""

    def __init__(self, disk: Disk) -> None:
        self.is_dead = False
        self.row_factory: Any = None
        self._disk = disk

    async def execute_fetchall(self, sql: str, parameters: Any = ()) -> list[Any]:
        rows: list[Any] = await self._run(
            lambda database: database.execute(sql, parameters).fetchall()
        )
        return rows

    async def executemany(self, sql: str, parameters: Iterable[Any]) -> "InlineCursor":
        return InlineCursor(await self._run(lambda database: database.executemany(sql, parameters)))

    async def executescript(self, sql_script: str) -> "InlineCursor":
        return InlineCursor(await self._run(lambda database: database.executescript(sql_script)))

    async def rollback(self) -> None:
        if not self.is_dead:
            self._disk.database.rollback()

    async def close(self) -> None:
        if not self.is_dead:
            self._disk.lose_user()

    async def _run(self, statement: Callable[[sqlite3.Connection], Any]) -> Any:
        if self.is_dead:
            raise sqlite3.OperationalError("this process is dead")
        database = self._disk.database
        database.row_factory = self.row_factory
        was_in_transaction, is_commit = database.in_transaction, False
        answer = statement(database)
        if was_in_transaction and not database.in_transaction:
            is_commit = True
            self._disk.on_commit()
        if is_commit or self._disk.rng.random() < 0.3:
            await _let_others()
        return answer


class InlineCursor:
    """What is left of a statement that was executed."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self.rowcount = cursor.rowcount

    async def close(self) -> None: ...
