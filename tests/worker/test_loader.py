"""Finding definitions in modules and files, and saying what is wrong with them."""

import re
import sys
from pathlib import Path

import pytest

from leveret.errors import AppError
from leveret_worker.loader import load_app, load_apps

APPS = Path(__file__).parent / "apps"
TASK = "from leveret import define\n@define.task{options}\ndef {name}():\n    return {result}\n"


@pytest.fixture(autouse=True)
def _leave_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.chdir(tmp_path)


def write(file: str, text: str) -> str:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def a_task(name: str, *, options: str = "", result: object = 1) -> str:
    return TASK.format(name=name, options=options, result=result)


# -- found ----------------------------------------------------------------------------------------


def test_a_module_gives_all_it_holds_imported_ones_too_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(APPS)
    found = load_app("shop.orders")
    assert [(each.kind, each.name, each.version) for each in found] == [
        ("task", "count", "0"),
        ("task", "price", "1.2"),
        ("workflow", "order", None),
    ]


def test_a_file_finds_the_modules_beside_it() -> None:
    write("folder/neighbour.py", "SECRET = 'mellon'")
    write("folder/app.py", "from neighbour import SECRET\n" + a_task("reveal", result="SECRET"))
    (reveal,) = load_app("folder/app.py")
    assert reveal.fn() == "mellon"
    assert reveal.fn.__module__ == "app"
    assert sys.path[0] == str(Path("folder").absolute())


def test_a_file_that_is_named_twice_is_loaded_once() -> None:
    write("folder/app.py", a_task("fetch"))
    (first,) = load_app("folder/app.py")
    (second,) = load_app("./folder/../folder/app.py")
    assert first is second
    assert load_app("app") == (first,)


def test_several_apps_that_share_a_definition_give_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(APPS)
    found = load_apps(["shop.orders", "shop.stock", "shop/stock.py"])
    assert [each.name for each in found] == ["count", "price", "order"]


def test_the_same_code_in_two_places_is_one_definition() -> None:
    write("one.py", a_task("fetch"))
    write("two.py", "# with a comment\n" + a_task("fetch"))
    assert [each.where for each in load_apps(["one.py", "two.py"])] == ["one.fetch"]


def test_other_versions_are_other_definitions() -> None:
    write("one.py", a_task("fetch"))
    write("two.py", a_task("fetch", options='(version="2")', result=2))
    assert [each.version for each in load_apps(["one.py", "two.py"])] == ["0", "2"]


# -- contradictions -------------------------------------------------------------------------------


def test_one_version_with_two_codes_is_refused_with_both_places() -> None:
    write("one.py", a_task("fetch"))
    write("two.py", a_task("fetch", result=2))
    with pytest.raises(AppError) as refused:
        load_apps(["one.py", "two.py"])
    assert str(refused.value) == (
        "task 'fetch' version 0 is defined twice, with different code: "
        f"at one.fetch, line 2 of {Path('one.py').absolute()} and "
        f"at two.fetch, line 2 of {Path('two.py').absolute()}. "
        "Rename one, or give it another version"
    )


def test_a_name_that_is_a_task_and_a_workflow_is_refused_with_both_places() -> None:
    write("one.py", a_task("fetch"))
    write("two.py", "from leveret import define\n@define.workflow\nasync def fetch(): ...\n")
    with pytest.raises(AppError, match=r"is a task at one\.fetch.* and a workflow at two\.fetch"):
        load_apps(["one.py", "two.py"])


# -- not found ------------------------------------------------------------------------------------


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(AppError, match=r"no module named 'shop\.nothing'"):
        load_app("shop.nothing")


def test_what_is_no_modules_name_gets_the_forms_and_a_hint() -> None:
    write("my-app.py", a_task("fetch"))
    with pytest.raises(AppError, match=r"write a module's name.*Did you mean the file my-app\.py"):
        load_app("my-app")
    assert [each.name for each in load_app("my-app.py")] == ["fetch"]


@pytest.mark.parametrize("spec", ["nothing.py", "folder/nothing", "."])
def test_a_file_that_is_not_there(spec: str) -> None:
    with pytest.raises(AppError, match=r"there is no file|is no app"):
        load_app(spec)


def test_a_file_that_is_no_python() -> None:
    with pytest.raises(AppError, match="is no Python file"):
        load_app(write("folder/app.txt", ""))


def test_a_module_without_definitions() -> None:
    write("empty.py", "a = 1")
    with pytest.raises(AppError, match=r"no task or workflow in empty \(.*empty\.py\)"):
        load_app("empty")


# -- names that are taken -------------------------------------------------------------------------


def test_a_file_with_the_name_of_a_standard_module_is_refused() -> None:
    with pytest.raises(AppError, match="standard library"):
        load_app(write("turtle.py", a_task("fetch")))
    assert "turtle" not in sys.modules


def test_a_file_with_the_name_of_an_imported_module_is_refused() -> None:
    with pytest.raises(AppError, match=r"already imported, 'pytest' \(.*pytest"):
        load_app(write("pytest.py", a_task("fetch")))


def test_the_file_of_a_package_is_refused_with_its_name() -> None:
    with pytest.raises(AppError, match="makes the package 'mine'"):
        load_app(write("mine/__init__.py", a_task("fetch")))


# -- apps that fail -------------------------------------------------------------------------------


def without_marks(text: str) -> str:
    """A traceback without the lines that point at a place in the line above: versions differ."""
    return "\n".join(line for line in text.split("\n") if not re.fullmatch(r" *[~^]+", line))


@pytest.mark.parametrize("spec", ["failing", "failing.py"])
def test_an_app_that_fails_shows_its_own_traceback_only(spec: str) -> None:
    write("failing.py", "def prepare():\n    return 1 / 0\n\nprepare()\n")
    before = list(sys.path)
    with pytest.raises(AppError) as failed:
        load_app(spec)
    assert without_marks(str(failed.value)) == (
        f"{spec} can't be imported:\n"
        "Traceback (most recent call last):\n"
        f'  File "{Path("failing.py").absolute()}", line 4, in <module>\n'
        "    prepare()\n"
        f'  File "{Path("failing.py").absolute()}", line 2, in prepare\n'
        "    return 1 / 0\n"
        "ZeroDivisionError: division by zero"
    )
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    assert "failing" not in sys.modules
    assert sys.path == before


def test_a_module_that_the_app_misses_is_the_apps_own_error() -> None:
    write("needy.py", "import a_package_that_nobody_has")
    with pytest.raises(AppError, match=r"needy can't be imported:[\s\S]*needy\.py\", line 1"):
        load_app("needy")


def test_an_app_with_broken_syntax_shows_the_line() -> None:
    with pytest.raises(AppError, match=r"broken\.py\", line 1[\s\S]*SyntaxError"):
        load_app(write("broken.py", "def (:"))


def test_an_app_that_exits_is_an_error() -> None:
    with pytest.raises(AppError, match="SystemExit: 2"):
        load_app(write("script.py", "raise SystemExit(2)"))


def test_a_wrong_definition_shows_the_line_of_its_decorator() -> None:
    write("wrong.py", "from leveret import define\n\n@define.workflow\ndef f(): ...\n")
    with pytest.raises(AppError) as failed:
        load_app("wrong.py")
    text = str(failed.value)
    assert "line 3, in <module>" in text
    assert "definitions.py" not in text
    assert "DefinitionError: workflow 'f' is not async" in text


def test_a_file_that_is_no_python_file_is_told_apart_from_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.md").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AppError, match="no Python file"):
        load_app("notes.md")
