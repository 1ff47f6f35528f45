"""The servers that peers need: private ones, started when the first peer asks, with data apart."""

import os
import pwd
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from benchmarks.peer import Server
from tests import rabbit

DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
STARTS_WITHIN = 30.0


class Unavailable(Exception):
    """A server is not installed. The message says what to install."""


class Servers(AbstractContextManager["Servers"]):
    """All of them; `fresh` starts what is needed."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._folder = folder
        self._report = report
        self._running = ExitStack()
        self._started: dict[Server, Callable[[], str]] = {}

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def fresh(self, server: Server) -> str:
        """The URL of a part of the server that nobody has used. Raises `Unavailable`."""
        if server not in self._started:
            start = {"rabbitmq": self._rabbitmq, "redis": self._redis, "postgres": self._postgres}
            self._started[server] = start[server]()
        return self._started[server]()

    def _rabbitmq(self) -> Callable[[], str]:
        scripts = rabbit.installed_scripts()
        if scripts is None:
            raise Unavailable("there is no RabbitMQ: apt-get install rabbitmq-server")
        node = self._running.enter_context(rabbit.own_node(scripts, self._report))
        return rabbit.VirtualHosts(node).take

    def _redis(self) -> Callable[[], str]:
        command = shutil.which("redis-server")
        if command is None:
            raise Unavailable("there is no Redis: apt-get install redis-server")
        (port,) = rabbit.free_ports(1)
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._spawn("redis", [command, *options, "--dir", str(self._folder)])
        client = [shutil.which("redis-cli") or "redis-cli", "-p", str(port)]
        _until(lambda: _succeeds([*client, "ping"]), "Redis starts")

        def emptied() -> str:
            subprocess.run([*client, "flushall"], check=True, capture_output=True)
            return f"redis://127.0.0.1:{port}/0"

        return emptied

    def _postgres(self) -> Callable[[], str]:
        scripts = _postgres_scripts()
        if scripts is None:
            raise Unavailable("there is no PostgreSQL: apt-get install postgresql")
        data, (port,) = self._folder / "postgres", rabbit.free_ports(1)
        data.mkdir()
        user = _unprivileged(data)
        local = ["-A", "trust", "-U", "bench", "-E", "UTF8", "--no-locale"]
        _run([*user, str(scripts / "initdb"), "-D", str(data), *local])
        options = ["-p", str(port), "-k", "", "-c", "listen_addresses=127.0.0.1"]
        self._spawn("postgres", [*user, str(scripts / "postgres"), "-D", str(data), *options])
        at = ["-h", "127.0.0.1", "-p", str(port), "-U", "bench"]
        _until(lambda: _succeeds([str(scripts / "pg_isready"), *at]), "PostgreSQL starts")

        def created() -> str:
            name = f"bench_{secrets.token_hex(4)}"
            _run([str(scripts / "createdb"), *at, name])
            return f"postgresql://bench@127.0.0.1:{port}/{name}"

        return created

    def _spawn(self, name: str, command: list[str]) -> None:
        self._report(f"starting {name}")
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._folder,
            )
        watcher = rabbit.end_with_this_process(process)
        self._running.callback(rabbit.end, process)
        self._running.callback(rabbit.dismiss, watcher)


def _postgres_scripts() -> Path | None:
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else sorted(DEBIAN_POSTGRES.glob("*/bin"))
    return folders[-1] if folders else None


def _unprivileged(data: Path) -> list[str]:
    """PostgreSQL refuses to run as root: then it runs as Debian's user for it."""
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise Unavailable(
            "PostgreSQL does not run as root, and there is no user postgres"
        ) from None
    os.chown(data, user.pw_uid, user.pw_gid)
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"never came true: {what}")
        time.sleep(0.05)
