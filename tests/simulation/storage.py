"""The catalog's database: it outlives the coordinators, which come to it one after the other.

Statements run in place. Behind each commit, and before some trips, is an await at which the
coordinator may be killed. A trip that is cut short has committed nothing, as with the file of a
process that died, so it is one that was never made.
"""

import random
import sqlite3
from collections.abc import Callable, Generator
from types import coroutine
from typing import TypeVar

T = TypeVar("T")


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
    """What the catalog uses of a connection, without a thread."""

    def __init__(self, disk: Disk) -> None:
        self.is_dead = False
        self._disk = disk

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """A process that is killed in here before the end has written nothing."""
        if self._disk.rng.random() < 0.3:
            await _let_others()
        if self.is_dead:
            raise sqlite3.OperationalError("this process is dead")
        database = self._disk.database
        before = database.total_changes
        done = work(database)
        if database.total_changes != before:
            self._disk.on_commit()
            await _let_others()
        return done

    async def close(self) -> None:
        if not self.is_dead:
            self._disk.lose_user()
