"""The payload store as callers and workers use it: written once, verified, mapped, cached."""

import mmap
import multiprocessing
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leveret import buffers
from leveret.cache import Cache
from leveret.errors import PayloadError
from leveret.sealing import RENEW_AFTER
from leveret.sizes import shown
from leveret.store import PayloadStore
from leveret_broker import objects, references
from leveret_broker.references import Reference
from tests.worker.clocks import HandClock

CONTENT = b"a model, " * 1000

Damage = Callable[[Path], object]


def store(url: str | Path, tmp_path: Path, **options: Any) -> PayloadStore:
    cache = Cache(tmp_path / "cache", bound=options.pop("bound", 1 << 30))
    return PayloadStore(str(url), cache=cache, **options)


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return (tmp_path / "store").as_uri()
    return f"memory://{uuid.uuid4().hex}/payloads"


def stored(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and len(path.name) == 64]


# -- storing --------------------------------------------------------------------------------------


def test_what_was_stored_is_fetched(url: str, tmp_path: Path) -> None:
    payloads = store(url, tmp_path)

    reference = payloads.put([CONTENT[:10], memoryview(CONTENT)[10:]])

    assert reference.size == len(CONTENT)
    assert bytes(payloads.fetch(reference)) == CONTENT


def test_the_same_content_is_written_once(tmp_path: Path) -> None:
    payloads = store(tmp_path / "store", tmp_path)

    one = payloads.put([CONTENT])
    (path,) = stored(tmp_path / "store")
    first = path.stat().st_ino
    two = store(tmp_path / "store", tmp_path).put([CONTENT[:7], CONTENT[7:]])

    assert one == two
    assert path.stat().st_ino == first


def test_an_object_that_is_not_whole_is_written_again(tmp_path: Path) -> None:
    payloads = store(tmp_path / "store", tmp_path)
    reference = payloads.put([CONTENT])
    (path,) = stored(tmp_path / "store")
    path.write_bytes(CONTENT[:10])

    payloads.put([CONTENT])

    assert bytes(payloads.fetch(reference)) == CONTENT


def test_an_old_object_is_made_young_when_it_is_stored_again(url: str, tmp_path: Path) -> None:
    opened = objects.open_objects(url)
    payloads = store(url, tmp_path)
    reference = payloads.put([CONTENT])
    before = opened.find(reference.name)
    assert before is not None

    clock = HandClock()
    clock.jump(before.modified_at + RENEW_AFTER + 1 - clock.now())
    store(url, tmp_path, clock=clock).put([CONTENT])

    after = opened.find(reference.name)
    assert after is not None
    assert after.modified_at > before.modified_at


def test_what_changes_while_it_is_stored_is_not_stored(tmp_path: Path) -> None:
    array = bytearray(CONTENT)
    payloads = store(tmp_path / "store", tmp_path)

    digest = buffers.digest(memoryview(array))
    array[0] += 1

    with pytest.raises(PayloadError, match="the program changed it"):
        payloads.put([memoryview(array)], digest=digest)

    assert stored(tmp_path / "store") == []


# -- fetching -------------------------------------------------------------------------------------


def test_what_is_fetched_can_be_written_and_changes_nothing(url: str, tmp_path: Path) -> None:
    payloads = store(url, tmp_path)
    reference = payloads.put([np.arange(1000.0).data])

    array = np.frombuffer(payloads.fetch(reference))
    array[0] = 7

    assert np.frombuffer(payloads.fetch(reference))[0] == 0


def test_what_is_fetched_is_mapped_from_the_file_of_a_folder(tmp_path: Path) -> None:
    payloads = store(tmp_path / "store", tmp_path)

    view = payloads.fetch(payloads.put([CONTENT]))

    assert isinstance(view.obj, mmap.mmap)
    assert not (tmp_path / "cache").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    path.write_bytes(bytes(reversed(path.read_bytes())))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, swap, empty])
@pytest.mark.parametrize("was_read", [False, True])
def test_a_damaged_object_of_a_folder_is_not_used(
    damage: Damage, was_read: bool, tmp_path: Path
) -> None:
    payloads = store(tmp_path / "store", tmp_path)
    reference = payloads.put([CONTENT])
    if was_read:
        payloads.fetch(reference)
    (path,) = stored(tmp_path / "store")

    damage(path)

    with pytest.raises(PayloadError, match="is damaged, and not used"):
        payloads.fetch(reference)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[::-1], CONTENT * 2, b""])
def test_a_damaged_object_elsewhere_is_not_used_and_not_kept(
    content: bytes, tmp_path: Path
) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    payloads = store(url, tmp_path)
    reference = payloads.put([CONTENT])
    objects.open_objects(url).write(reference.name, [content])

    with pytest.raises(PayloadError, match="is damaged, and not used"):
        payloads.fetch(reference)

    assert stored(tmp_path / "cache") == []


def test_a_missing_object_is_an_error_that_says_where(url: str, tmp_path: Path) -> None:
    payloads = store(url, tmp_path)
    reference = payloads.put([CONTENT])
    objects.open_objects(url).remove(reference.name, modified_before=1e12)

    with pytest.raises(PayloadError, match=r"8.8 KiB\) is missing from .*: it was removed there"):
        payloads.fetch(reference)


def test_an_object_of_another_store_is_an_error_that_names_both(tmp_path: Path) -> None:
    reference = store(tmp_path / "theirs", tmp_path).put([CONTENT])

    with pytest.raises(PayloadError, match=r"ours: it was put into .*theirs.*same payload store"):
        store(tmp_path / "ours", tmp_path).fetch(reference)


def test_a_store_that_can_not_be_used_is_an_error_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(PayloadError, match=r"a payload of 8.8 KiB can't be stored: .*Not a dir"):
        store(tmp_path / "file", tmp_path).put([CONTENT])
    with pytest.raises(PayloadError, match="nosuch://host is no payload store"):
        store("nosuch://host", tmp_path).put([CONTENT])


# -- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def far(tmp_path: Path) -> tuple[str, PayloadStore]:
    url = f"memory://{uuid.uuid4().hex}"
    return url, store(url, tmp_path)


def remove(url: str, reference: Reference) -> None:
    """Only a copy can be read from now on."""
    assert objects.open_objects(url).remove(reference.name, modified_before=1e12)


def test_what_this_host_has_fetched_is_not_fetched_again(
    far: tuple[str, PayloadStore], tmp_path: Path
) -> None:
    url, payloads = far
    reference = payloads.put([CONTENT])
    payloads.fetch(reference)

    remove(url, reference)

    assert bytes(store(url, tmp_path).fetch(reference)) == CONTENT


@pytest.mark.parametrize("damage", [truncate, flip, swap, empty])
def test_a_damaged_copy_is_fetched_again(
    damage: Damage, far: tuple[str, PayloadStore], tmp_path: Path
) -> None:
    url, payloads = far
    reference = payloads.put([CONTENT])
    payloads.fetch(reference)
    (copy,) = stored(tmp_path / "cache")

    damage(copy)

    assert bytes(store(url, tmp_path).fetch(reference)) == CONTENT


def test_several_threads_fetch_an_object_once(tmp_path: Path) -> None:
    content = CONTENT * 1000
    digest = PayloadStore(str(tmp_path / "any"), cache=Cache(tmp_path, bound=0)).put([content])
    cache, fetched = tmp_path / "cache", list[int]()

    def pieces() -> Any:
        fetched.append(1)
        yield content

    threads = [
        threading.Thread(target=lambda: Cache(cache, bound=1 << 30).get(digest, pieces))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert fetched == [1]


def _fetch(folder: Path, log: Path, reference: Reference) -> None:
    def pieces() -> Any:
        with log.open("a") as file:
            file.write("fetched\n")
        yield CONTENT

    Cache(folder, bound=1 << 30).get(reference, pieces)


def test_several_processes_fetch_an_object_once(tmp_path: Path) -> None:
    reference = store(tmp_path / "store", tmp_path).put([CONTENT])
    context = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "cache", tmp_path / "log", reference)

    processes = [context.Process(target=_fetch, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"


def test_what_was_used_longest_ago_goes_when_room_is_needed(tmp_path: Path) -> None:
    payloads = store(f"memory://{uuid.uuid4().hex}", tmp_path, bound=2500)
    contents = [bytes([number]) * 1000 for number in range(3)]
    one, two, three = (payloads.put([content]) for content in contents)
    for age, reference in enumerate((one, two)):
        payloads.fetch(reference)
        os.utime(tmp_path / "cache" / objects.path_of(reference.name), (age, age))
    payloads.fetch(one)

    kept = payloads.fetch(two)
    payloads.fetch(one)
    os.utime(tmp_path / "cache" / objects.path_of(two.name), (0, 0))
    payloads.fetch(three)

    assert {path.name for path in stored(tmp_path / "cache")} == {one.name, three.name}
    assert bytes(kept) == contents[1]


def test_a_reference_that_lies_about_its_size_empties_no_cache(
    far: tuple[str, PayloadStore], tmp_path: Path
) -> None:
    _, payloads = far
    reference = payloads.put([CONTENT])
    payloads.fetch(reference)
    other = payloads.put([CONTENT * 2])

    with pytest.raises(PayloadError, match=f"{len(CONTENT) * 2} bytes instead of"):
        payloads.fetch(Reference(digest=other.digest, size=1 << 60))

    assert [path.name for path in stored(tmp_path / "cache")] == [reference.name]


def test_a_cache_that_can_not_be_used_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    payloads = store(f"memory://{uuid.uuid4().hex}", tmp_path)
    reference = payloads.put([CONTENT])

    with pytest.raises(PayloadError, match="LEVERET_PAYLOAD_CACHE"):
        payloads.fetch(reference)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (256 * 1024, "256 KiB"),
        (800_000_000, "762.9 MiB"),
        (4 << 30, "4 GiB"),
        (1 << 60, "1048576 TiB"),
    ],
)
def test_sizes_are_shown_as_people_read_them(size: int, text: str) -> None:
    assert shown(size) == text


def test_a_digest_names_an_object() -> None:
    reference = Reference(digest=bytes(references.DIGEST), size=1)

    assert objects.is_name(reference.name)
