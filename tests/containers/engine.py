"""A Docker engine: one that answers, or in CI one that is installed and started here.

CI installs Debian's packages if it may (Linux, root, apt), starts `dockerd`, and stops it in the
end. Nothing of the kind happens on a laptop.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from tests import rabbit

Report = Callable[[str], None]

PACKAGES = ("docker.io", "debootstrap")
STARTUP_TIMEOUT = 60.0
CGROUPS = Path("/sys/fs/cgroup")


class NoEngine(Exception):
    """There is no Docker engine here. The text says why, and what to do."""


class DockerError(Exception):
    """A `docker` command failed; the text is its complaint."""


def docker(*arguments: str, timeout: float = 120.0) -> str:
    """Run `docker …` and return what it prints. Raises `DockerError`."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        told = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise DockerError(f"docker {' '.join(arguments)}: {told}")
    return done.stdout.strip()


@contextmanager
def running_engine(report: Report) -> Generator[None]:
    """An engine that answers while this lasts. Raises `NoEngine`."""
    why = problem()
    if why is None:
        yield
        return
    if not os.environ.get("CI"):
        raise NoEngine(f"{why}: start Docker; with CI=1 and as root on Debian it is installed")
    if not rabbit.can_install() or os.environ.get("DOCKER_HOST"):
        raise NoEngine(f"{why}, and none may be installed: that takes root on Debian or Ubuntu")
    if shutil.which("dockerd") is None or shutil.which("docker") is None:
        report(f"{why}: installing {' '.join(PACKAGES)}")
        rabbit.install(PACKAGES)
    with _started(report):
        yield


def problem() -> str | None:
    """Why there is no engine; `None` if one answers."""
    if shutil.which("docker") is None:
        return "there is no `docker` command"
    try:
        docker("version", "--format", "{{.Server.Version}}", timeout=10)
    except (DockerError, subprocess.TimeoutExpired):
        return "no Docker engine answers"
    return None


@contextmanager
def _started(report: Report) -> Generator[None]:
    with tempfile.TemporaryDirectory(prefix="leveret-dockerd-") as folder:
        log = Path(folder) / "log"
        report(f"starting dockerd, log in {log}")
        _mount_cgroups()
        with log.open("wb") as output:
            daemon = subprocess.Popen(
                ["dockerd"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        watcher = rabbit.end_with_this_process(daemon)
        try:
            _await(daemon, log)
            yield
        finally:
            rabbit.dismiss(watcher)
            rabbit.end(daemon)


def _mount_cgroups() -> None:
    """What an init system does elsewhere; a container or a small machine may have none."""
    script = shutil.which("cgroupfs-mount")
    if script is not None and not any(CGROUPS.iterdir()):
        subprocess.run([script], check=True)


def _await(daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT
    while problem() is not None:
        if daemon.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise NoEngine(f"this machine does not let dockerd run:\n{tail}")
        time.sleep(0.1)
