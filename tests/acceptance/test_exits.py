"""`leveret run` ends with its own exit codes, whatever the run's code tries to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

APP = """
import sys
from leveret import define

@define.task
async def leave(code: int) -> None:
    sys.exit(code)

@define.task
def interrupt() -> None:
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize(
    ("what", "given", "told"),
    [
        ("leave", '{"code": 0}', "SystemExit: 0"),
        ("leave", '{"code": 4}', "SystemExit: 4"),
        ("interrupt", "{}", "KeyboardInterrupt"),
    ],
)
def test_a_run_whose_code_leaves_has_failed(
    tmp_path: Path, what: str, given: str, told: str
) -> None:
    (tmp_path / "bye.py").write_text(APP, encoding="utf-8")
    command = [sys.executable, "-m", "leveret", "run", what, "--app", "bye.py", "--json"]
    done = subprocess.run(
        [*command, "--input", given],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert f"failed: {told}" in done.stderr
    assert json.loads(done.stdout)["state"] == "failed"
