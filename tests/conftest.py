"""Fixtures for the whole suite."""

from collections.abc import Generator
from typing import Any

import pytest

from tests import rabbit


@pytest.fixture(scope="session")
def rabbit_node(pytestconfig: pytest.Config) -> Generator[rabbit.RabbitNode]:
    """The suite's RabbitMQ. `tests/rabbit.py` says where it comes from."""
    manager = pytestconfig.pluginmanager
    terminal = manager.getplugin("terminalreporter")
    capture: Any = manager.getplugin("capturemanager")
    assert isinstance(terminal, pytest.TerminalReporter)

    def report(line: str) -> None:
        with capture.global_and_fixture_disabled():  # a hang must show where it is
            terminal.write_line(f"\nrabbitmq: {line}")

    with rabbit.interrupted_by_sigterm(), rabbit.running_node(report) as node:
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
