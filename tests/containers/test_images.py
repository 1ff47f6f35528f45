"""The images as they are: who runs in them, what is in them, and what they say without an app."""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer

from tests.acceptance.apps import load
from tests.acceptance.durable import KEY
from tests.acceptance.processes import EXAMPLE, ROOT
from tests.containers.engine import docker
from tests.containers.images import Images, build_example, derive
from tests.containers.site import CATALOG, Site

LOAD = "tests.acceptance.apps.load"
NOBODY = "10001"


async def test_services_run_without_rights_answer_from_outside_and_stop_with_0(
    site: Site, apps: str
) -> None:
    """They have a root file system that they can't write to."""
    coordinator, worker = site.coordinator(), site.worker(apps, LOAD, "--processes", "1")
    site.let_pass()
    async with site.client():
        assert await load.relay(1) == 1
        assert await load.carry_in_a_process(2) == 2
    for service in (worker, coordinator):
        assert service.printed("id", "-u") == NOBODY
        for line in service.text().splitlines():
            assert json.loads(line)["message"]
        assert service.stop() == 0, service.text()


@pytest.mark.parametrize("which", ["coordinator", "worker"])
def test_nothing_that_built_an_image_is_left_in_it(images: Images, which: str) -> None:
    image = str(getattr(images, which))
    tools = "gcc cc g++ make git cargo"
    look = (
        f"for tool in {tools}; do command -v $tool; done; "
        "ls -d /source /wheels /requirements.txt; "
        "find / -xdev \\( -name '*.whl' -o -path '*/.cache/pip' -o -path '*/pip/http*' \\) "
        "-not -path '*/python-wheels/*' -not -path '*/ensurepip/*'; true"
    )
    found = docker("run", "--rm", "--entrypoint", "sh", image, "-c", look)
    assert found == ""
    variables = json.loads(docker("inspect", "--format", "{{json .Config.Env}}", image))
    assert not [each for each in variables if each.startswith("PIP_")]
    assert "PIP_" not in docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)


@pytest.mark.parametrize(
    ("which", "volume_of_it"),
    [("coordinator", "/var/lib/leveret"), ("worker", "/var/cache/leveret")],
)
def test_what_runs_in_an_image_can_write_to_nothing_but_its_volume(
    images: Images, which: str, volume_of_it: str
) -> None:
    folders = "find / -type d -writable -not -path '/proc/*' -not -path '/dev*'; true"
    image = str(getattr(images, which))
    found = docker("run", "--rm", "--entrypoint", "sh", image, "-c", folders)
    for_all = {"/tmp", "/var/tmp", "/run/lock"}
    assert set(found.splitlines()) - for_all == {volume_of_it}


def test_a_worker_without_an_app_says_what_to_do(site: Site, images: Images) -> None:
    worker = site.start(DockerContainer(images.worker))
    assert worker.ended() == 2
    assert "nothing to serve: name a module or a file" in worker.text()
    assert "LEVERET_APP" in worker.text()
    assert "Traceback" not in worker.text()


def test_a_catalog_on_a_volume_that_can_not_be_written_to_is_refused(
    site: Site, images: Images, volume: str
) -> None:
    container = DockerContainer(images.coordinator).with_volume_mapping(volume, CATALOG, "ro")
    coordinator = site.start(container)
    assert coordinator.ended() == 2
    assert f"{CATALOG}/catalog.sqlite" in coordinator.text()
    assert "Traceback" not in coordinator.text()


async def test_three_lines_make_a_workers_image_as_the_readme_says(
    site: Site, tmp_path: Path
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    program = re.search(r"<!-- runs: squares.py -->\n```python\n(.*?)^```", text, re.M | re.S)
    dockerfile = re.search(r"^```dockerfile\n(.*?)^```", text, re.M | re.S)
    assert program is not None
    assert dockerfile is not None
    (file := tmp_path / "squares.py").write_text(program[1])
    assert len(dockerfile[1].splitlines()) == 3
    image = derive("squares", dockerfile[1], {"squares.py": file}, tmp_path / "image")
    site.coordinator()
    site.worker(image)
    assert await outside(site, str(file)) == "385\n"


async def test_the_example_runs_on_its_workers(site: Site, images: Images) -> None:
    image = build_example(images)
    site.coordinator()
    workers = [site.starting_worker(image, LEVERET_PROCESSES="1") for _ in range(2)]
    for worker in workers:
        worker.ready("worker ready")
    printed = await outside(site, str(EXAMPLE))
    assert re.search(r"Winner: learning rate .* accuracy on held-out images 0\.9", printed)


async def outside(site: Site, program: str) -> str:
    """What a program prints on this machine, which calls the containers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        program,
        stdout=asyncio.subprocess.PIPE,
        env={"LEVERET_URL": site.url, "LEVERET_KEY": KEY},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()
