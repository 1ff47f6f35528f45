"""Log lines for machines."""

import io
import json
import logging
import sys
from collections.abc import Generator
from typing import Any

import pytest

from leveret_broker.logs import EventLogger, JsonLines, Tally, redacted


@pytest.fixture
def output() -> Generator[io.StringIO]:
    """What the logger `test.lines` writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("test.lines")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield written
    logger.removeHandler(handler)
    logger.propagate = True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def only_line(output: io.StringIO) -> dict[str, Any]:
    (line,) = output.getvalue().splitlines()
    read: dict[str, Any] = json.loads(line, parse_constant=_refuse)
    return read


def test_a_line_is_one_object_with_its_fields(output: io.StringIO) -> None:
    EventLogger("test.lines").info("worker\nready", worker="w", serves=["a:b:1"], until=None)
    line = only_line(output)
    time = line.pop("time")
    assert len(time) == len("2026-11-23T15:19:18.512Z")
    assert time.endswith("Z")
    assert line == {
        "level": "info",
        "logger": "test.lines",
        "message": "worker\nready",
        "worker": "w",
        "serves": ["a:b:1"],
        "until": None,
    }


def test_what_a_user_logs_is_a_line_as_well(output: io.StringIO) -> None:
    logging.getLogger("test.lines").warning("epoch %d", 3, extra={"loss": 0.5, "path": sys})
    line = only_line(output)
    assert (line["message"], line["level"], line["loss"]) == ("epoch 3", "warning", 0.5)
    assert "module 'sys'" in line["path"]


def test_an_exception_is_a_field(output: io.StringIO) -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        EventLogger("test.lines").exception("failed")
    line = only_line(output)
    assert line["message"] == "failed"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: broken\nin two")


def test_what_json_does_not_know_is_told_as_text(output: io.StringIO) -> None:
    EventLogger("test.lines").info("trained", loss=float("nan"), by={(1, 2): 3}, seconds=1)
    line = only_line(output)
    assert (line["loss"], line["by"], line["message"]) == ("nan", "{(1, 2): 3}", "trained")


def test_a_field_takes_no_other_ones_place(output: io.StringIO) -> None:
    EventLogger("test.lines").info("it", message="said", level="high")
    line = only_line(output)
    assert (line["message"], line["message_"], line["level"], line["level_"]) == (
        "it",
        "said",
        "info",
        "high",
    )


def test_no_url_in_a_line_has_a_password(output: io.StringIO) -> None:
    url = "amqp://keeper:secret@host/v"
    try:
        raise ValueError(f"no way to {url}")
    except ValueError:
        EventLogger("test.lines").exception(f"lost {url}", where=url, more=[{"url": url}])
    assert "secret" not in output.getvalue()
    assert output.getvalue().count("amqp://keeper:***@host/v") == 4
    only_line(output)


@pytest.mark.parametrize("text", ["12:30 amqp://host:5672/a@b", "a@b: c", "http://host/x:y@z"])
def test_what_is_no_password_stays(text: str) -> None:
    assert redacted(text) == text


def test_of_what_comes_in_floods_few_lines_are_logged_and_all_are_counted(
    output: io.StringIO,
) -> None:
    tally = Tally(EventLogger("test.lines").warning, "dropped")
    for number in range(1, 1001):
        tally.add(number=number)
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [line["count"] for line in lines] == [2**power for power in range(10)]
    assert lines[-1]["number"] == 512
    assert tally.count == 1000
