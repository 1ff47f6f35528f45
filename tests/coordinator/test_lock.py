"""The lock on a catalog."""

import fcntl
from pathlib import Path
from typing import Any

import pytest

from leveret_coordinator.errors import CatalogInUse
from leveret_coordinator.lock import CatalogLock


def test_the_holder_is_named_with_the_time_since_when_it_has_it(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog"
    held = CatalogLock(catalog, now=lambda: 86400.0)
    held.acquire()
    with pytest.raises(
        CatalogInUse, match=r"process \d+ on host .+, since 1970-01-02 00:00:00 UTC"
    ):
        CatalogLock(catalog).acquire()
    held.release()
    CatalogLock(catalog).acquire()


def test_a_lock_file_that_vanishes_while_it_is_locked_keeps_others_out_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody tidies up between its opening and its locking: the lock would be on no file."""
    catalog = tmp_path / "catalog"
    flock, file = fcntl.flock, Path(f"{catalog}.lock")
    removed: list[Path] = []

    def remove_once(*given: Any) -> None:
        if not removed:
            removed.append(file)
            file.unlink()
        flock(*given)

    monkeypatch.setattr(fcntl, "flock", remove_once)
    held = CatalogLock(catalog)
    held.acquire()
    with pytest.raises(CatalogInUse):
        CatalogLock(catalog).acquire()
    held.release()
