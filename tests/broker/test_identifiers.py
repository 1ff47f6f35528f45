"""Names, ids and the texts by which people mean definitions."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret_broker import identifiers
from leveret_broker.errors import InvalidIdentifier, InvalidName
from leveret_broker.identifiers import Identifier
from leveret_broker.topology import work_queue_name

TASK_ID = "task_01ARZ3NDEKTSV4RRFFQ69G5FAV"
RUN_ID = "run_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("train", Identifier(text="train", name="train")),
        ("train:3", Identifier(text="train:3", name="train", version="3")),
        (
            "vision:train:0.0.1",
            Identifier(text="vision:train:0.0.1", project="vision", name="train", version="0.0.1"),
        ),
        (TASK_ID, Identifier(text=TASK_ID, database_id=TASK_ID)),
    ],
)
def test_an_identifier_is_taken_apart(text: str, meant: Identifier) -> None:
    assert identifiers.parse(text) == meant


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":a", "a::b", "a:b:c:d", "a b", "ä", "a\n", "a/b", RUN_ID]
)
def test_what_has_no_form_of_an_identifier_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        identifiers.parse(text)


@given(st.text())
def test_any_text_is_an_identifier_or_refused(text: str) -> None:
    with suppress(InvalidIdentifier):
        assert identifiers.parse(text).text == text


@pytest.mark.parametrize("text", ["train_model", "a-b.c", "0", "x" * 60])
def test_a_plain_name_is_allowed(text: str) -> None:
    for what in ("project", "name", "version"):
        assert identifiers.check(what, text) == text


@pytest.mark.parametrize("text", ["", "a:b", "a b", "naïve", "a\n", "x" * 200, TASK_ID])
def test_other_names_are_refused(text: str) -> None:
    for what in ("project", "name", "version"):
        with pytest.raises(InvalidName, match=f"can't be a {what}"):
            identifiers.check(what, text)


@pytest.mark.parametrize("text", ["amq.x", "leveret.x"])
def test_a_project_leaves_the_brokers_names_alone(text: str) -> None:
    with pytest.raises(InvalidName):
        identifiers.check("project", text)
    assert identifiers.check("name", "amq.x") == "amq.x"


def test_a_name_leaves_leverets_own_names_alone() -> None:
    with pytest.raises(InvalidName, match="leveret's own"):
        identifiers.check("name", "leveret.step")
    assert identifiers.check("version", "leveret.step") == "leveret.step"


def test_the_id_of_a_keyed_run_is_that_of_its_project_callee_and_key() -> None:
    named = identifiers.keyed_run_id("p", "pay", "order-7")
    assert identifiers.is_database_id(named)
    assert named == identifiers.keyed_run_id("p", "pay", "order-7")
    others = [("q", "pay", "order-7"), ("p", "pays", "order-7"), ("p", "pay", "order-8")]
    others += [("p", "pay\0order", "7"), ("p\0pay", "", "order-7")]
    assert named not in {identifiers.keyed_run_id(*other) for other in others}
    assert len({identifiers.keyed_run_id(*other) for other in others}) == len(others)


def test_the_longest_names_make_a_queue_name_that_rabbitmq_takes() -> None:
    longest = {what: "x" * length for what, length in identifiers.LONGEST.items()}
    name = work_queue_name(longest["project"], longest["name"], longest["version"])
    assert len(name.encode()) <= 255


def test_versions_sort_as_people_count() -> None:
    versions = ["1.10", "nightly", "1.9", "1.0rc1", "2", "1.0", "abc"]
    assert sorted(versions, key=identifiers.version_order) == [
        "abc",
        "nightly",
        "1.0rc1",
        "1.0",
        "1.9",
        "1.10",
        "2",
    ]


def test_new_ids_are_unique_and_show_their_kind() -> None:
    ids = {identifiers.new_id("workflow") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(one.startswith("wf_") and identifiers.is_database_id(one) for one in ids)


def test_a_childs_id_is_the_same_for_the_same_call() -> None:
    child = identifiers.child_run_id(RUN_ID, "task_1", "key", 0)
    assert child == identifiers.child_run_id(RUN_ID, "task_1", "key", 0)
    assert child == "run_01ARZ3NDEK" + child[14:]
    assert identifiers.is_database_id(child)


def test_a_childs_id_differs_with_every_part_of_the_call() -> None:
    others = [
        (RUN_ID, "task_1", "key", 0),
        ("run_01ARZ3NDEKTSV4RRFFQ69G5FAW", "task_1", "key", 0),
        (RUN_ID, "task_2", "key", 0),
        (RUN_ID, "task_1", "yek", 0),
        (RUN_ID, "task_1", "key", 1),
        (RUN_ID, "task_1k", "ey", 0),
    ]
    assert len({identifiers.child_run_id(*call) for call in others}) == len(others)


def test_similar_names_are_suggested() -> None:
    assert identifiers.suggestion("trian", ["train", "test"]) == " Did you mean train?"
    assert identifiers.suggestion("xyz", ["train"]) == ""
