"""RabbitMQ in a container, on the network that the services share."""

import secrets

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.acceptance.processes import until
from tests.containers.engine import DockerError, docker
from tests.rabbit import RabbitNode, free_ports

ALIAS = "rabbitmq"
"""Its name on the network."""


class Broker(RabbitNode):
    """A node that was started here. `url` is how this machine reaches it."""

    def __init__(self, image: str, network: Network) -> None:
        (self._port,) = free_ports(1)
        self._password = secrets.token_hex(12)
        self.url = f"amqp://leveret:{self._password}@127.0.0.1:{self._port}/"
        self._container = (
            DockerContainer(image)
            .with_env("RABBITMQ_DEFAULT_USER", "leveret")
            .with_env("RABBITMQ_DEFAULT_PASS", self._password)
            .with_network(network)
            .with_network_aliases(ALIAS)
            .with_bind_ports(5672, self._port)  # fixed, so that it is the same after a restart
            .with_kwargs(hostname=ALIAS)
        )

    @property
    def id(self) -> str:
        """The container's, for `docker …`."""
        return self._container.get_container_id()

    def start(self) -> None:
        self._container.start()
        self.await_startup()

    def await_startup(self) -> None:
        """Return once it serves."""
        until(self._is_up, "RabbitMQ has started in its container")

    def stop(self) -> None:
        self._container.stop()

    def ctl(self, *args: str) -> str:
        return docker("exec", self.id, "rabbitmqctl", "-q", *args)

    def _is_up(self) -> bool:
        try:
            docker("exec", self.id, "rabbitmq-diagnostics", "-q", "check_port_connectivity")
        except DockerError:
            return False
        return True

    def inside(self, url: str) -> str:
        """The URL by which containers on the network reach what this machine reaches by another."""
        return url.replace(f"127.0.0.1:{self._port}", f"{ALIAS}:5672")
