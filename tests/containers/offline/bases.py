"""The base images: the official ones, or, where they can't be pulled, stand-ins."""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.containers.engine import DockerError, Report, docker
from tests.containers.offline import stand_ins

PYTHON = "python:3.12-slim"
RABBITMQ = "rabbitmq:4.2-management"
PULLING = 600.0
"""Seconds that a pull may take."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """An image to build upon or to run."""

    official: str
    name: str
    """The official name, or that of its stand-in."""

    @property
    def is_stand_in(self) -> bool:
        return self.name != self.official


def python_base(report: Report) -> Base:
    """What the services' images are built upon. Raises `NoEngine` if it can't be had."""
    return _chosen(PYTHON, stand_ins.PYTHON, report)


def rabbitmq_base(report: Report) -> Base:
    """RabbitMQ with its management. Raises `NoEngine` if it can't be had."""
    return _chosen(RABBITMQ, stand_ins.RABBITMQ, report)


def is_here(image: str) -> bool:
    """Whether the engine has an image."""
    try:
        docker("image", "inspect", "--format", "{{.Id}}", image)
    except DockerError:
        return False
    return True


def _chosen(official: str, stand_in: stand_ins.StandIn, report: Report) -> Base:
    if is_here(official) or _pulled(official, report):
        return Base(official=official, name=official)
    with _alone():
        if not is_here(stand_in.name):
            stand_in.make(report)
    report(f"{official} can't be had: {stand_in.name} stands in for it")
    return Base(official=official, name=stand_in.name)


def _pulled(image: str, report: Report) -> bool:
    report(f"pulling {image}")
    try:
        docker("pull", "--quiet", image, timeout=PULLING)
    except (DockerError, subprocess.TimeoutExpired) as error:
        report(f"it can't be pulled: {str(error).splitlines()[-1]}")
        return False
    return True


@contextmanager
def _alone() -> Generator[None]:
    """One process at a time makes stand-ins, of all that use this engine."""
    path = Path(tempfile.gettempdir()) / f"leveret-stand-ins-{os.getuid()}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
