"""The compose file as it is written. `tests/containers/test_compose.py` starts it."""

import copy
import re
from collections.abc import Callable

import pytest
from compose_pydantic import ComposeSpecification
from pydantic import ValidationError

from tests.deploy import variables
from tests.deploy.files import COMPOSE, Document, compose, parts

SERVICES = ("coordinator", "worker")
SECRETS = {"RABBITMQ_USER", "RABBITMQ_PASSWORD", "LEVERET_KEY"}

TAKEN = re.compile(r"\$\{(\w+)([^}]*)\}")
"""A value from the environment or `.env`: its name, and what is said about it."""

each_service = pytest.mark.parametrize("service", SERVICES)


def checked(document: Document) -> None:
    """Raises `ValidationError` if the compose specification doesn't allow it."""
    extensions = {name for name in document if name.startswith("x-")}
    ComposeSpecification.model_validate(
        {name: value for name, value in document.items() if name not in extensions}
    )


def environment(service: str) -> dict[str, str]:
    given: dict[str, str] = compose()["services"][service]["environment"]
    return given


def test_the_file_is_what_the_compose_specification_allows() -> None:
    checked(compose())


def _misspelt(service: Document) -> None:
    service["restrat"] = service.pop("restart")


def _of_another_type(service: Document) -> None:
    service["scale"] = "two"


@pytest.mark.parametrize("break_it", [_misspelt, _of_another_type])
def test_a_broken_file_is_refused(break_it: Callable[[Document], None]) -> None:
    document = copy.deepcopy(compose())
    break_it(document["services"]["worker"])
    with pytest.raises(ValidationError):
        checked(document)


@each_service
def test_every_variable_is_one_that_the_service_reads(service: str) -> None:
    assert set(environment(service)) <= variables.known(service)


@each_service
def test_whatever_stops_has_its_time_before_it_is_killed(service: str) -> None:
    given = {name: text for name, text in environment(service).items() if "$" not in text}
    allowed = variables.seconds(compose()["services"][service]["stop_grace_period"])
    assert allowed >= variables.longest_stop(service, given)


def test_workers_stop_before_the_coordinator_and_that_before_the_broker() -> None:
    services = compose()["services"]
    assert services["coordinator"]["depends_on"] == ["rabbitmq"]
    assert set(services["worker"]["depends_on"]) == {"rabbitmq", "coordinator"}


def test_every_secret_has_to_be_given_and_no_other_value_is_one() -> None:
    demanded: set[str] = set()
    for text in parts(compose()):
        found = TAKEN.findall(text) if isinstance(text, str) else []
        for name, rest in found:
            if rest.startswith(":?"):
                demanded.add(name)
                assert name in rest
                assert "make env" in rest
            elif name not in SECRETS:
                assert rest.startswith(":-")  # has a default
    assert demanded == SECRETS


def test_only_workers_have_the_key() -> None:
    assert "LEVERET_KEY" not in environment("coordinator")
    assert "LEVERET_KEY" in environment("worker")


def test_the_broker_is_pinned_finds_its_data_again_and_is_reached_from_this_machine_only() -> None:
    rabbitmq = compose()["services"]["rabbitmq"]
    assert re.search(r":-rabbitmq:4\.\d+-management\}$", rabbitmq["image"])
    assert rabbitmq["hostname"]
    assert "rabbitmq:/var/lib/rabbitmq" in rabbitmq["volumes"]
    assert rabbitmq["ports"]
    assert all(port.startswith("127.0.0.1:") for port in rabbitmq["ports"])


@each_service
def test_services_may_do_nothing_that_they_need_not(service: str) -> None:
    given = compose()["services"][service]
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]


def test_the_file_names_no_version() -> None:
    assert not re.search(r"^version:", COMPOSE.read_text(encoding="utf-8"), re.MULTILINE)
