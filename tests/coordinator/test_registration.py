import pytest

from leveret_broker.messages import DefinitionSpec, Refused, Register, Registered
from leveret_coordinator.catalog import Catalog
from tests.coordinator import build


async def _register(catalog: Catalog, *specs: DefinitionSpec, project: str = "p") -> list[str]:
    """The versions that the specifications are given."""
    return [version for version, _ in await _registered(catalog, *specs, project=project)]


async def _registered(
    catalog: Catalog, *specs: DefinitionSpec, project: str = "p"
) -> list[tuple[str, str]]:
    decision = await build.apply(catalog, build.register(*specs, project=project))
    [answer] = decision.answers
    assert isinstance(answer.reply, Registered), answer.reply
    return [(record.version, record.id) for record in answer.reply.definitions]


async def _refused(catalog: Catalog, register: Register) -> Refused:
    decision = await build.apply(catalog, register)
    [answer] = decision.answers
    assert isinstance(answer.reply, Refused)
    assert not decision.definitions
    assert not decision.queues
    return answer.reply


async def test_the_first_code_of_a_workflow_is_revision_1(catalog: Catalog) -> None:
    assert await _register(catalog, build.spec("flow")) == ["1"]


async def test_the_same_code_keeps_its_row_and_changed_code_gets_the_next_revision(
    catalog: Catalog,
) -> None:
    first = await _registered(catalog, build.spec("flow", fingerprint="a"))
    assert await _registered(catalog, build.spec("flow", fingerprint="a")) == first
    assert await _register(catalog, build.spec("flow", fingerprint="b")) == ["2"]
    assert await _register(catalog, build.spec("flow", fingerprint="c")) == ["3"]


async def test_code_that_comes_back_has_the_revision_it_had(catalog: Catalog) -> None:
    for fingerprint in "abc":
        await _register(catalog, build.spec("flow", fingerprint=fingerprint))
    assert await _register(catalog, build.spec("flow", fingerprint="b")) == ["2"]


async def test_revisions_are_numbers_not_texts(catalog: Catalog) -> None:
    for number in range(1, 12):
        assert await _register(catalog, build.spec("flow", fingerprint=f"{number}")) == [
            f"{number}"
        ]


async def test_projects_count_their_revisions_apart(catalog: Catalog) -> None:
    assert await _register(catalog, build.spec("flow", fingerprint="a"), project="p") == ["1"]
    assert await _register(catalog, build.spec("flow", fingerprint="b"), project="q") == ["1"]


async def test_a_revision_may_be_asked_for_and_the_next_counts_from_it(catalog: Catalog) -> None:
    assert await _register(catalog, build.spec("flow", version="7", fingerprint="a")) == ["7"]
    assert await _register(catalog, build.spec("flow", version="7", fingerprint="a")) == ["7"]
    assert await _register(catalog, build.spec("flow", fingerprint="a")) == ["7"]
    assert await _register(catalog, build.spec("flow", fingerprint="b")) == ["8"]


async def test_a_revision_that_has_other_code_is_a_conflict(catalog: Catalog) -> None:
    await _register(catalog, build.spec("flow", fingerprint="a"))
    asked = build.register(build.spec("flow", version="1", fingerprint="b"))
    refused = await _refused(catalog, asked)
    assert refused.code == "conflict"
    assert "Revision 1 of the workflow 'flow' exists" in refused.message
    assert "Ask for revision 2" in refused.message


async def test_a_task_keeps_its_row_with_the_new_fingerprint(catalog: Catalog) -> None:
    old = build.spec("fit", kind="task", version="0.1", fingerprint="a")
    new = build.spec("fit", kind="task", version="0.1", fingerprint="b")
    before = await _registered(catalog, old)
    assert await _registered(catalog, new) == before
    [row] = await catalog.definitions(names=["fit"])
    assert row.fingerprint == "b"


@pytest.mark.parametrize("kinds", [("task", "workflow"), ("workflow", "task")])
async def test_a_name_is_a_task_or_a_workflow_within_a_project(
    catalog: Catalog, kinds: tuple[str, str]
) -> None:
    specs = {
        "task": build.spec("name", kind="task", version="1"),
        "workflow": build.spec("name"),
    }
    first, second = (specs[kind] for kind in kinds)
    await _register(catalog, first)
    refused = await _refused(catalog, build.register(second))
    assert refused.code == "conflict"
    assert f"'name' can't be a {kinds[1]}" in refused.message
    assert await _register(catalog, second, project="other") == ["1"]


async def test_a_registration_that_contradicts_itself_registers_nothing(catalog: Catalog) -> None:
    asked = build.register(build.spec("fine"), build.spec("x"), build.spec("x", kind="task"))
    refused = await _refused(catalog, asked)
    assert refused.code == "invalid"
    assert await catalog.definitions(names=["fine", "x"]) == []


@pytest.mark.parametrize(
    ("spec", "project", "words"),
    [
        (build.spec("a:b"), "p", "can't be a name"),
        (build.spec("flow"), "amq.p", "can't be a project"),
        (build.spec("fit", kind="task", version="1 0"), "p", "can't be a version"),
        (build.spec("fit", kind="task"), "p", "has no version"),
        (build.spec("flow", version="first"), "p", "a whole number from 1"),
        (build.spec("flow", version="0"), "p", "a whole number from 1"),
    ],
)
async def test_names_that_can_be_no_queue_are_refused(
    catalog: Catalog, spec: DefinitionSpec, project: str, words: str
) -> None:
    refused = await _refused(catalog, build.register(spec, project=project))
    assert refused.code == "invalid"
    assert words in refused.message


async def test_registrations_in_one_batch_see_each_other(catalog: Catalog) -> None:
    decision = await build.apply(
        catalog,
        build.register(build.spec("flow", fingerprint="a"), session="w1"),
        build.register(build.spec("flow", fingerprint="a"), session="w2"),
        build.register(build.spec("flow", fingerprint="b"), session="w3"),
    )
    replies = [answer.reply for answer in decision.answers]
    versions = [
        record.version
        for reply in replies
        if isinstance(reply, Registered)
        for record in reply.definitions
    ]
    assert versions == ["1", "1", "2"]
    assert decision.queues == ("p:flow:1", "p:flow:2")
    assert len(await catalog.definitions(names=["flow"])) == 2
