"""What may be a task or a workflow, and what a definition knows of itself."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest

import leveret
from leveret import define
from leveret.definitions import known, latest

task = cast(Any, define.task)
workflow = cast(Any, define.workflow)


def sync_function() -> None:
    """What it does.

    And how.
    """


async def async_function() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class AClass:
    pass


def test_a_bare_decorator_takes_the_functions_name_and_version_0() -> None:
    defined = define.task(sync_function)
    assert (defined.name, defined.version, defined.kind) == ("sync_function", "0", "task")
    assert defined.fn is sync_function
    assert defined.description == "What it does."
    assert defined.__doc__ == sync_function.__doc__


def test_a_configured_decorator_takes_what_it_is_given() -> None:
    defined = define.task(name="n", version="1.2", runs_in="thread", prefetch=3, description="d")(
        sync_function
    )
    assert (defined.name, defined.version, defined.runs_in) == ("n", "1.2", "thread")
    assert (defined.prefetch, defined.description) == (3, "d")


def test_a_workflows_revision_is_the_catalogs_unless_it_insists() -> None:
    assert define.workflow(async_function).version is None
    assert define.workflow(revision=3)(async_function).version == "3"


def test_a_definition_remembers_whether_it_is_async() -> None:
    assert define.task(async_function).is_async
    assert not define.task(sync_function).is_async


def test_the_process_knows_its_definitions_in_order() -> None:
    first, second = define.task(sync_function), define.workflow(async_function)
    assert known()[-2:] == [first, second]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a:b", "letters, digits"),
        ("a b", "letters, digits"),
        ("", "letters, digits"),
        ("naïve", "letters, digits"),
        ("x" * 128, "128 characters, 127 are allowed"),
        ("wf_01ARZ3NDEKTSV4RRFFQ69G5FAV", "form of a database id"),
    ],
)
@pytest.mark.parametrize("decorate", [task, workflow])
def test_a_name_that_no_queue_can_have_is_refused(decorate: Any, name: str, reason: str) -> None:
    with pytest.raises(leveret.DefinitionError, match=reason):
        decorate(name=name)(async_function)


@pytest.mark.parametrize("version", ["1:0", "", "v 1", "x" * 61])
def test_a_version_that_no_queue_can_have_is_refused(version: str) -> None:
    with pytest.raises(leveret.DefinitionError, match="can't be a version"):
        define.task(version=version)(sync_function)


@pytest.mark.parametrize("decorate", [task(version=1), task(name=1), workflow(revision="x")])
def test_options_of_another_type_are_refused(decorate: Any) -> None:
    with pytest.raises(leveret.DefinitionError):
        decorate(async_function)


@pytest.mark.parametrize("function", [generator, async_generator])
@pytest.mark.parametrize("decorate", [task, workflow])
def test_generators_are_refused(decorate: Any, function: Callable[..., Any]) -> None:
    with pytest.raises(leveret.DefinitionError, match="generator function"):
        decorate(function)


@pytest.mark.parametrize("thing", [AClass, 3, "text"])
@pytest.mark.parametrize("decorate", [task, workflow])
def test_what_is_no_function_is_refused(decorate: Any, thing: object) -> None:
    with pytest.raises(leveret.DefinitionError, match="is a function, not"):
        decorate(thing)


def test_a_workflow_that_is_not_async_is_refused() -> None:
    with pytest.raises(leveret.DefinitionError, match="write `async def sync_function`"):
        workflow(sync_function)


@pytest.mark.parametrize(
    "options", [{"runs_in": "moon"}, {"prefetch": 0}], ids=["runs_in", "prefetch"]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(leveret.DefinitionError):
        task(**options)(sync_function)


def test_a_revision_below_one_is_refused() -> None:
    with pytest.raises(leveret.DefinitionError, match="numbered from 1"):
        define.workflow(revision=0)(async_function)


def test_a_definition_made_anew_replaces_the_one_before() -> None:
    first, second = (define.task(name="anew", version="7")(sync_function) for _ in range(2))
    other = define.task(name="anew", version="8")(sync_function)
    assert [one for one in latest() if one.name == "anew"] == [second, other]
    assert first in known()
