"""The catalog as a file: recognized, brought up to date, held by one coordinator."""

import errno
import os
import socket
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from leveret_coordinator import migrations
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.database import Database, in_a_thread
from leveret_coordinator.errors import (
    CatalogInUse,
    CatalogTooNew,
    CatalogUnavailable,
    NotACatalog,
)
from leveret_coordinator.lock import CatalogLock
from leveret_coordinator.statements import Connection
from tests.coordinator import build


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "catalog.sqlite"


# -- durable --------------------------------------------------------------------------------------


def _value(sql: str, connection: sqlite3.Connection) -> object:
    return connection.execute(sql).fetchone()[0]


async def test_a_commit_reaches_the_disk_before_it_returns(path: Path) -> None:
    opened: list[Connection] = []

    async def connect(name: str) -> Connection:
        opened.append(await in_a_thread(name))
        return opened[0]

    database = await Database.open(path, connect)
    try:
        for pragma, expected in (("synchronous", 2), ("journal_mode", "wal"), ("foreign_keys", 1)):
            read = partial(_value, f"PRAGMA {pragma}")
            assert await opened[0].run(read) == expected, pragma
    finally:
        await database.close()


async def test_a_new_catalog_is_told_in_the_log_and_an_old_one_is_not(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await (await Catalog.open(None)).close()
    assert "catalog made" not in caplog.text
    for _ in range(2):
        await (await Catalog.open(path)).close()
    assert caplog.text.count("catalog made") == 1


# -- migrations -----------------------------------------------------------------------------------


def test_migrations_are_numbered_without_gaps_and_set_their_number() -> None:
    scripts = migrations.load()
    assert [script.number for script in scripts] == list(range(1, len(scripts) + 1))
    for migration in scripts:
        assert "BEGIN IMMEDIATE;" in migration.script
        assert f"PRAGMA user_version = {migration.number};" in migration.script
        assert migration.script.rstrip().endswith("COMMIT;")


async def test_a_fresh_file_gets_all_tables_and_another_start_changes_nothing(path: Path) -> None:
    await (await Catalog.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        schema = connection.execute("SELECT * FROM sqlite_schema").fetchall()
        version = connection.execute("PRAGMA user_version").fetchone()
    assert version == (migrations.load()[-1].number,)
    await (await Catalog.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM sqlite_schema").fetchall() == schema


async def test_a_catalog_of_a_newer_version_is_refused(path: Path) -> None:
    await (await Catalog.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(CatalogTooNew, match=r"schema 999.*Upgrade leveret"):
        await Catalog.open(path)


async def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(NotACatalog, match="is not a catalog of leveret"):
        await Catalog.open(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("buy milk\n" * 1000, encoding="utf-8")
    with pytest.raises(NotACatalog):
        await Catalog.open(path)
    assert path.read_text(encoding="utf-8") == "buy milk\n" * 1000


async def test_a_path_that_can_not_be_a_file_is_refused_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailable, match="can't be used now"):
        await Catalog.open(tmp_path)
    blocking = tmp_path / "file"
    blocking.touch()
    with pytest.raises(CatalogUnavailable, match="can't be made"):
        await Catalog.open(blocking / "catalog.sqlite")


# -- one coordinator ------------------------------------------------------------------------------


async def test_a_catalog_in_use_is_refused_naming_the_holder(path: Path) -> None:
    catalog = await Catalog.open(path)
    with pytest.raises(CatalogInUse, match=f"process {os.getpid()} on host {socket.gethostname()}"):
        await Catalog.open(path)
    await catalog.close()
    await (await Catalog.open(path)).close()


async def test_a_catalog_in_use_is_refused_by_its_other_names_too(path: Path) -> None:
    catalog = await Catalog.open(path)
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(CatalogInUse):
        await Catalog.open(link)
    await catalog.close()


@pytest.mark.parametrize("operation", ["fcntl.flock", "os.ftruncate", "os.write"])
def test_files_that_can_not_be_locked_are_refused_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = set(Path("/dev/fd").iterdir())
    lock = CatalogLock(tmp_path / "catalog")
    with monkeypatch.context() as patch:
        patch.setattr(operation, fail)
        with pytest.raises(CatalogUnavailable, match=r"can't be locked: No locks available"):
            lock.acquire()
    assert set(Path("/dev/fd").iterdir()) == before, "nothing is left open"
    lock.acquire()
    lock.release()


async def test_a_refused_catalog_is_not_kept_locked(path: Path) -> None:
    await (await Catalog.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    for _ in range(2):
        with pytest.raises(CatalogTooNew):
            await Catalog.open(path)


async def test_catalogs_in_memory_are_apart() -> None:
    one, other = await Catalog.open(None), await Catalog.open(None)
    await build.apply(one, build.register(build.spec("flow")))
    assert await one.queues() == ["p:flow:1"]
    assert await other.queues() == []
    await one.close()
    await other.close()
