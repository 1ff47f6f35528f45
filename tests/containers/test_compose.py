"""`docker compose up`, as the README says it, and the example from outside."""

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import EXAMPLE, until
from tests.conftest import Tell
from tests.containers import compose
from tests.containers.engine import NoEngine, docker
from tests.containers.images import Images, build_example
from tests.containers.offline.bases import rabbitmq_base
from tests.deploy.files import compose as compose_file
from tests.deploy.test_env import make_env, pairs
from tests.deploy.variables import seconds
from tests.rabbit import free_ports

SECRETS = ("RABBITMQ_USER", "RABBITMQ_PASSWORD", "LEVERET_KEY")
STOPPING = ("worker", "coordinator", "rabbitmq")
"""The services, in the order in which they are stopped."""


class Stack:
    """The services as they run, and the secrets that they share with this machine."""

    def __init__(self, project: compose.Project, secrets: dict[str, str]) -> None:
        self.project = project
        self.secrets = secrets

    def example(self) -> str:
        """What the example prints, executed on this machine."""
        return compose.on_this_machine(self.secrets, str(EXAMPLE))

    def asked(self, *command: str) -> Any:
        """What `leveret … --json` prints."""
        return json.loads(
            compose.on_this_machine(self.secrets, "-m", "leveret", *command, "--json")
        )

    def hosts(self) -> set[str]:
        """The host names of the workers' containers."""
        ids = self.project.containers("worker")
        return {compose.inspect(each)["Config"]["Hostname"] for each in ids}

    def workers(self) -> set[str]:
        """The host names of the workers that the coordinator knows."""
        return {worker["host"] for worker in self.asked("workers")}


@pytest.fixture(scope="module")
def command(engine: None, tell: Tell) -> list[str]:
    try:
        return compose.command(tell)
    except NoEngine as error:
        tell(f"no compose: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def stack(
    command: list[str], images: Images, tell: Tell, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    tell("building the example's image")
    amqp, management = free_ports(2)
    path = tmp_path_factory.mktemp("compose") / "secrets"
    made = make_env(path, RABBITMQ_PORT=str(amqp))
    assert made.returncode == 0, made.stderr
    variables = {
        "COORDINATOR_IMAGE": images.coordinator,
        "WORKER_IMAGE": build_example(images),
        "RABBITMQ_IMAGE": rabbitmq_base(tell).name,
        "RABBITMQ_MANAGEMENT_PORT": str(management),
    }
    project = compose.Project(command, f"leveret-{secrets.token_hex(4)}", path, variables)
    tell(f"starting {project.name} by {' '.join(command)}")
    try:
        project.done("up", "--detach", "--no-build")
        yield Stack(project, pairs(path))
    finally:
        project.run("down", "--volumes", "--timeout", "5")


def test_without_secrets_it_stops_with_a_sentence(command: list[str], tmp_path: Path) -> None:
    there_is_no_env = compose.Project(command, "leveret-none")
    done = there_is_no_env.run("config", folder=tmp_path)
    assert done.returncode != 0
    assert re.search(r"RABBITMQ_\w+ is empty or missing. Run \"make env\"", done.stderr)


@pytest.mark.parametrize("name", SECRETS)
def test_with_an_empty_secret_it_stops_with_a_sentence(
    command: list[str], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "secrets"
    given = {**dict.fromkeys(SECRETS, "x"), name: ""}
    path.write_text("".join(f"{key}={value}\n" for key, value in given.items()))
    done = compose.Project(command, "leveret-none", path).run("config")
    assert done.returncode != 0
    assert f'{name} is empty or missing. Run "make env"' in done.stderr


def test_the_example_on_this_machine_is_executed_by_both_workers(stack: Stack) -> None:
    until(lambda: _is_answered(stack), "the coordinator knows the workers")
    assert len(stack.hosts()) == 2
    printed = stack.example()
    assert "Winner: learning rate" in printed
    assert "accuracy on held-out images 0.9" in printed
    (run,) = stack.asked("runs", "list", "--roots")
    assert run["state"] == "succeeded"
    assert {each["host"] for each in stack.asked("runs", "list")} <= stack.hosts()


def test_all_become_healthy(stack: Stack) -> None:
    def healthy() -> bool:
        return all(
            compose.inspect(container)["State"]["Health"]["Status"] == "healthy"
            for service in STOPPING
            for container in stack.project.containers(service)
        )

    until(healthy, "all are healthy")


def test_a_third_worker_joins_by_scaling(stack: Stack) -> None:
    stack.project.done("up", "--detach", "--no-build", "--no-recreate", "--scale", "worker=3")
    until(lambda: len(stack.workers()) == 3, "three workers are there")
    assert stack.workers() == stack.hosts()


def test_all_stop_in_their_time_and_start_in_any_order_with_what_they_had(stack: Stack) -> None:
    before = stack.asked("runs", "list")
    assert before
    _rabbitmqctl(stack, "add_vhost", "kept")
    for service in STOPPING:
        _stop(stack, service)
    stack.project.done("down")
    stack.project.done("up", "--no-start", "--no-build")
    for service in STOPPING:  # those that need the others come first
        docker("start", *stack.project.containers(service))
    until(lambda: _is_answered(stack), "the coordinator and the broker are there again")
    assert stack.asked("runs", "list") == before
    assert "kept" in _rabbitmqctl(stack, "list_vhosts").split()
    assert "Winner: learning rate" in stack.example()


def _stop(stack: Stack, service: str) -> None:
    """Stop one service, and see that each of its containers ended by itself, in good order."""
    allowed = seconds(compose_file()["services"][service]["stop_grace_period"])
    begun = time.monotonic()
    stack.project.done("stop", service)
    assert time.monotonic() - begun < allowed
    for container in stack.project.containers(service):
        state = compose.inspect(container)["State"]
        assert (state["Running"], state["ExitCode"]) == (False, 0), stack.project.logs()


def _rabbitmqctl(stack: Stack, *arguments: str) -> str:
    (broker,) = stack.project.containers("rabbitmq")
    return docker("exec", broker, "rabbitmqctl", "--quiet", *arguments)


def _is_answered(stack: Stack) -> bool:
    """Whether the broker and the coordinator answer, and all workers are known."""
    try:
        return stack.workers() == stack.hosts()
    except AssertionError:
        return False
