"""Code in a signed payload: what comes along, and what is never loaded."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from leveret import MissingModuleError, PayloadError, bundles, payload, pickles
from leveret.bundles import AnyDefinition
from leveret.keys import Keyring
from leveret.origin import PYTHON, Origin
from leveret_worker.functions import module_at
from tests.sdk import library

KEYS = Keyring(keys=(bytes(range(32)),))
PROJECT = "p"
_names = count()

Load = Callable[[str], ModuleType]


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[Load]:
    """Makes modules whose code is shipped, and takes them away again."""
    made: list[str] = []

    def load(text: str) -> ModuleType:
        name = f"shipped_{next(_names)}"
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        module = module_at(name, str(file))
        made.append(name)
        pickles.ship(module)
        return module

    yield load
    for name in made:
        sys.modules.pop(name, None)


def travel(definition: AnyDefinition, *, without: ModuleType | None = None) -> list[AnyDefinition]:
    """Pack it, and load it as a process does that hasn't got the module."""
    packed = bundles.pack(definition)
    sealed = bundles.seal(packed, keys=KEYS, project=PROJECT)
    if without is not None:
        del sys.modules[without.__name__]
    return list(bundles.unpack(sealed, keys=KEYS, project=PROJECT, digest=packed.digest))


# -- what comes along -----------------------------------------------------------------------------

TASK = """
from leveret import define
FACTOR = 3
def helper(value): return FACTOR * value
@define.task(version="7", runs_in="thread", retries=2)
def triple(value: int) -> int:
    "Three times as much."
    return helper(value)
"""


def test_a_function_brings_its_helpers_and_stays_the_definition_it_is(shipped: Load) -> None:
    module = shipped(TASK)
    (arrived,) = travel(module.triple, without=module)
    assert arrived.fn(2) == 6
    before: Any = module.triple
    assert (arrived.kind, arrived.name, arrived.version) == ("task", "triple", "7")
    assert arrived.fingerprint == before.fingerprint
    assert arrived.description == "Three times as much."
    assert arrived.run_options == before.run_options
    assert arrived.place == "thread"
    assert arrived.code is not None
    assert (arrived.code.index, arrived.code.place) == (0, "thread")


FLOWS = """
from leveret import define
from tests.sdk import library

@define.task
def leaf(): return "leaf"

@define.task
def unused(): return "unused"

@define.workflow
async def ping(n): return await pong.options(timeout=5)(n) if n else [leaf, library.stays, varied]

@define.workflow
async def pong(n): return await ping(n - 1)

varied = library.stays.options(timeout=7)
"""


def test_a_workflow_brings_what_it_refers_to_in_circles_too(shipped: Load) -> None:
    module = shipped(FLOWS)
    arrived = travel(module.ping, without=module)
    assert [each.name for each in arrived] == ["ping", "pong", "leaf"]
    assert [each.code.index for each in arrived if each.code] == [0, 1, 2]
    ping, pong, leaf = arrived
    assert ping.fn.__globals__["pong"] is pong
    assert pong.fn.__globals__["ping"] is ping
    assert leaf.fn() == "leaf"


def test_a_definition_of_another_module_goes_by_name(shipped: Load) -> None:
    module = shipped(FLOWS)
    (ping, *_) = travel(module.ping, without=module)
    assert ping.fn.__globals__["library"] is library
    assert ping.fn.__globals__["varied"].base is library.stays
    assert ping.fn.__globals__["varied"].run_options.timeout == 7


def test_the_same_code_has_the_same_digest_and_other_globals_another(shipped: Load) -> None:
    module = shipped(TASK)
    first = bundles.pack(module.triple).digest
    assert bundles.pack(module.triple).digest == first
    module.FACTOR = 4  # type: ignore[attr-defined]
    assert bundles.pack(module.triple).digest != first


CLASSES = """
from dataclasses import dataclass
from leveret import define

@dataclass
class Point:
    x: int

class Odd(ValueError): pass

@define.task
def move(point: Point) -> Point:
    assert isinstance(point, Point)
    return Point(point.x + 1)
"""


def test_classes_go_with_the_code_and_with_values_and_come_back_as_ones_own(shipped: Load) -> None:
    module = shipped(CLASSES)
    context = payload.Context(project=PROJECT, run="r", definition="f", direction="arguments")

    def carried(value: object) -> bytes:
        return payload.seal(payload.encode(value), keys=KEYS, context=context)

    sent = carried(module.Point(1))
    (move,) = travel(module.move, without=module)
    point: Any = payload.unseal(sent, keys=KEYS, context=context)
    result = carried(move.fn(point))
    sys.modules[module.__name__] = module
    found: Any = payload.unseal(result, keys=KEYS, context=context)
    assert type(found) is module.Point
    assert found == module.Point(2)


# -- what can't travel ----------------------------------------------------------------------------


def test_what_can_not_be_pickled_is_told_with_the_definition(shipped: Load) -> None:
    module = shipped(
        "from leveret import define\nimport threading\nLOCK = threading.Lock()\n"
        "@define.task\ndef locked():\n    with LOCK: pass\n"
    )
    with pytest.raises(PayloadError, match=r"the code of <task locked:0> \(shipped_.*lock"):
        bundles.pack(module.locked)


def test_data_that_a_function_refers_to_is_no_code(shipped: Load) -> None:
    module = shipped(
        f"from leveret import define\nDATA = bytes({bundles.MOST_CODE})\n"
        "@define.task\ndef sized():\n    return len(DATA)\n"
    )
    with pytest.raises(PayloadError, match="pass data as arguments"):
        bundles.pack(module.sized)


# -- what is not loaded ---------------------------------------------------------------------------

MARKED = """
from leveret import define
class Marking:
    def __reduce__(self): return exec, ("import pathlib; pathlib.Path({marker!r}).touch()",)
MARK = Marking()
@define.task
def marked(): return MARK
"""


@pytest.fixture
def sealed(shipped: Load, tmp_path: Path) -> tuple[bytes, str, Path]:
    """Code that leaves a mark when it is loaded; its digest, and the mark."""
    marker = tmp_path / "marker"
    packed = bundles.pack(shipped(MARKED.format(marker=str(marker))).marked)
    return bundles.seal(packed, keys=KEYS, project=PROJECT), packed.digest, marker


def test_what_is_signed_for_it_is_loaded(sealed: tuple[bytes, str, Path]) -> None:
    body, digest, marker = sealed
    bundles.unpack(body, keys=KEYS, project=PROJECT, digest=digest)
    assert marker.exists()


@pytest.mark.parametrize(
    ("project", "digest", "keys"),
    [
        ("other", None, KEYS),
        (PROJECT, "other", KEYS),
        (PROJECT, None, Keyring(keys=(bytes(32),))),
        (PROJECT, None, None),
    ],
)
def test_code_for_another_project_or_digest_or_of_another_key_is_not_loaded(
    sealed: tuple[bytes, str, Path], project: str, digest: str | None, keys: Keyring | None
) -> None:
    body, own, marker = sealed
    with pytest.raises(PayloadError):
        bundles.unpack(body, keys=keys, project=project, digest=digest or own)
    assert not marker.exists()


def test_damaged_code_is_not_loaded(sealed: tuple[bytes, str, Path]) -> None:
    body, digest, marker = sealed
    for position in range(0, len(body), 7):
        damaged = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
        with pytest.raises(PayloadError):
            bundles.unpack(damaged, keys=KEYS, project=PROJECT, digest=digest)
    assert not marker.exists()


def test_arguments_can_not_pass_for_code(shipped: Load, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    packed = bundles.pack(shipped(MARKED.format(marker=str(marker))).marked)
    context = payload.Context(
        project=PROJECT, run=packed.digest, definition="", direction="arguments"
    )
    body = payload.seal(packed.encoded, keys=KEYS, context=context)
    with pytest.raises(PayloadError):
        bundles.unpack(body, keys=KEYS, project=PROJECT, digest=packed.digest)
    assert not marker.exists()


def test_another_python_is_told_with_both_versions(
    shipped: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = bundles.pack(shipped(TASK).triple)
    elsewhere = replace(Origin.here(pickles=True), python="3.99")

    def here(*, pickles: bool) -> Origin:
        return elsewhere

    with monkeypatch.context() as patched:
        patched.setattr(Origin, "here", here)
        sealed = bundles.seal(packed, keys=KEYS, project=PROJECT)
    with pytest.raises(PayloadError, match=rf"Python 3\.99.*Python {PYTHON}"):
        bundles.unpack(sealed, keys=KEYS, project=PROJECT, digest=packed.digest)


def test_a_module_that_is_missing_is_named_with_the_host(shipped: Load, tmp_path: Path) -> None:
    (tmp_path / "left_behind.py").write_text("NUMBER = 1")
    module_at("left_behind", str(tmp_path / "left_behind.py"))
    module = shipped(
        "from leveret import define\nimport left_behind\n"
        "@define.task\ndef number(): return left_behind.NUMBER\n"
    )
    packed = bundles.pack(module.number)
    sealed = bundles.seal(packed, keys=KEYS, project=PROJECT)
    del sys.modules["left_behind"]
    with pytest.raises(MissingModuleError, match=r"'left_behind', which the worker on \S+ does"):
        bundles.unpack(sealed, keys=KEYS, project=PROJECT, digest=packed.digest)
