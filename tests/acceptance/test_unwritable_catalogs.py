"""A catalog that can't be written ends the coordinator with a sentence, and nothing is harmed."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.acceptance.processes import Site

pytestmark = pytest.mark.rabbitmq

AS_NOBODY = """
import os, sys
from leveret.cli import main, services  # while it may be read

if os.geteuid() == 0:  # for whom no permission holds
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
main(["coordinator", "--catalog", sys.argv[1]])
"""
WITH_SMALL_FILES = """
import resource, sys
from leveret.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
main(["coordinator", "--catalog", sys.argv[1]])
"""


@pytest.fixture
def folder() -> Generator[Path]:
    """A folder that any user may enter."""
    made = Path(tempfile.mkdtemp(prefix="lvrt-"))
    made.chmod(0o777)
    yield made
    made.chmod(0o777)
    shutil.rmtree(made)


def in_a_read_only_folder(folder: Path) -> Path:
    folder.chmod(0o555)
    return folder / "catalog.sqlite"


def below_a_read_only_folder(folder: Path) -> Path:
    folder.chmod(0o555)
    return folder / "state" / "catalog.sqlite"


def that_is_read_only(folder: Path) -> Path:
    catalog = folder / "catalog.sqlite"
    catalog.touch()
    catalog.chmod(0o444)
    return catalog


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (in_a_read_only_folder, "can't be locked: Permission denied"),
        (below_a_read_only_folder, "can't be made: Permission denied"),
        (that_is_read_only, "can't be used now: Permission denied"),
    ],
)
def test_a_catalog_without_permission_names_the_user_and_what_it_needs(
    site: Site, folder: Path, prepare: Callable[[Path], Path], told: str
) -> None:
    catalog = prepare(folder)
    done = site.execute([sys.executable, "-c", AS_NOBODY, str(catalog)])
    assert done.returncode == 2, done.stderr
    assert f"{catalog} {told}" in done.stderr
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    assert f"This process is user {user}: give that user write access" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_takes_no_more_is_told(site: Site, folder: Path) -> None:
    catalog = folder / "catalog.sqlite"
    done = site.execute([sys.executable, "-c", WITH_SMALL_FILES, str(catalog)])
    assert done.returncode == 2, done.stderr
    assert f"The catalog {catalog} can't be used now: " in done.stderr
    assert "Traceback" not in done.stderr
