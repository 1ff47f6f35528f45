"""Fixtures for the whole suite."""

import asyncio
import copy
import logging
import os
import sys
from collections.abc import Callable, Generator
from typing import Any

import pytest

from leveret_broker import logs, loops
from tests import rabbit

Tell = Callable[[str], None]

if os.environ.get(loops.VARIABLE) == "1":  # tests, too; our threads and services do anyhow
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # pyright: ignore[reportDeprecated]


@pytest.fixture(autouse=True)
def _logging_ends_with_its_test(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """A service's command sets how its whole process logs, even if a test called it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    state = vars(logs)
    monkeypatch.setitem(state, "_process", copy.copy(state["_process"]))
    yield
    logging.captureWarnings(False)
    root.setLevel(level)
    for handler in set(root.handlers).difference(handlers):
        root.removeHandler(handler)


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Tell:
    """Shows a line at once, whichever process the test runs in: a hang must show where it is."""
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", file=sys.__stderr__, flush=True)

    return show


@pytest.fixture(scope="session")
def rabbit_node(tell: Tell) -> Generator[rabbit.RabbitNode]:
    """The suite's RabbitMQ. `tests/rabbit.py` says where it comes from."""
    with rabbit.interrupted_by_sigterm(), rabbit.running_node(tell) as node:
        yield node


@pytest.fixture(scope="module")
def own_rabbit_node(request: pytest.FixtureRequest, tell: Tell) -> Generator[rabbit.PrivateNode]:
    """A node for a module that kills it."""
    if rabbit.installed_scripts() is None:
        request.getfixturevalue("rabbit_node")  # may install one
    scripts = rabbit.installed_scripts()
    if scripts is None:
        rabbit.missing("a RabbitMQ that can be killed is needed: install rabbitmq-server")
    with rabbit.interrupted_by_sigterm(), rabbit.own_node(scripts, tell) as node:
        yield node


@pytest.fixture(scope="session")
def rabbit_url(rabbit_node: rabbit.RabbitNode) -> str:
    """The broker's default virtual host, which tests share."""
    return rabbit_node.url


@pytest.fixture(scope="session")
def rabbit_vhosts(rabbit_node: rabbit.RabbitNode) -> Generator[rabbit.VirtualHosts]:
    vhosts = rabbit.VirtualHosts(rabbit_node)
    yield vhosts
    vhosts.remove_all()


@pytest.fixture
def rabbit_vhost_url(rabbit_vhosts: rabbit.VirtualHosts) -> str:
    """A virtual host of the test's own, with nothing in it."""
    return rabbit_vhosts.take()
