"""Stand-ins for official images, made of Debian's packages by debootstrap and `docker import`.

They are made once: later sessions find them by their names, which change with the recipes. They
are for tests on this machine, and trust the authorities that the machine trusts.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import rabbit
from tests.containers.engine import NoEngine, Report, docker

SUITE = "trixie"
"""The Debian release, which has Python 3.13 and RabbitMQ 4.0."""
PACKAGES = "ca-certificates,python3,python3-venv"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Those that this machine trusts."""
SCRIPT = Path(__file__).with_name("debootstrap.sh")
RECIPE_OF_RABBITMQ = Path(__file__).with_name("rabbitmq")
MAKING = 600.0
"""Seconds that a step may take."""


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """An image that is made here."""

    name: str
    make: Callable[[Report], None]


def _make_python(report: Report) -> None:
    """A Debian with Python and nothing else. Raises `NoEngine` if that can't be made here."""
    _need_debootstrap(report)
    report(f"making {PYTHON.name} of Debian's packages ({SUITE})")
    begun = time.monotonic()
    _import([str(SCRIPT), SUITE, PACKAGES, AUTHORITIES], PYTHON.name)
    report(f"made in {time.monotonic() - begun:.0f} s")


def _make_rabbitmq(report: Report) -> None:
    """The same Debian with RabbitMQ, its management, and the official image's ways."""
    from tests.containers.offline.bases import is_here

    if not is_here(PYTHON.name):
        _make_python(report)
    report(f"making {RABBITMQ.name} from {PYTHON.name}")
    begun = time.monotonic()
    arguments = ("--quiet", "--build-arg", f"BASE={PYTHON.name}", "--tag", RABBITMQ.name)
    docker("build", *arguments, str(RECIPE_OF_RABBITMQ), timeout=MAKING)
    report(f"made in {time.monotonic() - begun:.0f} s")


def _recipe() -> str:
    parts = [SUITE, PACKAGES, SCRIPT.read_text()]
    parts += [path.read_text() for path in sorted(RECIPE_OF_RABBITMQ.iterdir())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


PYTHON = StandIn(name=f"leveret-offline/python:{SUITE}-{_recipe()}", make=_make_python)
RABBITMQ = StandIn(name=f"leveret-offline/rabbitmq:{SUITE}-{_recipe()}", make=_make_rabbitmq)


def _need_debootstrap(report: Report) -> None:
    if os.geteuid() != 0:
        raise NoEngine("base images can't be pulled, and only root can make stand-ins")
    if shutil.which("debootstrap") is not None:
        return
    if not (os.environ.get("CI") and rabbit.can_install()):
        raise NoEngine("base images can't be pulled: install debootstrap, which makes stand-ins")
    report("installing debootstrap")
    rabbit.install(["debootstrap"])


def _import(command: list[str], name: str) -> None:
    """Make an image of the tar that a command prints."""
    with tempfile.TemporaryFile() as complaints:
        making = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints)
        importing = ["docker", "import", "--change", 'CMD ["python3"]', "-", name]
        done = subprocess.run(
            importing, stdin=making.stdout, capture_output=True, timeout=MAKING, check=False
        )
        making.communicate()
        if making.returncode or done.returncode:
            complaints.seek(0)
            told = (complaints.read() + done.stderr).decode(errors="replace")[-2000:]
            raise NoEngine(f"no stand-in can be made: {command[0]} failed:\n{told}")
