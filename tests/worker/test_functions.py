"""How a function is found again in another process."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from leveret.errors import PayloadError
from leveret_worker.functions import FunctionRef, find, module_at, refer
from tests.worker.apps import jobs


@pytest.fixture(autouse=True)
def _leave_no_modules(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(sys, "modules", sys.modules.copy())


def test_a_function_of_a_module_goes_by_name() -> None:
    ref = refer(jobs.add)
    assert ref == FunctionRef(
        module="tests.worker.apps.jobs", qualname="add", file=jobs.__file__, pickled=None
    )
    assert find(ref) is jobs.add


def test_the_function_under_a_definition_goes_by_the_definitions_name() -> None:
    ref = refer(jobs.decorated.fn)
    assert (ref.qualname, ref.pickled) == ("decorated", None)
    assert find(ref) is jobs.decorated.fn


def test_a_function_of_a_class_goes_by_name() -> None:
    assert refer(jobs.Point.origin).pickled is None
    assert find(refer(jobs.Point.origin)) is jobs.Point.origin


def test_a_function_of_the_standard_library_goes_by_name() -> None:
    assert find(refer(subprocess.list2cmdline)) is subprocess.list2cmdline


def test_local_functions_and_lambdas_go_by_value() -> None:
    base = 40

    def local(a: int) -> int:
        return a + base

    functions: list[Callable[[int], int]] = [local, lambda a: a + base]
    for function in functions:
        ref = refer(function)
        assert ref.pickled is not None
        assert find(ref)(2) == 42


def test_a_function_whose_name_means_another_by_now_goes_by_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replaced = jobs.nothing
    assert refer(replaced).pickled is None
    monkeypatch.setattr(jobs, "nothing", jobs.add)
    assert refer(replaced).pickled is not None


def test_by_value_a_function_brings_its_helpers_as_they_are_now() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def helper(): return 1\ndef task(): return helper()", namespace)
    before = refer(namespace["task"])
    assert before == refer(namespace["task"])
    exec("def helper(): return 2", namespace)
    assert find(refer(namespace["task"]))() == 2
    assert find(before)() == 1


def test_what_can_not_be_pickled_is_an_error_that_says_what_to_do() -> None:
    generator = (number for number in range(3))

    def local() -> int:
        return next(generator)

    with pytest.raises(PayloadError, match=r"local can't be handed .* inside the function"):
        refer(local)


def test_a_module_of_the_same_name_but_another_file_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for folder in (right, wrong):
        folder.mkdir()
        (folder / "namesake.py").write_text(f"def f(): return {folder.name!r}")
    (wrong / "namesake.py").write_text("raise AssertionError('the wrong one was run')")
    monkeypatch.setattr(sys, "path", [str(wrong), *sys.path])
    ref = _ref("namesake", right / "namesake.py")
    assert find(ref)() == "right"
    assert find(ref) is sys.modules["namesake"].f


def test_a_module_that_no_import_finds_is_loaded_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "package_like.name.py"
    file.write_text("def f(): return __name__")
    assert find(_ref("no_such_package.name", file))() == "no_such_package.name"


def test_a_module_that_is_found_in_its_file_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "a_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "words.py").write_text("WORD = 'relative'")
    (package / "app.py").write_text("from .words import WORD\ndef f(): return WORD")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert find(_ref("a_package.app", package / "app.py"))() == "relative"


def test_a_function_that_was_removed_meanwhile_is_an_error_that_says_so(tmp_path: Path) -> None:
    file = tmp_path / "changed.py"
    file.write_text("def g(): ...")
    with pytest.raises(ImportError, match="has no function 'f' any more"):
        find(_ref("changed", file))


def test_a_file_that_fails_leaves_no_half_module(tmp_path: Path) -> None:
    file = tmp_path / "half.py"
    file.write_text("a = 1\nraise ValueError")
    with pytest.raises(ValueError):  # noqa: PT011
        module_at("half", str(file))
    assert "half" not in sys.modules


def test_a_function_by_value_does_without_its_module() -> None:
    def local() -> str:
        return Path("a").name

    pickled = refer(local).pickled
    assert pickled is not None
    found: Callable[[], Any] = cloudpickle.loads(pickled)
    assert found() == "a"


def _ref(module: str, file: Path) -> FunctionRef:
    return FunctionRef(module=module, qualname="f", file=str(file), pickled=None)
