"""Shipped code in a worker: fetched once, kept within bounds, executed as what it is only."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from leveret import PayloadError, bundles, pickles
from leveret.keys import Keyring
from leveret_worker import code
from leveret_worker.code import Loaded, SealedCode, Shelf
from leveret_worker.functions import module_at

KEYS = Keyring(keys=(bytes(range(32)),))


class Source:
    """Where code is fetched from."""

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.is_down = False

    async def fetch(self, digest: str) -> bytes:
        self.asked.append(digest)
        await self.may_answer.wait()
        if self.is_down:
            raise PayloadError("not there")
        return digest.encode() * self.size


async def test_code_is_fetched_once_for_all_who_need_it() -> None:
    source = Source(size=1)
    shelf = Shelf(source.fetch)
    assert await asyncio.gather(*[shelf.get("a") for _ in range(3)]) == [b"a"] * 3
    assert await shelf.get("a") == b"a"
    assert source.asked == ["a"]


async def test_who_is_cancelled_takes_nothing_from_the_others() -> None:
    source = Source(size=1)
    source.may_answer.clear()
    shelf = Shelf(source.fetch)
    first, second = (asyncio.create_task(shelf.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.may_answer.set()
    assert await second == b"a"
    assert source.asked == ["a"]


async def test_what_could_not_be_fetched_is_asked_for_again() -> None:
    source = Source(size=1)
    source.is_down = True
    shelf = Shelf(source.fetch)
    with pytest.raises(PayloadError):
        await shelf.get("a")
    source.is_down = False
    assert await shelf.get("a") == b"a"


async def test_what_was_not_used_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "MOST_FETCHED", 25)
    source = Source()
    shelf = Shelf(source.fetch)
    for digest in ("a", "b", "a", "c", "a", "b"):
        await shelf.get(digest)
    assert source.asked == ["a", "b", "c", "b"]


TASKS = """
from leveret import define
LOADS = []
@define.task
def one(): return 1
@define.workflow
async def both(): return [one]
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    file = tmp_path / "carried.py"
    file.write_text(TASKS)
    made = module_at("carried", str(file))
    pickles.ship(made)
    yield made
    sys.modules.pop("carried", None)


def sealed(
    module: ModuleType, index: int, kind: str, name: str, place: str = "process"
) -> SealedCode:
    packed = bundles.pack(module.both)
    body = bundles.seal(packed, keys=KEYS, project="p")
    return SealedCode(
        project="p", kind=kind, name=name, digest=packed.digest, index=index, place=place, body=body
    )


def test_a_code_is_loaded_once(module: ModuleType) -> None:
    loaded = Loaded()
    one = loaded.function(sealed(module, 1, "task", "one"), KEYS)
    assert one() == 1
    assert loaded.function(sealed(module, 1, "task", "one"), KEYS) is one


@pytest.mark.parametrize(
    ("index", "kind", "name", "place"),
    [
        (0, "task", "one", "process"),
        (1, "workflow", "one", "process"),
        (1, "task", "both", "process"),
        (1, "task", "one", "loop"),
        (2, "task", "one", "process"),
    ],
)
def test_code_of_another_definition_is_not_executed(
    module: ModuleType, index: int, kind: str, name: str, place: str
) -> None:
    with pytest.raises(PayloadError, match="is not that of a"):
        Loaded().function(sealed(module, index, kind, name, place), KEYS)


def test_a_process_keeps_so_many_codes(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "MOST_LOADED", 1)
    loaded = Loaded()
    first = loaded.function(sealed(module, 1, "task", "one"), KEYS)
    module.one.fn.__doc__ = "changed"
    loaded.function(sealed(module, 1, "task", "one"), KEYS)
    module.one.fn.__doc__ = None
    assert loaded.function(sealed(module, 1, "task", "one"), KEYS) is not first
