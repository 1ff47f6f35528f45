"""The commands that need no cluster, as processes."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from leveret.cli import COMMANDS
from leveret.keys import key_id, load_key

APP = """
from leveret import define

@define.task(version="1.0", description="Adds.")
def add(a: int, b: int = 1) -> int:
    return a + b

@define.task
async def fail() -> None:
    raise ValueError("oh")

@define.workflow
async def total(numbers: list[int]) -> int:
    result = 0
    for number in numbers:
        result = await add(result, number)
    return result
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def leveret(
    *command: str, folder: Path | None = None, given: str = "", **environment: str
) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if "LEVERET" not in name}
    return subprocess.run(
        [sys.executable, "-m", "leveret", *command],
        input=given,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, **environment},
        timeout=60,
        check=False,
    )


def test_every_command_explains_itself() -> None:
    assert set(COMMANDS) <= set(leveret("--help").stdout.split())
    for command in COMMANDS:
        done = leveret(command, "--help")
        assert done.returncode == 0
        assert "Usage: leveret" in done.stdout


def test_an_unknown_command_or_option_is_wrong_usage() -> None:
    for command in (["nonsense"], ["workers", "--nonsense"], ["worker"]):
        assert leveret(*command).returncode == 2


def test_a_key_is_fit_for_its_use() -> None:
    first, second = (leveret("key", "new").stdout.strip() for _ in range(2))
    assert first != second
    assert len(load_key(first)) >= 32


def test_a_key_file_is_made_once_for_nobody_else_to_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    done = leveret("key", "new", "--file", str(path))
    assert (done.returncode, done.stdout) == (0, "")
    assert path.stat().st_mode & 0o777 == 0o600
    key = load_key(path.read_text())
    assert leveret("key", "new", "--file", str(path)).returncode == 2
    assert load_key(path.read_text()) == key
    assert leveret("key", "ids").returncode == 2
    ids = leveret("key", "ids", LEVERET_KEY_FILE=str(path))
    assert ids.stdout == f"{key_id(key).hex()}\n"


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (["add", "--input", "[40, 2]"], "42\n"),
        (["add:1.0", "--input", '{"a": 41}'], "42\n"),
        (["total", "--input", "[[1, 2, 3]]"], "6\n"),
    ],
)
def test_run_prints_the_result_and_nothing_else(
    app: Path, command: list[str], printed: str
) -> None:
    done = leveret("run", *command, "--app", str(app))
    assert (done.stdout, done.returncode) == (printed, 0)


def test_run_takes_its_input_from_a_file(app: Path, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text("[40, 2]")
    done = leveret("run", "add", "--app", "app.py", "--input", "@input.json", folder=tmp_path)
    assert done.stdout == "42\n"


def test_run_prints_one_json_document_if_asked(app: Path) -> None:
    done = leveret("run", "add", "--input", "[40, 2]", "--app", str(app), "--json")
    document = json.loads(done.stdout)
    assert document.pop("run").startswith("run_")
    assert document == {"state": "succeeded", "result": 42}


def test_a_failed_run_is_told_on_standard_error_and_by_the_exit_code(app: Path) -> None:
    done = leveret("run", "fail", "--app", str(app), "--json")
    assert done.returncode == 1
    assert "failed: ValueError: oh" in done.stderr
    assert 'raise ValueError("oh")' in done.stderr
    document = json.loads(done.stdout)
    assert document["state"] == "failed"
    assert document["failure"]["type"] == "ValueError"


def test_an_unknown_name_is_not_found(app: Path) -> None:
    done = leveret("run", "addd", "--app", str(app))
    assert done.returncode == 3
    assert "add" in done.stderr


def test_dev_serves_and_runs_what_is_typed(app: Path) -> None:
    typed = 'add [1, 2]\ntotal {"numbers": [1, 2]}\nnonsense\nadd {\nruns\n'
    done = leveret("dev", str(app), given=typed)
    assert done.returncode == 0
    assert "task      default:add:1.0  Adds." in done.stdout
    assert done.stdout.splitlines().count("3") == 2
    assert "succeeded  default:total:1" in done.stdout
    assert "nonsense" in done.stderr
    assert "not JSON" in done.stderr


def test_dev_keeps_its_state_in_a_folder(app: Path, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    leveret("dev", str(app), "--state", state, given="add [1]\n")
    assert (
        "succeeded  default:add:1.0"
        in leveret("dev", str(app), "--state", state, given="runs\n").stdout
    )


def test_progress_is_a_live_tree_on_a_terminal(app: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "leveret",
                "run",
                "total",
                "--input",
                "[[1]]",
                "--app",
                str(app),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=60,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LEVERET_URL": ""},
            check=False,
        )
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.stdout == b"1\n"
    assert "└── " in shown
    assert "✓" in shown
