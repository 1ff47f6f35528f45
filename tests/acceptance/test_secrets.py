"""Passwords and keys are in nothing that a command writes, and in no list of processes."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

import leveret
from leveret_broker import command_line
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.urls import parse, redact
from tests import rabbit
from tests.acceptance.processes import Site, until

PASSWORD = "a very/secret@word#1?"
"""With all that a URL can't hold as it is."""
QUOTED = quote(PASSWORD, safe="")
KEY = "bm90IGEga2V5IGJ1dCBhIHNlY3JldA"  # too short, so that it is complained about
COMMANDS = [
    ["coordinator"],
    ["worker", "app.py"],
    ["run", "answer"],
    ["resolve", "answer"],
    ["definitions"],
    ["runs", "list"],
    ["workers"],
    ["why", "run_1"],
]
APP = """
from leveret import define

@define.task
def answer() -> int:
    return 42
"""


def secrets_in(text: str) -> list[str]:
    """The parts of our secrets that a text gives away, however it spells them."""
    parts = [PASSWORD, QUOTED, KEY, "secret@word", "secret%40word", "very/", "very%2F", "word#1"]
    return [part for part in parts if part.lower() in text.lower()]


@pytest.fixture
def secretive(site: Site, rabbit_node: rabbit.RabbitNode) -> Generator[Site]:
    """A site whose broker knows a user with our password."""
    rabbit_node.ctl("add_user", "keeper", PASSWORD)
    vhost = urlsplit(site.url).path[1:]
    rabbit_node.ctl("set_permissions", "-p", vhost, "keeper", ".*", ".*", ".*")
    parts = urlsplit(site.url)
    site.url = f"amqp://keeper:{QUOTED}@{parts.hostname}:{parts.port}/{vhost}"
    (site.folder / "app.py").write_text(APP)
    yield site
    rabbit_node.ctl("delete_user", "keeper")


def _with_password(url: str, password: str) -> str:
    return url.replace(QUOTED, password)


FAILURES: dict[str, Callable[[str], dict[str, str]]] = {
    "wrong password": lambda url: {"LEVERET_URL": _with_password(url, f"wrong-{QUOTED}")},
    "unquoted password": lambda url: {"LEVERET_URL": _with_password(url, PASSWORD)},
    "no scheme": lambda url: {"LEVERET_URL": url.removeprefix("amqp://")},
    "no such virtual host": lambda url: {"LEVERET_URL": f"{url}-nowhere"},
    "nobody listens": lambda url: {"LEVERET_URL": f"amqp://keeper:{QUOTED}@127.0.0.1:1/"},
    "no such host": lambda url: {"LEVERET_URL": f"amqp://keeper:{QUOTED}@nowhere.invalid/"},
    "no TLS there": lambda url: {"LEVERET_URL": url.replace("amqp://", "amqps://")},
    "no such authority": lambda url: {
        "LEVERET_URL": url.replace("amqp://", "amqps://"),
        "LEVERET_TLS_CA": "/nowhere.pem",
    },
    "TLS for a plain URL": lambda url: {"LEVERET_TLS_CA": "/nowhere.pem"},
    "a malformed setting": lambda url: {"LEVERET_CONNECT_TIMEOUT": "soon"},
    "a malformed key": lambda url: {"LEVERET_KEY": KEY},
    "a port that is none": lambda url: {"LEVERET_URL": f"amqp://keeper:{QUOTED}@host:port/"},
}


@pytest.mark.rabbitmq
@pytest.mark.parametrize("why", FAILURES)
def test_no_failing_command_tells_a_secret(secretive: Site, why: str) -> None:
    environment = {"LEVERET_CONNECT_TIMEOUT": "0.5", **FAILURES[why](secretive.url)}
    done = secretive.run("definitions", timeout=60.0, **environment)
    assert done.returncode, done.stdout
    assert done.stderr
    assert not secrets_in(done.stdout + done.stderr), done.stderr
    service = secretive.start("--debug", "worker", "app.py", **environment)
    until(lambda: service.exit_code is not None or "tried again" in service.text(), "an error")
    assert service.exit_code != 0
    assert not secrets_in(service.text()), service.text()


@pytest.mark.rabbitmq
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_help_tells_a_secret(secretive: Site, command: list[str]) -> None:
    done = secretive.run(*command, "--help", LEVERET_KEY=KEY)
    assert done.returncode == 0
    assert not secrets_in(done.stdout + done.stderr)


@pytest.mark.rabbitmq
def test_the_coordinators_own_command_tells_none(secretive: Site) -> None:
    command = [sys.executable, "-m", "leveret_coordinator"]
    for more in (["--help"], ["--url", f"amqp://keeper:{QUOTED}@host:port/"]):
        done = secretive.execute([*command, *more])
        assert not secrets_in(done.stdout + done.stderr), done.stderr


@pytest.mark.rabbitmq
def test_services_log_no_secret_even_when_they_log_everything(secretive: Site) -> None:
    (secretive.folder / "sitecustomize.py").write_text(
        "import logging\nlogging.getLogger('aiormq').setLevel(logging.DEBUG)\n"
    )
    chatty = {"PYTHONPATH": str(secretive.folder), "PYTHONASYNCIODEBUG": "1"}
    before = dict(os.environ)
    os.environ.update(chatty)
    try:
        services = [secretive.coordinator(), secretive.worker("app.py")]
        assert secretive.run("run", "answer").stdout == "42\n"
    finally:
        os.environ.clear()
        os.environ.update(before)
    for service in services:
        service.signal(15)
        service.wait()
        assert "ready" in service.text()
        assert not secrets_in(service.text())


@pytest.mark.rabbitmq
def test_tracebacks_on_a_terminal_show_no_local_variables(secretive: Site) -> None:
    """Where logs are made for people, whole frames might be shown."""
    program = (
        "import logging, os; from leveret_broker import logs; logs.configure()\n"
        "def fail(url):\n    raise ValueError('broken')\n"
        "try:\n    fail(os.environ['LEVERET_URL'])\n"
        "except ValueError:\n    logs.get_logger('leveret').exception('failed')\n"
    )
    master, slave = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", program], env=secretive.environment, stderr=slave, check=True
    )
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert "ValueError: broken" in shown
    assert not secrets_in(shown)


# -- the list of processes ------------------------------------------------------------------------


def command_lines(pid: int) -> str:
    """Those of a process and all below it."""
    found = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += "\n" + command_lines(int(child))
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.rabbitmq
def test_no_process_shows_a_secret_that_it_was_given_by_its_environment(secretive: Site) -> None:
    coordinator = secretive.coordinator()
    worker = secretive.worker("app.py")
    assert secretive.run("run", "answer").stdout == "42\n"
    shown = command_lines(coordinator.pid) + command_lines(worker.pid)
    assert "leveret_worker.child" in shown  # or children were not looked at
    assert not secrets_in(shown)


@needs_proc
@pytest.mark.rabbitmq
@pytest.mark.parametrize("spelled", [["--url", "{}"], ["--url={}"]])
@pytest.mark.parametrize("module", ["leveret", "leveret_coordinator"])
def test_a_password_in_an_argument_is_warned_of_and_taken_out_of_sight(
    secretive: Site, spelled: list[str], module: str
) -> None:
    url = [part.format(secretive.url) for part in spelled]
    secretive.url = "amqp://127.0.0.1:1/"  # what the environment says comes second
    command = [] if module == "leveret_coordinator" else ["coordinator"]
    service = secretive.start_module(module, *command, "--catalog", "c.sqlite", *url)
    service.ready("coordinator ready")
    assert "--catalog c.sqlite" in command_lines(service.pid)
    assert not secrets_in(command_lines(service.pid))
    assert "set LEVERET_URL instead" in service.text()
    assert not secrets_in(service.text())


def test_an_argument_without_a_password_is_left_alone() -> None:
    for command in (["x", "--url", "amqps://host/?auth=EXTERNAL"], ["x", "--url"], ["x"]):
        assert command_line.split(command) == (command, {})


@pytest.mark.parametrize(
    "text",
    [
        f"amqp://keeper:{PASSWORD}@host/",
        f"keeper:{PASSWORD}@host",
        f"amqp:keeper:{PASSWORD}@host",
        f"amqp://keeper:{QUOTED}@host/v?x=1",
        f"amqp://:{QUOTED}@host/",
        f"amqp://keeper:a://b{PASSWORD}@host/",
    ],
)
def test_no_spelling_of_a_url_is_shown_with_its_password(text: str) -> None:
    assert not secrets_in(redact(text))
    assert redact(text).partition("?")[0].endswith(("host", "host/", "host/v"))


def test_nothing_that_holds_a_url_shows_its_password() -> None:
    url = f"amqp://keeper:{QUOTED}@host/"
    for holder in (parse(url), leveret.connect(url), RabbitTransport(url, name="test")):
        assert not secrets_in(f"{holder!r} {holder}")
