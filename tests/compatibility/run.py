"""Runs the tests that talk to RabbitMQ against one version after another, and prints a table.

A NODE is `debian:SUITE` or `ubuntu:SUITE`, that release's package in a container; an image that
holds RabbitMQ, such as `rabbitmq:4.2`; or the URL of a broker that runs, which the command in
`LEVERET_TEST_CTL` controls.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from tests.compatibility.nodes import Node, running
from tests.containers.engine import DockerError

TESTS = ("tests/broker", "tests/integration")
OWN = ("tests/broker/test_tls.py", "tests/integration/test_broken_queues.py")
"""They start nodes of what is installed here, whichever broker is given."""
NODES = (
    *("ubuntu:focal", "debian:bullseye", "ubuntu:jammy", "debian:bookworm"),
    *("ubuntu:noble", "debian:trixie", "debian:sid"),
)
"""Debian's and Ubuntu's releases with a RabbitMQ of their own, oldest first."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the tests made of one node."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if something failed or could not be tried."""
    parser = argparse.ArgumentParser(
        prog="scripts/compatibility",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("nodes", metavar="NODE", nargs="*", default=NODES)
    parser.add_argument("--tests", metavar="PATH", action="append", help=f"not {' '.join(TESTS)}")
    given = parser.parse_args(arguments)
    rows: list[str] = []
    is_fine = True
    for name in given.nodes:
        try:
            with running(name) as node:
                result = _tested(node, given.tests or TESTS)
        except DockerError as error:
            print(f"{name} can't be tried: {error}", file=sys.stderr)
            is_fine = False
            continue
        rows.append(_row(node, result))
        is_fine = is_fine and not result.failed and result.passed > 0
    today = datetime.now(UTC).date()
    print(f"\nPython {sys.version.split()[0]}, {today}\n", *_HEAD, *rows, sep="\n")
    return 0 if is_fine else 1


def _tested(node: Node, tests: Sequence[str]) -> Result:
    print(f"\n#### {node.name}: RabbitMQ {node.rabbitmq}, Erlang {node.erlang}", flush=True)
    control = shlex.join(node.control)
    environment = {**os.environ, "LEVERET_TEST_URL": node.url, "LEVERET_TEST_CTL": control}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        ignored = [f"--ignore={path}" for path in OWN]
        pytest = ("-m", "pytest", "-q", "-m", "rabbitmq", f"--junitxml={report}", *ignored, *tests)
        subprocess.run([sys.executable, *pytest], env=environment, check=False)
        return _read(report) if report.exists() else Result(failed=1)


def _read(report: Path) -> Result:
    suite = next(ElementTree.parse(report).iter("testsuite"))
    tests, failures, errors, skipped = (
        int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return Result(passed=tests - failed - skipped, failed=failed, skipped=skipped)


_HEAD = ("| node | RabbitMQ | Erlang | passed | failed | skipped |", "|---|---|---|---|---|---|")


def _row(node: Node, result: Result) -> str:
    counts = (str(count) for count in (result.passed, result.failed, result.skipped))
    return f"| {' | '.join((node.name, node.rabbitmq, node.erlang, *counts))} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
