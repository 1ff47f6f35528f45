"""Every kind of payload store keeps the same promises; folders some more."""

import os
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leveret_broker.errors import ContentChanged, ObjectMissing, StoreDenied, StoreError
from leveret_broker.objects import Bytes, Folder, Objects, folder_of, open_objects

NAME = "ab" * 32
OTHER = "cd" * 32
FAR_FUTURE = 1e12


@pytest.fixture(params=["folder", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return open_objects(tmp_path.as_uri())
    return open_objects(f"memory://{uuid.uuid4().hex}/payloads")


def content(objects: Objects, name: str = NAME) -> bytes:
    return b"".join(bytes(piece) for piece in objects.read(name))


def test_what_was_written_is_read(objects: Objects) -> None:
    objects.write(NAME, [b"one, ", memoryview(bytearray(b"two"))])

    assert content(objects) == b"one, two"
    found = objects.find(NAME)
    assert found is not None
    assert (found.name, found.size) == (NAME, 8)
    assert [each.name for each in objects.listed()] == [NAME]


def test_what_is_not_there_is_said_to_be_missing(objects: Objects) -> None:
    assert objects.find(NAME) is None
    assert not objects.remove(NAME, modified_before=FAR_FUTURE)
    assert list(objects.listed()) == []
    with pytest.raises(ObjectMissing):
        content(objects)


def test_an_object_whose_writing_failed_is_not_there(objects: Objects) -> None:
    def failing() -> Iterator[Bytes]:
        yield b"the beginning"
        raise ContentChanged("it was changed")

    with pytest.raises(ContentChanged):
        objects.write(NAME, failing())

    assert objects.find(NAME) is None
    assert list(objects.listed()) == []


def test_a_writing_that_failed_leaves_no_file(tmp_path: Path) -> None:
    def failing() -> Iterator[Bytes]:
        yield b"the beginning"
        raise ContentChanged("it was changed")

    with pytest.raises(ContentChanged):
        Folder(tmp_path).write(NAME, failing())

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_object_is_not_seen_before_it_is_whole(objects: Objects) -> None:
    seen: list[object] = []

    def watched() -> Iterator[Bytes]:
        yield b"half"
        seen.append(objects.find(NAME))
        yield b" and half"

    objects.write(NAME, watched())

    assert seen == [None]
    assert content(objects) == b"half and half"


def test_two_writers_at_once_make_one_object(objects: Objects) -> None:
    both = threading.Barrier(2)

    def write() -> None:
        def chunks() -> Iterator[Bytes]:
            yield b"half"
            both.wait()
            yield b" and half"

        objects.write(NAME, chunks())

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert content(objects) == b"half and half"
    assert [each.name for each in objects.listed()] == [NAME]


def test_only_what_is_old_is_removed(objects: Objects) -> None:
    objects.write(NAME, [b"one"])
    found = objects.find(NAME)
    assert found is not None

    assert not objects.remove(NAME, modified_before=found.modified_at)
    assert content(objects) == b"one"
    assert objects.remove(NAME, modified_before=found.modified_at + 1)
    assert objects.find(NAME) is None


def test_the_first_owner_stays_the_owner(objects: Objects) -> None:
    assert objects.owner("me") == "me"
    assert objects.owner("you") == "me"
    assert list(objects.listed()) == []


# -- folders --------------------------------------------------------------------------------------


def aged(folder: Path, name: str = NAME, *, mtime: float = 1000.0) -> Path:
    path = folder / name[:2] / name
    os.utime(path, (mtime, mtime))
    return path


def test_what_is_renewed_is_as_young_as_what_is_written(tmp_path: Path) -> None:
    objects = Folder(tmp_path)
    objects.write(NAME, [b"one"])
    aged(tmp_path)

    assert objects.renew(NAME)
    assert not objects.renew(OTHER)
    assert not objects.remove(NAME, modified_before=2000)


@pytest.mark.parametrize("moment", ["before it is set aside", "after"])
def test_what_is_stored_again_during_its_removal_stays(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, another = Folder(tmp_path), Folder(tmp_path)
    objects.write(NAME, [b"one"])
    aged(tmp_path)
    rename = Path.rename
    renewed: list[bool] = []

    def store_again() -> None:
        renewed.append(another.renew(NAME))
        if not renewed[-1]:
            another.write(NAME, [b"one"])

    def interrupted(path: Path, target: Any) -> Path:
        if moment == "before it is set aside":
            store_again()
            return rename(path, target)
        moved = rename(path, target)
        monkeypatch.undo()
        store_again()
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    objects.remove(NAME, modified_before=2000)
    monkeypatch.undo()

    assert content(objects) == b"one"
    assert renewed[0] == (moment == "before it is set aside")
    assert not another.remove(NAME, modified_before=2000)


def test_what_is_set_aside_for_a_moment_is_still_read(tmp_path: Path) -> None:
    objects = Folder(tmp_path)
    objects.write(NAME, [b"one"])
    path = tmp_path / NAME[:2] / NAME
    path.rename(path.with_name(f"{NAME}.removing"))

    assert content(objects) == b"one"


def test_a_sweep_mends_what_a_killed_process_left(tmp_path: Path) -> None:
    objects = Folder(tmp_path)
    objects.write(NAME, [b"one"])
    path = tmp_path / NAME[:2] / NAME
    path.rename(path.with_name(f"{NAME}.removing"))
    (path.parent / "half.partial").write_bytes(b"ha")
    os.utime(path.parent / "half.partial", (1000, 1000))
    (path.parent / "growing.partial").write_bytes(b"ha")

    objects.sweep(modified_before=2000)

    assert sorted(file.name for file in path.parent.iterdir()) == [NAME, "growing.partial"]


def test_files_of_other_people_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    objects = Folder(tmp_path)
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "notes.txt").write_text("mine")

    assert list(objects.listed()) == []


def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(StoreError, match=r"can't be used: Not a directory"):
        Folder(tmp_path / "file").write(NAME, [b"one"])


@pytest.mark.skipif(sys.platform != "linux", reason="a folder in which not even root may write")
def test_a_folder_without_permission_is_told_from_one_that_is_broken() -> None:
    with pytest.raises(StoreDenied, match="may not be used: Operation not permitted"):
        Folder(Path("/sys/leveret-payloads")).write(NAME, [b"one"])


# -- URLs -----------------------------------------------------------------------------------------


def test_a_plain_path_is_a_folder(tmp_path: Path) -> None:
    assert folder_of(str(tmp_path)) == tmp_path
    assert folder_of(tmp_path.as_uri()) == tmp_path
    assert folder_of("s3://bucket/payloads") is None


def test_a_url_that_nothing_can_open_is_refused_in_plain_words() -> None:
    with pytest.raises(StoreError, match="nfs://server/payloads is no payload store"):
        open_objects("nfs://server/payloads")
    with pytest.raises(StoreError, match="file:///folder"):
        open_objects("file://payloads/here")


def test_a_password_in_the_url_is_told_to_nobody() -> None:
    with pytest.raises(StoreError) as raised:
        open_objects("nosuch://me:secret@host/payloads")

    assert "secret" not in str(raised.value)
