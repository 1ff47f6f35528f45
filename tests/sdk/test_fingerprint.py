"""A fingerprint follows what a function does, and nothing else."""

import functools
import importlib.util
import linecache
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret.fingerprint import fingerprint

count = iter(range(10_000))


def loaded(source: str, folder: Path) -> Any:
    """The module that this source is, from a file of its own."""
    path = folder / f"source_{next(count)}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of(source: str, folder: Path) -> str:
    return fingerprint(loaded(source, folder).f)


BASE = "def f(a, b=1):\n    c = a + b\n    return [c, 'text']\n"


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\n\n\ndef f(a, b=1):  # another\n\n    c = a + b\n    return [c, 'text']\n",
        'def f(a, b=1):\n    """A docstring."""\n    c = a + b\n    return [c, "text"]\n',
        "def f(\n    a,\n    b=0x1,\n):\n    c = (a + b)\n    return [\n    c, 'te' 'xt',\n    ]\n",
        "import functools\n@functools.lru_cache\n@functools.cache\n" + BASE,
        "if True:\n   def f(a, b=1):\n        c = a + b\n        return [c, u'text']\n",
        "def other(): pass\n" + BASE,
    ],
    ids=["comments", "docstring", "layout", "decorators", "indentation", "place"],
)
def test_writing_it_differently_changes_nothing(same: str, tmp_path: Path) -> None:
    assert of(same, tmp_path) == of(BASE, tmp_path)


@pytest.mark.parametrize(
    "different",
    [
        BASE.replace("b=1", "b=2"),
        BASE.replace("b=1", "b=1.0"),
        BASE.replace("b=1", "b=True"),
        BASE.replace("b=1", "b='1'"),
        BASE.replace("b=1", "b=b'1'"),
        BASE.replace("b=1", "b=None"),
        BASE.replace("b=1", "b=..."),
        BASE.replace("a + b", "b + a"),
        BASE.replace("a + b", "a - b"),
        BASE.replace("c", "d"),
        BASE.replace("[c, 'text']", "(c, 'text')"),
        BASE.replace("'text'", "'text '"),
        BASE.replace("def", "async def"),
        BASE.replace("a, b", "a, /, b"),
        BASE.replace("a, b", "a, *, b"),
        BASE.replace("a, b", "a: int, b"),
        BASE.replace("return", "yield"),
        BASE.replace("def f", "def g") + "f = g\n",
    ],
)
def test_a_change_of_what_it_does_or_is_called_shows(different: str, tmp_path: Path) -> None:
    assert of(different, tmp_path) != of(BASE, tmp_path)


def test_decorators_of_functions_inside_count_and_their_docstrings_do_not(tmp_path: Path) -> None:
    inner = "def f(d):\n    {}\n    def g():\n        {}\n        return 1\n    return g\n"
    one = of(inner.format("pass", "pass"), tmp_path)
    assert of(inner.format("pass", "'doc'; pass"), tmp_path) == one
    assert of(inner.format("@d", "pass"), tmp_path) != one


def test_the_fingerprint_is_the_same_in_every_process_and_version(tmp_path: Path) -> None:
    source = (
        "def f(a, *b, c=1.5, **d):\n"
        "    x = {1: 'ä', **d}\n"
        "    return f'{a!r:>{c}} text {x}' f'more', -1j, b'\\x00', lambda y: [*b, y], a[1:2, ...]\n"
    )
    assert of(source, tmp_path) == "7a609efba1d88589a113d7e1b158bb50"


def test_methods_and_nested_functions_have_one(tmp_path: Path) -> None:
    source = (
        "class C:\n"
        "    def method(self):\n"
        "        '''Text\nthat begins at the margin.'''\n"
        "        return 1\n"
        "    @staticmethod\n"
        "    def static(self): return 1\n"
        "def outer():\n"
        "    def inner(): return 2\n"
        "    return inner\n"
    )
    module = loaded(source, tmp_path)
    assert fingerprint(module.C.method) == fingerprint(module.C().method)
    alone = "def method(self):\n    return 1\nf = method\n"
    assert fingerprint(module.C.method) == of(alone, tmp_path)
    assert fingerprint(module.outer()) == of("def inner(): return 2\nf = inner\n", tmp_path)
    assert fingerprint(module.C.static) != fingerprint(module.C.method)


def test_what_wraps_a_function_does_not_count(tmp_path: Path) -> None:
    f = loaded(BASE, tmp_path).f

    @functools.wraps(f)
    def wrapper(*args: Any) -> Any:
        return f(*args)

    assert fingerprint(wrapper) == fingerprint(f)
    assert fingerprint(functools.partial(wrapper, 1)) == fingerprint(f)


def test_an_object_that_can_be_called_is_known_by_its_call(tmp_path: Path) -> None:
    source = "class C:\n    def __call__(self): return {}\nf = C()\n"
    assert of(source.format(1), tmp_path) == of(source.format(1), tmp_path)
    assert of(source.format(1), tmp_path) != of(source.format(2), tmp_path)


def test_builtin_functions_are_known_by_name() -> None:
    assert fingerprint(len) == fingerprint(len) != fingerprint(print)


# -- without a source of its own ------------------------------------------------------------------


def test_lambdas_that_share_a_line_are_told_apart(tmp_path: Path) -> None:
    module = loaded("f, g, h = (lambda x: x + 1), (lambda x: x + 2), (lambda x: x + 1)\n", tmp_path)
    assert fingerprint(module.f) == fingerprint(module.h)
    assert fingerprint(module.f) != fingerprint(module.g)


def test_a_lambda_alone_on_its_lines_is_known_by_its_source(tmp_path: Path) -> None:
    one = of("f = [\n    lambda x: (\n        x + 1\n    )\n][0]\n", tmp_path)
    assert one == of("f = lambda x: x + 1  # same\n", tmp_path)


def executed(source: str) -> Callable[..., object]:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return namespace["f"]  # type: ignore[no-any-return]


def test_functions_without_source_are_known_by_their_code() -> None:
    assert fingerprint(executed(BASE)) == fingerprint(executed("\n\n" + BASE))
    for different in ("b=2", "b=1.0", "b='1'"):
        assert fingerprint(executed(BASE)) != fingerprint(executed(BASE.replace("b=1", different)))
    assert fingerprint(executed(BASE)) != fingerprint(executed(BASE.replace("a + b", "a - b")))
    nested = "def f():\n    return lambda: {}\n"
    assert fingerprint(executed(nested.format(1))) != fingerprint(executed(nested.format(2)))


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="constants are numbered behind a docstring")
def test_a_docstring_does_not_count_without_source_either() -> None:
    documented = executed("def f():\n    'words'\n    return 1\n")
    assert fingerprint(documented) == fingerprint(executed("def f():\n    return 1\n"))


IN_SETS = "def f(x):\n    return x in {'a', 'b', 'c', ('d', 1), b'e', 2.5}\n"


def test_sets_in_code_have_one_order_in_every_process() -> None:
    code = f"from leveret.fingerprint import fingerprint\nexec({IN_SETS!r})\nprint(fingerprint(f))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert printed == {fingerprint(executed(IN_SETS))}


def test_a_notebooks_cell_has_a_source(tmp_path: Path) -> None:
    def cell(source: str, name: str) -> Callable[..., object]:
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(source, name, "exec"), namespace)
        return namespace["f"]  # type: ignore[no-any-return]

    one = cell(BASE, "<ipython-input-1-abc>")
    two = cell("# changed\n" + BASE, "<ipython-input-2-def>")
    assert fingerprint(one) == fingerprint(two) == of(BASE, tmp_path)


def test_a_source_that_no_longer_fits_its_code_is_not_believed(tmp_path: Path) -> None:
    f = loaded(BASE, tmp_path).f
    before = fingerprint(f)
    path = Path(f.__code__.co_filename)
    path.write_text("def f(other):\n    return other\n")
    linecache.checkcache(str(path))
    assert fingerprint(f) != of("def f(other):\n    return other\n", tmp_path)
    assert fingerprint(f) != before


@given(st.text(), st.text())
def test_texts_differ_if_they_differ(one: str, two: str) -> None:
    functions = [executed(f"def f():\n    return {text!r}\n") for text in (one, two)]
    assert (fingerprint(functions[0]) == fingerprint(functions[1])) == (one == two)
