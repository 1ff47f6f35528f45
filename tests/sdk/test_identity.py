"""What makes two calls the same, in this process and in others."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from leveret import identity, payload
from leveret.keys import Keyring

VALUES = """
import collections, dataclasses, decimal, json, pathlib, sys
import numpy as np
from sklearn.neural_network import MLPClassifier
from leveret import identity, payload


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object = None


class Shape:
    def __init__(self, **parts):
        self.__dict__.update(parts)

    class Corner(Point):
        pass


words = set("zero one two three four five six seven eight nine".split())
models = MLPClassifier((3,), random_state=0, max_iter=2)
models.fit(np.arange(40.0).reshape(20, 2), np.arange(20) % 2)
arrays = np.array([Point(frozenset(words)), None], dtype=object)

GIVEN = dict(
    dict_filled_from_a_set={word: len(word) for word in words},
    dict_with_tuples={(word, 1): len(word) for word in words},
    array=np.arange(10.0),
    array_of_objects=arrays,
    model=models,
    dataclass_with_a_set=Point(words, words),
    dataclass_with_a_frozenset=Point(frozenset(words)),
    sets_that_are_only_partly_ordered=Point({frozenset({word, "x"}) for word in words}),
    set_of_instances={Point(word) for word in words},
    frozenset_of_instances=Point(frozenset(Point(word) for word in words)),
    dict_by_frozensets=Point({frozenset({word}): word for word in words}),
    nested=Shape(corners=[Shape.Corner(1, Point({2: words}))], name="n", tags=words),
    attributes_in_another_order=Shape(**{word: 1 for word in words}),
    counter=collections.Counter(words),
    classes=[Point, Shape.Corner, pathlib.Path, type(None)],
    functions=[len, np.sum, json.dumps],
)


def digest(*args, **kwargs):
    return identity.of_arguments(payload.encode_arguments(args, kwargs), args, kwargs).digest


if __name__ == "__main__":
    found = {name: digest(value) for name, value in GIVEN.items()}
    found["named arguments"] = digest(**{word: 1 for word in words})
    print(json.dumps(found))
"""


def run(file: Path, seed: str, program: str | None = None) -> dict[str, str | None]:
    """What the file prints in a process with this hash seed."""
    command = [sys.executable, "-W", "ignore", *(["-c", program] if program else [str(file)])]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def test_equal_values_are_the_same_in_every_process(tmp_path: Path) -> None:
    file = tmp_path / "values_of_a_script.py"
    file.write_text(VALUES)
    first, *others = [run(file, seed) for seed in ("1", "2", "3")]
    assert None not in first.values()
    for other in others:
        assert {name for name in first if first[name] != other[name]} == set()
    assert len(set(first.values())) == len(first)


def test_a_scripts_classes_are_the_same_in_a_process_that_imports_it(tmp_path: Path) -> None:
    file = tmp_path / "values_of_a_script.py"
    file.write_text(VALUES)
    program = (
        "import json; from values_of_a_script import *; "
        "print(json.dumps({name: digest(value) for name, value in GIVEN.items()}))"
    )
    imported, started = run(file, "1", program), run(file, "2")
    assert {name for name in imported if imported[name] != started[name]} == set()


@dataclasses.dataclass
class Box:
    """Something that needs a pickle."""

    content: object


def content(*args: object, **kwargs: object) -> identity.Content:
    return identity.of_arguments(payload.encode_arguments(args, kwargs), args, kwargs)


def test_different_arguments_have_different_identities() -> None:
    different: list[object] = [1, 1.0, True, "1", b"1", [1], (1,), {1}, frozenset({1}), {1: 1}]
    different += [{1: 1, 2: 2}, {1: 2, 2: 1}, [1, 1, 2, 2], Box(1), Box(1.0), Box({1}), Box((1,))]
    different += [Box(frozenset({1})), Box({1: 1}), Box({1: 1, 2: 2}), Box([1]), Box(Box(1))]
    assert len({content(value).text for value in different}) == len(different)


def test_a_place_and_a_name_are_different_arguments() -> None:
    assert len({content(1).text, content(a=1).text, content(b=1).text, content().text}) == 4


def test_a_value_that_travelled_is_still_the_same() -> None:
    value = Box([{"b": Box({1, 2}), "a": (Box("x"), Box("x"))}, "x"])
    keys = Keyring(keys=(bytes(32),))
    context = payload.Context(project="p", run="r", definition="train", direction="arguments")
    sealed = payload.seal(payload.encode(value), keys=keys, context=context)
    assert content(payload.unseal(sealed, keys=keys, context=context)) == content(value)


def a_lambda() -> object:
    return lambda: 1


def a_local_class() -> object:
    class Local:
        pass

    return Local()


@pytest.mark.parametrize("made", [a_lambda, a_local_class])
def test_code_by_value_has_an_identity_but_no_digest(made: Callable[[], object]) -> None:
    value, other = made(), Box([made])
    assert content(value).digest is None
    assert content({"a": [value]}).digest is None
    assert len(content(value).text) == 32
    assert content(value) == content(value)
    assert content(other).digest is not None


def test_a_key_is_never_the_identity_of_arguments() -> None:
    text = content(1).text
    assert identity.of_key(text) != text


def test_arguments_are_shown_as_a_call_spells_them() -> None:
    assert identity.shown((1, "a"), {"b": [2]}) == "(1, 'a', b=[2])"
    assert len(identity.shown(("x" * 1000,) * 100, {})) < 350
