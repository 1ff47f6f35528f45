"""Where the suite's RabbitMQ comes from, in this order:

1. `LEVERET_TEST_URL`, a broker that is there already. Some tests control it through `rabbitmqctl`:
   `LEVERET_TEST_CTL` is the command for that, such as `docker exec broker rabbitmqctl`.
2. A `rabbitmq-server` on this machine, started as a private node with its own name, ports, cookie
   and folder. A node that runs already is never touched.
3. Docker, through testcontainers.
4. On Debian and Ubuntu, as root: the distribution's package is installed, then 2.

Without any of these, tests are skipped on a laptop and fail in CI (`CI` is set).
"""

import os
import platform
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

import pytest

from leveret_broker.urls import redact

STARTUP_TIMEOUT = 60.0
DEBIAN_SCRIPTS = Path("/usr/lib/rabbitmq/bin")
"""The scripts themselves: those in Debian's /usr/sbin switch to the user of the system's node."""
DOCKER_IMAGE = "rabbitmq:4"


def missing(what: str) -> NoReturn:
    """Skip the test for want of something; in CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (in CI this is an error)", pytrace=False)
    pytest.skip(what)


class RabbitNode(ABC):
    """A running RabbitMQ."""

    url: str

    @abstractmethod
    def ctl(self, *args: str) -> str:
        """Run `rabbitmqctl` against the node and return what it prints."""

    def start(self) -> None:
        """Start the node again after `stop`."""
        missing(f"{type(self).__name__} can't be started and stopped")

    def stop(self) -> None:
        """Stop the node; what is durable is kept."""
        missing(f"{type(self).__name__} can't be started and stopped")

    def stop_app(self) -> None:
        """Stop RabbitMQ inside the node: connections are closed, durable queues are kept."""
        self.ctl("stop_app")

    def start_app(self) -> None:
        self.ctl("start_app")

    def close_all_connections(self) -> None:
        self.ctl("close_all_connections", "--global", "closed by a test")

    def url_of(self, vhost: str) -> str:
        return urlsplit(self.url)._replace(path="/" + quote(vhost, safe="")).geturl()


class GivenNode(RabbitNode):
    """The broker at `LEVERET_TEST_URL`."""

    def __init__(self, url: str, control: Sequence[str]) -> None:
        self.url = url
        self._control = control

    def ctl(self, *args: str) -> str:
        if not self._control:
            missing("this needs rabbitmqctl: set LEVERET_TEST_CTL, or unset LEVERET_TEST_URL")
        return _output([*self._control, "-q", *args], None)


class PrivateNode(RabbitNode):
    """A node of a RabbitMQ that is installed here, with nothing in common with any other."""

    def __init__(
        self, scripts: Path, folder: Path, *, settings: str = "", plugins: Sequence[str] = ()
    ) -> None:
        self._scripts = scripts
        self._folder = folder
        port, distribution, self._mapper_port = free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/"
        self._port = port
        self._server: subprocess.Popen[bytes] | None = None
        self._mapper: subprocess.Popen[bytes] | None = None
        self._watchers: dict[int, subprocess.Popen[bytes]] = {}
        home = folder / "home"
        home.mkdir()
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(20))
        cookie.chmod(0o400)
        (folder / "rabbitmq.conf").write_text(settings)
        (folder / "plugins").write_text(f"[{','.join(plugins)}].\n")
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"leveret-{os.getpid()}-{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        }

    @property
    def environment(self) -> dict[str, str]:
        """What makes another Erlang node find this one: its name, cookie and port mapper."""
        return self._environment

    @property
    def logs(self) -> Sequence[Path]:
        """What it writes of itself; gone with its folder."""
        return sorted(self._folder.glob("log/*.log"))

    def start(self) -> None:
        self._start_mapper()
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                [self._scripts / "rabbitmq-server"],
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        server = self._server
        self._watchers[server.pid] = end_with_this_process(server)

        def is_up() -> bool:
            if server.poll() is not None:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"rabbitmq-server ended with {server.returncode}:\n{tail}")
            return _answers(self._port)

        _wait_until(is_up, f"the private node did not start, see {log}")

    def stop(self) -> None:
        for process in (self._server, self._mapper):
            if process is not None:
                self._dismiss_watcher(process)
                end(process)
        self._server = self._mapper = None

    def kill(self) -> None:
        """End the node as a power cut would."""
        assert self._server is not None
        self._dismiss_watcher(self._server)
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        _wait_until(lambda: not _answers(self._port), "the node does not end")

    def ctl(self, *args: str) -> str:
        return _output([str(self._scripts / "rabbitmqctl"), "-q", *args], self._environment)

    def _dismiss_watcher(self, process: subprocess.Popen[bytes]) -> None:
        """Before the process ends, lest another one gets its number."""
        if watcher := self._watchers.pop(process.pid, None):
            dismiss(watcher)

    def _start_mapper(self) -> None:
        """Erlang's port mapper, as our own child: left to the node, it would outlive the suite."""
        mapper = shutil.which("epmd")
        if mapper is None or _answers(self._mapper_port):
            return
        self._mapper = subprocess.Popen(
            [mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._watchers[self._mapper.pid] = end_with_this_process(self._mapper)
        _wait_until(lambda: _answers(self._mapper_port), "epmd did not start")


class DockerNode(RabbitNode):
    """A node in a container."""

    def __init__(self) -> None:
        from testcontainers.core.container import DockerContainer

        self._container = DockerContainer(DOCKER_IMAGE).with_exposed_ports(5672)
        self._container.start()
        port = int(self._container.get_exposed_port(5672))
        host = self._container.get_container_host_ip()
        self.url = f"amqp://guest:guest@{host}:{port}/"
        _wait_until(self._is_up, "the container's RabbitMQ did not start")

    def ctl(self, *args: str) -> str:
        code, output = self._run(*args)
        if code:
            raise RuntimeError(f"rabbitmqctl {args[0]} failed: {output}")
        return output

    def remove(self) -> None:
        self._container.stop()

    def _is_up(self) -> bool:
        code, _ = self._run("await_startup")
        return code == 0

    def _run(self, *args: str) -> tuple[int | None, str]:
        result = self._container.exec(["rabbitmqctl", "-q", *args])
        assert isinstance(result.output, bytes)
        return result.exit_code, result.output.decode(errors="replace")


@contextmanager
def running_node(report: Callable[[str], None]) -> Generator[RabbitNode]:
    """The suite's RabbitMQ, stopped afterwards if it was started here; `report` gets the news."""
    install_if_needed(report)
    if url := os.environ.get("LEVERET_TEST_URL"):
        report(f"using {redact(url)} of LEVERET_TEST_URL")
        yield GivenNode(url, shlex.split(os.environ.get("LEVERET_TEST_CTL", "")))
    elif scripts := installed_scripts():
        yield from _private(scripts, report)
    elif _has_docker():
        yield from _in_docker(report)
    else:
        missing("there is no RabbitMQ: install rabbitmq-server or Docker, or set LEVERET_TEST_URL")


@contextmanager
def own_node(
    scripts: Path,
    report: Callable[[str], None],
    *,
    settings: str = "",
    plugins: Sequence[str] = (),
) -> Generator[PrivateNode]:
    """A private node for somebody who kills it, or wants it otherwise: the suite's has other users.

    `settings` are lines of its `rabbitmq.conf`.
    """
    yield from _private(scripts, report, settings=settings, plugins=plugins)


def installed_scripts() -> Path | None:
    """The folder with the scripts of a RabbitMQ that is installed here."""
    if (DEBIAN_SCRIPTS / "rabbitmq-server").exists():
        return DEBIAN_SCRIPTS
    found = shutil.which("rabbitmq-server")
    return Path(found).resolve().parent if found else None


def _private(
    scripts: Path,
    report: Callable[[str], None],
    *,
    settings: str = "",
    plugins: Sequence[str] = (),
) -> Generator[PrivateNode]:
    with tempfile.TemporaryDirectory(prefix="leveret-rabbitmq-") as folder:
        node = PrivateNode(scripts, Path(folder), settings=settings, plugins=plugins)
        report(f"starting a private node of {scripts} at {redact(node.url)}, files in {folder}")
        begun = time.monotonic()
        try:
            node.start()
            report(f"started in {time.monotonic() - begun:.1f} s")
            yield node
        finally:
            node.stop()


def _in_docker(report: Callable[[str], None]) -> Generator[RabbitNode]:
    report(f"starting a container of {DOCKER_IMAGE}")
    begun = time.monotonic()
    node = DockerNode()
    try:
        report(f"started in {time.monotonic() - begun:.1f} s at {redact(node.url)}")
        yield node
    finally:
        node.remove()


def _has_docker() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        answer = subprocess.run([docker, "info"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return answer.returncode == 0


# -- installing the distribution's package --------------------------------------------------------


def can_install() -> bool:
    """Whether Debian's packages may be installed."""
    return (
        platform.system() == "Linux"
        and os.geteuid() == 0
        and Path("/etc/debian_version").exists()
        and shutil.which("apt-get") is not None
    )


def install_if_needed(report: Callable[[str], None]) -> None:
    """Install a RabbitMQ if there is none to be had otherwise. `scripts/test` does it beforehand:
    the processes in which the tests run would get into each other's way."""
    if os.environ.get("LEVERET_TEST_URL") or installed_scripts() or _has_docker():
        return
    if can_install():
        _install(report)
        assert installed_scripts() is not None, "the package holds no rabbitmq-server"


def _install(report: Callable[[str], None]) -> None:
    """Install Debian's package without the system node that it starts."""
    report("installing the distribution's rabbitmq-server")
    before = _system_nodes()
    install(["rabbitmq-server"])
    if started := _system_nodes() - before:
        report(f"the package started a node all the same: stopping process {started}")
        for process in started:
            os.kill(process, signal.SIGTERM)


def install(packages: Sequence[str]) -> None:
    """Install Debian's packages, and start no service of theirs."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for arguments in (["update"], ["install", "-y", *packages]):
            _output(["apt-get", *arguments], environment)


@contextmanager
def _no_services() -> Generator[None]:
    """Debian's way to keep packages from starting what they install."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _system_nodes() -> set[int]:
    """The process ids of the RabbitMQ nodes that run on this machine."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"beam" in command.split(b"\0")[0] and b"rabbit" in command:
            found.add(int(entry.name))
    return found


# -- virtual hosts --------------------------------------------------------------------------------


class VirtualHosts:
    """Fresh virtual hosts, many at a time: a call of rabbitmqctl costs most of a second."""

    BATCH = 8

    def __init__(self, node: RabbitNode) -> None:
        self._node = node
        self._fresh: list[str] = []
        self._used: list[str] = []

    def take(self) -> str:
        """The URL of a virtual host that nobody has used."""
        if not self._fresh:
            self._replace_used()
        name = self._fresh.pop()
        self._used.append(name)
        return self._node.url_of(name)

    def remove_all(self) -> None:
        if self._used or self._fresh:
            self._evaluate(self._used + self._fresh, [])

    def _replace_used(self) -> None:
        fresh = [f"leveret-{secrets.token_hex(6)}" for _ in range(self.BATCH)]
        self._evaluate(self._used, fresh)
        self._fresh, self._used = fresh, []

    def _evaluate(self, old: list[str], new: list[str]) -> None:
        user = unquote(urlsplit(self._node.url).username or "guest")
        everything = ", ".join([_erlang(".*")] * 3)
        self._node.ctl(
            "eval",
            f"[rabbit_vhost:delete(V, {_erlang(user)}) || V <- {_erlang_list(old)}], "
            f"[begin rabbit_vhost:add(V, {_erlang(user)}), "
            "rabbit_auth_backend_internal:set_permissions("
            f"{_erlang(user)}, V, {everything}, {_erlang(user)}) end "
            f"|| V <- {_erlang_list(new)}], ok.",
        )


def _erlang(text: str) -> str:
    return f'<<"{text}">>'


def _erlang_list(texts: list[str]) -> str:
    return "[" + ", ".join(map(_erlang, texts)) + "]"


# -- processes and ports --------------------------------------------------------------------------


def _output(command: Sequence[str], environment: dict[str, str] | None) -> str:
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


@contextmanager
def interrupted_by_sigterm() -> Generator[None]:
    """SIGTERM ends the suite as Ctrl-C does, cleaning up behind it."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_this_process(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """A watcher that kills the process's group when this process ends, however it does.

    It waits for the end of a pipe that only this process holds open.
    """
    return subprocess.Popen(
        ["sh", "-c", 'cat; kill -s KILL -- "-$0"', str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def dismiss(watcher: subprocess.Popen[bytes]) -> None:
    """End a watcher, and not what it watches."""
    os.killpg(watcher.pid, signal.SIGKILL)
    watcher.communicate()


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM for the process's group, then SIGKILL."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_ports(number: int) -> list[int]:
    """Ports on this machine that nobody uses just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{otherwise} within {STARTUP_TIMEOUT:g} s")
        time.sleep(0.05)


if __name__ == "__main__":
    install_if_needed(print)
