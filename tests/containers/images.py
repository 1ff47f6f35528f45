"""The images under test, built from this checkout, and those that tests derive from them."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.processes import ROOT
from tests.containers.engine import Report, docker
from tests.containers.offline.bases import Base

TAG = f"test-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
"""Checkouts on one machine don't get into each other's way."""
COORDINATOR = f"leveret-coordinator:{TAG}"
WORKER = f"leveret-worker:{TAG}"
EXAMPLE = f"leveret-example:{TAG}"
BUILDING = 600.0
"""Seconds that an image may take to build."""
PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
"""What of this environment's a build is told, if it is set."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """The names of what was built."""

    coordinator: str
    worker: str
    base: Base
    """What they are built upon."""


def build_services(base: Base, report: Report) -> Images:
    """Build both services' images. What hasn't changed since the last time is not built again."""
    begun = time.monotonic()
    report(f"building {COORDINATOR} and {WORKER} upon {base.name}")
    for target, tag in (("coordinator", COORDINATOR), ("worker", WORKER)):
        build(tag, ROOT, target=target, arguments={"BASE": base.name})
    report(f"built in {time.monotonic() - begun:.0f} s")
    return Images(coordinator=COORDINATOR, worker=WORKER, base=base)


def build_example(images: Images) -> str:
    """Build the example's worker, which takes longer: it needs large libraries."""
    return build(EXAMPLE, ROOT, target="example", arguments={"BASE": images.base.name})


def build(
    tag: str,
    context: Path,
    *,
    target: str | None = None,
    file: Path | None = None,
    arguments: Mapping[str, str] | None = None,
) -> str:
    """Build an image, and return its tag. Raises `DockerError`."""
    command = ["build", "--quiet", "--tag", tag]
    if target is not None:
        command += ["--target", target]
    if file is not None:
        command += ["--file", str(file)]
    for name, value in (arguments or {}).items():
        command += ["--build-arg", f"{name}={value}"]
    for name in PIP_SETTINGS:
        command += ["--build-arg", name]
    docker(*command, str(context), timeout=BUILDING)
    return tag


def derive(name: str, dockerfile: str, files: Mapping[str, Path], folder: Path) -> str:
    """Build a worker's image as users do: `FROM leveret-worker` means the one under test."""
    folder.mkdir(parents=True)
    lines = dockerfile.replace("FROM leveret-worker\n", f"FROM {WORKER}\n")
    assert lines != dockerfile, "it is not derived from the worker's image"
    (folder / "Dockerfile").write_text(lines)
    for target, source in files.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / target).write_bytes(source.read_bytes())
    return build(f"leveret-{name}:{TAG}", folder)
