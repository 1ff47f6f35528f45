"""What users of one project may say."""

import re
from typing import get_args

import pytest

from leveret_broker import identifiers, messages, topology
from leveret_broker.errors import InvalidName
from leveret_broker.messages import (
    Attach,
    Cancel,
    Goodbye,
    Hello,
    ListRuns,
    Outcomes,
    Register,
    Resolve,
    ShowRun,
    Submit,
)
from leveret_broker.permissions import of_project
from leveret_coordinator.confinement import Arrived, OutOfProject, confined
from tests.coordinator import build

S = "p:session"


def test_what_leaves_the_project_out_is_about_the_senders() -> None:
    question = confined(ListRuns(session=S, request="1", project=None), "p")
    assert question == ListRuns(session=S, request="1", project="p", confined=True)
    assert confined(Attach(session=S, runs=("r",)), "p") == Attach(
        session=S, runs=("r",), project="p"
    )


def test_each_submission_is_confined() -> None:
    submit = Submit(session=S, submissions=(build.submission("r", project=None),) * 2)
    told = confined(submit, "p")
    assert isinstance(told, Submit)
    assert [(each.project, each.confined) for each in told.submissions] == [("p", True)] * 2


def test_what_a_worker_tells_is_about_runs_of_its_project() -> None:
    beat = build.heartbeat(worker="p:w", project="p")
    told = confined(Outcomes(worker="p:w", join=beat), "p")
    assert told == Outcomes(worker="p:w", join=beat, project="p")


@pytest.mark.parametrize(
    "message",
    [
        Hello(session="q:session", request="1"),
        Hello(session="session", request="1"),
        Hello(session="pp:session", request="1"),
        Goodbye(worker="q:w"),
        build.heartbeat(worker="q:w", project="p"),
        build.heartbeat(worker="p:w", project="q"),
        Outcomes(worker="q:w"),
        Outcomes(worker="p:w", project="q"),
        Outcomes(worker="p:w", join=build.heartbeat(worker="q:w", project="p")),
        Outcomes(worker="p:w", join=build.heartbeat(worker="p:w", project="q")),
        Register(session=S, request="1", project="q", definitions=()),
        Resolve(session=S, request="1", identifier="x", project="q"),
        ShowRun(session=S, request="1", run="r", project="q"),
        ListRuns(session="q:s", request="1", project="p"),
        Cancel(session=S, runs=(), project="q"),
        Submit(session=S, submissions=(build.submission("r", project="q"),)),
    ],
    ids=repr,
)
def test_what_names_another_project_is_refused(message: Arrived) -> None:
    with pytest.raises(OutOfProject, match="from the project 'p', and"):
        confined(message, "p")


def test_every_request_can_be_confined_or_is_known_to_need_nothing() -> None:
    """A request that names runs and no project could reach those of others."""
    requests = get_args(get_args(messages.Request)[0])
    without = {one for one in requests if "project" not in one.model_fields}
    assert without == {Hello, Goodbye, Submit}


def test_only_a_projects_own_exchange_is_known_as_its() -> None:
    assert topology.project_of(topology.project_exchange("p")) == "p"
    for exchange in ("", "amq.direct", topology.CONTROL, topology.control_exchange("p")):
        assert topology.project_of(exchange) is None


# -- permissions ----------------------------------------------------------------------------------

NAMES = [
    *(f"{kind}:{project}:x" for kind in ("replies", "control") for project in ("a", "ab", "a.b")),
    *(f"{project}:name:1" for project in ("a", "ab", "a.b", "b.a", "axb")),
    *("leveret.requests", "leveret.outcomes", "leveret.dead", "amq.default", "amq.topic"),
    *(exchange.name for p in ("a", "ab", "a.b", "axb") for exchange in topology.exchanges(p)),
]


def allowed(pattern: str) -> set[str]:
    return {name for name in NAMES if re.search(pattern, name)}


@pytest.mark.parametrize("project", ["a", "a.b"])
def test_a_permission_fits_the_names_of_one_project_only(project: str) -> None:
    own = of_project(project)
    replies, control = f"replies:{project}:x", f"control:{project}:x"
    assert allowed(own.configure) == {replies, control}
    assert allowed(own.write) == {control, topology.project_exchange(project)}
    heard = {topology.CONTROL, topology.control_exchange(project)}
    assert allowed(own.read) == {replies, control, f"{project}:name:1", *heard}


@pytest.mark.parametrize("project", ["replies", "control"])
def test_no_project_has_the_name_that_others_queues_begin_with(project: str) -> None:
    """Its work queues would look like the reply queues of another project."""
    with pytest.raises(InvalidName, match="queues of all projects"):
        identifiers.check("project", project)
