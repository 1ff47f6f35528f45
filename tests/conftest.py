"""Fixtures for the whole suite."""

from collections.abc import Iterator

import pytest

from tests import rabbit


@pytest.fixture(scope="session")
def rabbit_node(pytestconfig: pytest.Config) -> Iterator[rabbit.RabbitNode]:
    """The suite's RabbitMQ. `tests/rabbit.py` says where it comes from."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with rabbit.running_node(visible_through(capture)) as node:
        yield node


@pytest.fixture(scope="session")
def rabbit_url(rabbit_node: rabbit.RabbitNode) -> str:
    """The broker's default virtual host, which tests share."""
    return rabbit_node.url


@pytest.fixture(scope="session")
def rabbit_vhosts(rabbit_node: rabbit.RabbitNode) -> Iterator[rabbit.VirtualHosts]:
    vhosts = rabbit.VirtualHosts(rabbit_node)
    yield vhosts
    vhosts.remove_all()


@pytest.fixture
def rabbit_vhost_url(rabbit_vhosts: rabbit.VirtualHosts) -> str:
    """A virtual host of the test's own, with nothing in it."""
    return rabbit_vhosts.take()
