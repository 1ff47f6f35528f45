"""The suite's own RabbitMQ ends with the suite, however that ends."""

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0

WATCHED = """
import subprocess, time
from tests.rabbit import end_with_this_process
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
watcher = end_with_this_process(child)
print("started", flush=True)
time.sleep(600)
"""

INTERRUPTED = """
import time
from tests.rabbit import interrupted_by_sigterm
with interrupted_by_sigterm():
    try:
        print("started", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("cleaned up", flush=True)
"""


def started(program: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'broker'}", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def test_what_is_watched_ends_when_the_suite_is_killed() -> None:
    process = started(WATCHED)
    process.kill()
    process.communicate(timeout=PATIENCE)  # until everybody who held its output has ended


def test_sigterm_interrupts_the_suite() -> None:
    process = started(INTERRUPTED)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert output == "cleaned up\n"
