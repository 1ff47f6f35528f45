"""Images, a network and a RabbitMQ once a session; a site of one's own for each test."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.network import Network

from tests import rabbit
from tests.acceptance.processes import ROOT
from tests.conftest import Tell
from tests.containers.broker import Broker
from tests.containers.engine import NoEngine, docker, running_engine
from tests.containers.images import Images, build_services, derive
from tests.containers.offline.bases import python_base, rabbitmq_base
from tests.containers.site import Site

testcontainers_config.ryuk_disabled = True
"""Its image can't be had everywhere; fixtures remove what they start."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's time begins when the images are there: whoever comes first makes them."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(180, func_only=True))


@pytest.fixture(scope="session")
def engine(tell: Tell) -> Generator[None]:
    """A Docker engine; whoever needs it is skipped where there is none, and told why."""
    with rabbit.interrupted_by_sigterm(), ExitStack() as until_the_end:
        try:
            until_the_end.enter_context(running_engine(tell))
        except NoEngine as error:
            tell(f"no containers: {error}")
            pytest.skip(str(error))
        yield


@pytest.fixture(scope="session")
def images(engine: None, tell: Tell) -> Images:
    """Both services' images, built from this checkout."""
    try:
        return build_services(python_base(tell), tell)
    except NoEngine as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def network(engine: None) -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture(scope="session")
def broker(network: Network, tell: Tell) -> Iterator[Broker]:
    try:
        broker = Broker(rabbitmq_base(tell).name, network)
    except NoEngine as error:
        pytest.skip(str(error))
    tell("starting RabbitMQ")
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def vhosts(broker: Broker) -> rabbit.VirtualHosts:
    return rabbit.VirtualHosts(broker)


@pytest.fixture
def volume(engine: None) -> Iterator[str]:
    """A volume with nothing on it, which outlives containers."""
    name = docker("volume", "create")
    yield name
    docker("volume", "rm", name)


@pytest.fixture
def site(
    images: Images,
    broker: Broker,
    network: Network,
    vhosts: rabbit.VirtualHosts,
    tmp_path: Path,
    volume: str,
) -> Iterator[Site]:
    site = Site(images, broker, network, vhosts.take(), volume, tmp_path)
    try:
        yield site
    finally:
        site.close()


@pytest.fixture(scope="session")
def apps(images: Images, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A worker's image with the tests' apps, which names none of them."""
    folders = (ROOT / "tests" / "acceptance" / "apps", ROOT / "tests" / "containers" / "apps")
    files = {str(path.relative_to(ROOT)): path for each in folders for path in each.glob("*.py")}
    dockerfile = "FROM leveret-worker\nCOPY tests tests\n"
    return derive("apps", dockerfile, files, tmp_path_factory.mktemp("images") / "apps")
