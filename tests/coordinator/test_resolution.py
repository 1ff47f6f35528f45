"""Each form of an identifier, in each context, right and wrong, against a real SQLite catalog."""

import re
from dataclasses import dataclass

import pytest

from leveret_broker.messages import Refused, Rejected, Resolve, Resolved, Target
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.decision import Decision
from leveret_coordinator.errors import Invalid, NotDeployed, RequestRefused
from leveret_coordinator.records import Confirmed
from leveret_coordinator.resolution import Known, resolve_target
from tests.coordinator import build

PARENT = build.run_id(1)
CHILD = build.run_id(2)

DEFINITIONS = (
    build.definition(1, "vision:train:1"),
    build.definition(2, "vision:train:2"),
    build.definition(3, "vision:train:10"),
    build.definition(4, "vision:fit:0.9", "task"),
    build.definition(5, "vision:fit:0.10", "task"),
    build.definition(6, "vision:fit:0.10rc1", "task"),
    build.definition(7, "vision:outer:1"),
    build.definition(8, "audio:train:1"),
    build.definition(9, "audio:fit:1.0", "task"),
    build.definition(10, "audio:mix:1"),
)
MIX = build.definition_id(10, "workflow")
TRAIN_2 = build.definition_id(2, "workflow")
FIT_0_9 = build.definition_id(4, "task")
NOBODY = build.definition_id(999, "workflow")


@dataclass(frozen=True)
class Case:
    """An identifier, and what it means where `vision` is known and where no project is known.

    A meaning is a queue's name; a refusal is the words that its message must hold, in order.
    """

    text: str
    known: str | list[str]
    unknown: str | list[str]


WRONG_PROJECT = ["names the project 'audio'", "the project here is 'vision'"]
MALFORMED = ["is no identifier", "write name, name:revision, project:name:revision"]

CASES = [
    # name
    Case("outer", "vision:outer:1", "vision:outer:1"),
    Case("train", "vision:train:10", ["ambiguous", "2 projects", "audio:train:1, vision:train:10"]),
    Case("fit", "vision:fit:0.10", ["ambiguous", "audio:fit:1.0, vision:fit:0.10"]),
    Case(
        "mix",
        ["no task or workflow named 'mix' in the project 'vision'", "the project 'audio' has one"],
        "audio:mix:1",
    ),
    Case(
        "trian",
        ["no task or workflow named 'trian'", "Did you mean train?"],
        ["no task or workflow named 'trian'", "Did you mean train?"],
    ),
    Case("qqqq", ["named 'qqqq' in the project 'vision'. `leveret"], ["named 'qqqq'. `leveret"]),
    # name:revision
    Case("train:2", "vision:train:2", "vision:train:2"),
    Case("train:1", "vision:train:1", ["ambiguous", "audio:train:1, vision:train:1"]),
    Case("fit:0.9", "vision:fit:0.9", "vision:fit:0.9"),
    Case(
        "train:3",
        ["'train' has no revision '3' in the project 'vision'", "Known: 10, 2, 1."],
        ["'train' has no revision '3'.", "vision:train:10, vision:train:2"],
    ),
    Case(
        "fit:0.8",
        ["'fit' has no version '0.8'", "Known: 0.10, 0.10rc1, 0.9."],
        ["'fit' has no version '0.8'", "audio:fit:1.0"],
    ),
    Case("mix:1", ["no task or workflow named 'mix'"], "audio:mix:1"),
    # project:name:revision
    Case("vision:train:2", "vision:train:2", "vision:train:2"),
    Case("vision:fit:0.9", "vision:fit:0.9", "vision:fit:0.9"),
    Case("audio:train:1", WRONG_PROJECT, "audio:train:1"),
    Case("audio:mix:1", WRONG_PROJECT, "audio:mix:1"),
    Case(
        "vision:train:7",
        ["no revision '7' in the project 'vision'"],
        ["no revision '7' in the project 'vision'", "Known: 10, 2, 1."],
    ),
    Case(
        "video:train:1",
        ["names the project 'video'"],
        ["named 'train' in the project 'video'", "the projects audio, vision have one"],
    ),
    Case(
        "vision:outre:1",
        ["named 'outre'", "Did you mean outer?"],
        ["named 'outre' in the project 'vision'", "Did you mean outer?"],
    ),
    # the database id
    Case(TRAIN_2, "vision:train:2", "vision:train:2"),
    Case(FIT_0_9, "vision:fit:0.9", "vision:fit:0.9"),
    Case(MIX, "audio:mix:1", "audio:mix:1"),
    Case(NOBODY, ["no definition with the database id"], ["no definition with the database id"]),
    Case(build.run_id(5), ["the id of a run, not of a def"], ["the id of a run, not of a def"]),
    # malformed
    Case("", MALFORMED, MALFORMED),
    Case("train:", MALFORMED, MALFORMED),
    Case(":train:1", MALFORMED, MALFORMED),
    Case("my train", MALFORMED, MALFORMED),
    Case("a:b:c:d", ["4 parts"], ["4 parts"]),
]


@pytest.fixture
async def filled(catalog: Catalog) -> Catalog:
    await catalog.write(Decision(definitions=DEFINITIONS), Confirmed(), now=build.NOW)
    await build.apply(catalog, build.submit(build.submission(PARENT, "vision:outer:1")))
    return catalog


def _ids(case: Case) -> str:
    return case.text or "empty"


@pytest.mark.parametrize("case", CASES, ids=_ids)
async def test_outside_a_run_with_a_known_project(filled: Catalog, case: Case) -> None:
    _check(await _outside(filled, case.text, "vision"), case.known)


@pytest.mark.parametrize("case", CASES, ids=_ids)
async def test_outside_a_run_without_a_project(filled: Catalog, case: Case) -> None:
    _check(await _outside(filled, case.text, None), case.unknown)


@pytest.mark.parametrize("case", CASES, ids=_ids)
@pytest.mark.parametrize("project", ["vision", None])
async def test_inside_a_workflow_run_its_project_is_known(
    filled: Catalog, case: Case, project: str | None
) -> None:
    _check(await _inside(filled, case.text, project), case.known)


async def _outside(catalog: Catalog, text: str, project: str | None) -> str | Refused:
    asked = Resolve(session="s", request="r", identifier=text, project=project)
    [answer] = (await build.apply(catalog, asked)).answers
    assert isinstance(answer.reply, Resolved | Refused)
    return answer.reply if isinstance(answer.reply, Refused) else answer.reply.definition.queue


async def _inside(catalog: Catalog, text: str, project: str | None) -> str | Rejected:
    child = build.submission(CHILD, text, parent=PARENT, project=project)
    decision = await build.apply(catalog, build.submit(child))
    if decision.runs:
        [invocation] = decision.invocations
        return invocation.queue
    [answer] = decision.answers
    assert isinstance(answer.reply, Rejected)
    return answer.reply


def _check(found: str | Refused | Rejected, expected: str | list[str]) -> None:
    if isinstance(expected, str):
        assert found == expected
    else:
        assert not isinstance(found, str), f"resolved to {found}"
        assert found.code == "unidentified"
        assert re.search(".*".join(map(re.escape, expected)), found.message), found.message


async def test_an_empty_catalog_says_how_to_fill_it(catalog: Catalog) -> None:
    refused = await _outside(catalog, "train", "vision")
    assert isinstance(refused, Refused)
    assert "nothing is registered in the project 'vision'" in refused.message
    assert "leveret worker APP --project vision" in refused.message


async def test_many_candidates_are_not_all_spelled_out(catalog: Catalog) -> None:
    projects = tuple(build.definition(number, f"p{number:02d}:train:1") for number in range(1, 31))
    await catalog.write(Decision(definitions=projects), Confirmed(), now=build.NOW)
    refused = await _outside(catalog, "train", None)
    assert isinstance(refused, Refused)
    assert "p10:train:1 and 20 more" in refused.message


# -- definitions in code --------------------------------------------------------------------------

IN_CODE = Known(
    definitions=(
        build.definition(1, "p:flow:1", fingerprint="one"),
        build.definition(2, "p:flow:2", fingerprint="two"),
        build.definition(3, "p:fit:0.1", "task"),
    )
)


def _workflow(name: str, fingerprint: str, version: str | None = None) -> Target:
    return Target(kind="workflow", name=name, fingerprint=fingerprint, version=version)


def _task(name: str, version: str) -> Target:
    return Target(kind="task", name=name, version=version, fingerprint="whatever")


@pytest.mark.parametrize(
    ("target", "queue"),
    [
        (_workflow("flow", "one"), "p:flow:1"),
        (_workflow("flow", "two"), "p:flow:2"),
        (_workflow("flow", "one", "1"), "p:flow:1"),
        (_task("fit", "0.1"), "p:fit:0.1"),
    ],
)
@pytest.mark.parametrize("project", ["p", None])
def test_code_that_is_deployed_is_found(target: Target, queue: str, project: str | None) -> None:
    assert resolve_target(target, project=project, known=IN_CODE).queue == queue


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (_workflow("flow", "three"), "only other code of that name is. Known: 2, 1."),
        (_workflow("flow", "one", "2"), "this code is revision 1"),
        (_workflow("other", "one"), "no worker ever registered it"),
        (_workflow("fit", "one"), "there it is a task"),
        (_task("fit", "0.2"), "isn't deployed in version '0.2' in the project 'p'. Known: 0.1."),
        (_task("flow", "1"), "there it is a workflow"),
    ],
)
def test_code_that_is_not_deployed_says_what_is_and_what_to_do(target: Target, words: str) -> None:
    with pytest.raises(NotDeployed, match=re.escape(words)) as caught:
        resolve_target(target, project="p", known=IN_CODE)
    if "there it is" not in words:
        assert "leveret worker APP --project p" in str(caught.value)
        assert "call it by identifier" in str(caught.value)


def test_code_of_a_name_in_several_projects_is_ambiguous_without_a_project() -> None:
    known = Known(definitions=(build.definition(1, "a:flow:1"), build.definition(2, "b:flow:1")))
    with pytest.raises(RequestRefused, match="a:flow:1, b:flow:1"):
        resolve_target(_workflow("flow", "code"), project=None, known=known)


def test_a_target_that_names_nothing_is_invalid() -> None:
    with pytest.raises(Invalid, match="neither an identifier nor a definition"):
        resolve_target(Target(), project="p", known=IN_CODE)
