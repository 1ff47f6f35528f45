"""Every setting of a service can come from its environment."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from leveret.cli import services

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS: dict[str, click.Command] = {
    "coordinator": services.coordinator,
    "worker": services.worker,
}


def settings_of(command: click.Command) -> list[click.Parameter]:
    return [each for each in command.params if each.name != "help"]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_setting_has_its_variable_in_the_help_and_in_the_table(name: str) -> None:
    command = COMMANDS[name]
    table = re.findall(r"^\| (`LEVERET_.*?) \| (.*?) \|", README, re.MULTILINE)
    shown = " ".join(command.get_help(click.Context(command)).split())
    for setting in settings_of(command):
        variable = setting.envvar
        assert isinstance(variable, str), setting.name
        assert variable.startswith("LEVERET_")
        assert variable in shown
        (option,) = [option for given, option in table if f"`{variable}`" in given]
        for spelled in setting.opts:
            assert spelled.startswith("--") is (spelled in option), variable


WRONG = {
    "coordinator": {
        "LEVERET_WORKER_SILENT_AFTER": "1",
        "LEVERET_PAYLOAD_GRACE": "long",
        "LEVERET_CATALOG": "/",
        "LEVERET_LOG_FORMAT": "xml",
        "LEVERET_STANDBY": "perhaps",
        "LEVERET_TLS_VERIFY": "perhaps",
        "LEVERET_CONNECT_TIMEOUT": "0",
    },
    "worker": {
        "LEVERET_SLOTS": "0",
        "LEVERET_DRAIN": "-1",
        "LEVERET_ACCEPT_CODE": "perhaps",
        "LEVERET_APP": "nowhere.py",
        "LEVERET_PROJECT": "a:b",
        "LEVERET_PAYLOAD_THRESHOLD": "much",
    },
}


@pytest.mark.parametrize(
    ("name", "variable"), [(name, variable) for name, given in WRONG.items() for variable in given]
)
def test_a_bad_value_is_told_by_the_name_of_its_variable(name: str, variable: str) -> None:
    value = WRONG[name][variable]
    kept = {key: value for key, value in os.environ.items() if "LEVERET" not in key}
    app = {"LEVERET_APP": "tests/acceptance/app.py", "LEVERET_URL": "amqp://127.0.0.1:1/"}
    done = subprocess.run(
        [sys.executable, "-m", "leveret", name],
        env={**kept, **app, variable: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert variable in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_without_an_app_says_what_to_do() -> None:
    kept = {key: value for key, value in os.environ.items() if "LEVERET" not in key}
    done = subprocess.run(
        [sys.executable, "-m", "leveret", "worker"],
        env=kept,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    for way_out in ("APP", "LEVERET_APP", "--accept-code"):
        assert way_out in done.stderr
