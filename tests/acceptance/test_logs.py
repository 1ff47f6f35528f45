"""Services log JSON lines, nothing else, with what their users log among them."""

import json
from typing import Any

import pytest

from tests.acceptance.processes import Process, Site

pytestmark = pytest.mark.rabbitmq

APP = """
import logging, warnings
from leveret import define

log = logging.getLogger("vision.app")

@define.task
def in_a_child(number: int) -> int:
    log.info("counted", extra={"number": number})
    return number

@define.task
async def on_the_loop(number: int) -> int:
    warnings.warn("odd\\nnumber")
    log.warning("counted to %s", "amqp://a:secret@b/")
    return await fails(number)

async def fails(number: int) -> int:
    try:
        return number // 0
    except ZeroDivisionError:
        log.exception("no division")
        return 0

@define.workflow
async def both() -> int:
    log.info("begins")
    return await in_a_child(1) + await on_the_loop(2)
"""


def lines(service: Process) -> list[dict[str, Any]]:
    """All that it wrote: each line is an object, and begins in the same way."""
    found = [json.loads(line) for line in service.text().splitlines()]
    for line in found:
        assert list(line)[:4] == ["time", "level", "logger", "message"]
    return found


def test_all_that_a_service_writes_are_json_lines_that_say_where_they_belong(site: Site) -> None:
    (site.folder / "app.py").write_text(APP)
    environment = {"LEVERET_LOG_FORMAT": "json", "PYTHONWARNINGS": "always"}
    coordinator = site.start("coordinator", **environment).ready("coordinator ready")
    worker = site.start("worker", "app.py", **environment).ready("worker ready")
    assert site.run("run", "both").stdout == "1\n"
    assert worker.terminate() == coordinator.terminate() == 0
    assert lines(coordinator)
    told = lines(worker)
    of_runs = [line for line in told if "run" in line]
    assert [(line["logger"], line["message"], line["definition"]) for line in of_runs] == [
        ("vision.app", "begins", "default:both:1"),
        ("vision.app", "counted", "default:in_a_child:0"),
        ("py.warnings", of_runs[2]["message"], "default:on_the_loop:0"),
        ("vision.app", "counted to amqp://a:***@b/", "default:on_the_loop:0"),
        ("vision.app", "no division", "default:on_the_loop:0"),
    ]
    assert of_runs[1]["number"] == 1
    assert "odd\nnumber" in of_runs[2]["message"]
    assert "ZeroDivisionError" in of_runs[4]["exception"]
    assert {(line["attempt"], line["project"]) for line in of_runs} == {(1, "default")}
    assert len({line["run"] for line in of_runs}) == 3


def test_what_ends_a_service_is_a_line_as_well(site: Site) -> None:
    (site.folder / "broken.py").write_text("1 / 0\n")
    for command, told in (
        (["worker"], "LEVERET_APP"),
        (["worker", "broken.py"], "ZeroDivisionError"),
        (["worker", "--slots", "many"], "many"),
        (["coordinator", "--catalog", "/sys/catalog"], "/sys/catalog"),
    ):
        done = site.run(*command, LEVERET_LOG_FORMAT="json")
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert told in json.loads(line)["reason"]


def test_text_can_be_asked_for_where_there_is_no_terminal(site: Site) -> None:
    service = site.start("coordinator", "--log-format", "text").ready("coordinator ready")
    first = service.text().splitlines()[0]
    assert not first.startswith("{")
    assert "\x1b" not in first
    done = site.run("coordinator", LEVERET_LOG_FORMAT="xml")
    assert done.returncode == 2
    assert "LEVERET_LOG_FORMAT" in done.stderr
