"""Compose, whichever there is, with a project of the test's own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import rabbit
from tests.acceptance.processes import ROOT
from tests.containers.engine import NoEngine, Report, docker

FILE = ROOT / "docker-compose.yml"
STARTING = 120.0
"""Seconds that a command may take."""


def command(report: Report) -> list[str]:
    """How compose is called here. Raises `NoEngine` if there is none."""
    if _works(["docker", "compose"]):
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None and os.environ.get("CI") and rabbit.can_install():
        report("there is no compose: installing docker-compose")
        rabbit.install(["docker-compose"])
    if _works(["docker-compose"]):
        return ["docker-compose"]
    raise NoEngine("there is no compose: neither `docker compose` nor `docker-compose`")


class Project:
    """The compose file's services, under a name that nothing else uses."""

    def __init__(
        self,
        command: Sequence[str],
        name: str,
        secrets: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`secrets` is in place of `.env`, `variables` in the environment of the commands."""
        self.name = name
        self._command = [*command, "--project-name", name]
        self._command += [] if secrets is None else ["--env-file", str(secrets)]
        self._environment = {**_without_secrets(), **(variables or {})}

    def run(self, *arguments: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
        """Run one of compose's commands, as if the file were in a folder."""
        places = ["--file", str(FILE), "--project-directory", str(folder)]
        return subprocess.run(
            [*self._command, *places, *arguments],
            capture_output=True,
            text=True,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            timeout=STARTING,
            check=False,
        )

    def done(self, *arguments: str) -> None:
        """The same, for what has to work."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers, stopped ones too."""
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{key}={labels[key]}" for key in labels]
        return docker("ps", "--all", "--no-trunc", "--quiet", *filters).split()

    def logs(self) -> str:
        """What all have logged, for a failure."""
        return self.run("logs", "--no-color", "--tail=60").stdout


def inspect(container: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker("inspect", container))
    return found[0]


def on_this_machine(secrets: Mapping[str, str], *command: str) -> str:
    """What a Python command prints that has the variables as `. ./.env` sets them."""
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**_without_secrets(), **secrets, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        timeout=STARTING,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _works(command: Sequence[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    asked = [*command, "version"]
    return subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode == 0


def _without_secrets() -> dict[str, str]:
    """This environment, without what could stand in for a value that is missing."""
    ours = ("LEVERET", "RABBITMQ", "COMPOSE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
