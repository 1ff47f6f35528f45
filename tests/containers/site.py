"""leveret's services as containers, with a virtual host and a folder of the test's own."""

from collections import Counter
from pathlib import Path
from typing import Any

from docker.models.containers import Container
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

import leveret
from leveret.client import Client
from tests.acceptance.apps import book
from tests.acceptance.durable import KEY, PROJECT
from tests.acceptance.processes import DEADLINE, until
from tests.containers.broker import Broker
from tests.containers.engine import docker
from tests.containers.images import Images

BOOK = "/book"
"""Where the containers see the folder with the ledger and the gates."""
CATALOG = "/var/lib/leveret"
GRACE = 40
"""Seconds that `docker stop` gives, a little more than a worker's drain takes at most."""
TOLD = 5_000
"""Characters of each log that a failure shows."""


class Service:
    """A container with a service in it."""

    def __init__(self, container: DockerContainer) -> None:
        self._container = container
        self.is_removed = False
        container.start()

    @property
    def container(self) -> Container:
        return self._container.get_wrapped_container()

    @property
    def id(self) -> str:
        """The container's, for `docker …`."""
        return self._container.get_container_id()

    @property
    def host(self) -> str:
        """What it takes for the name of its machine."""
        return self.id[:12]

    @property
    def exit_code(self) -> int | None:
        """`None` while it runs."""
        self.container.reload()
        state: dict[str, Any] = self.container.attrs["State"]
        return None if state["Running"] else int(state["ExitCode"])

    @property
    def health(self) -> str:
        """What Docker's health check has found: `starting`, `healthy` or `unhealthy`."""
        return docker("inspect", "--format", "{{.State.Health.Status}}", self.id)

    def text(self) -> str:
        """All that it has logged."""
        logs: bytes = self.container.logs()
        return logs.decode(errors="replace")

    def ready(self, event: str) -> "Service":
        """Return once it has logged an event; fail if it ends before."""
        until(lambda: event in self.text() or self.exit_code is not None, event)
        assert self.exit_code is None, self.text()
        return self

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        until(lambda: self.exit_code is not None, f"{self.id} ends")
        code = self.exit_code
        assert code is not None
        return code

    def printed(self, *command: str) -> str:
        """What a command prints in the container."""
        return docker("exec", self.id, *command)

    def signal(self, name: str) -> None:
        docker("kill", "--signal", name, self.id)

    def kill(self) -> None:
        """`docker kill`: SIGKILL."""
        docker("kill", self.id)

    def stop(self) -> int:
        """`docker stop`; its exit code."""
        docker("stop", "--time", str(GRACE), self.id)
        return self.ended()

    def remove(self) -> None:
        """Remove it and what volumes are its own, even if it runs."""
        self._container.stop()
        self.is_removed = True


class Site:
    """A virtual host, a folder, and the containers that a test starts; all are removed with it."""

    def __init__(
        self, images: Images, broker: Broker, network: Network, url: str, volume: str, folder: Path
    ) -> None:
        self.broker = broker
        self.url = url
        self.folder = folder
        self.settings: dict[str, str] = {}
        """For the services to come."""
        self.health_check: dict[str, Any] = {}
        """What they have instead of the image's."""
        self._images = images
        self._network = network
        self._volume = volume
        self._services: list[Service] = []
        folder.chmod(0o777)  # the services' user is none of this machine's

    @property
    def url_inside(self) -> str:
        return self.broker.inside(self.url)

    def start(self, container: DockerContainer, **environment: str) -> Service:
        """Start a container of a service on the network, as securely as one should."""
        ours = {"LEVERET_URL": self.url_inside, "LEVERET_KEY": KEY, book.FOLDER: BOOK}
        for name, value in {**ours, **self.settings, **environment}.items():
            container.with_env(name, value)
        container.with_network(self._network).with_volume_mapping(str(self.folder), BOOK, "rw")
        container.with_tmpfs_mount("/tmp")
        container.with_kwargs(
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            healthcheck=self.health_check,
        )
        service = Service(container)
        self._services.append(service)
        return service

    def coordinator(self) -> Service:
        """A coordinator that is ready. All of a site's have their catalog on the same volume."""
        container = DockerContainer(self._images.coordinator)
        container.with_volume_mapping(self._volume, CATALOG, "rw")
        return self.start(container).ready("coordinator ready")

    def worker(self, image: str, *arguments: str, **environment: str) -> Service:
        """A worker that is ready; `arguments` in place of the image's own."""
        return self.starting_worker(image, *arguments, **environment).ready("worker ready")

    def starting_worker(self, image: str, *arguments: str, **environment: str) -> Service:
        """A worker that need not be ready yet."""
        container = DockerContainer(image)
        if arguments:
            container.with_command(list(arguments))
        return self.start(container, **environment)

    def cut_off(self, service: Service) -> None:
        """`docker network disconnect`: no packet reaches it, and no end of a connection."""
        docker("network", "disconnect", self._network.name, service.id)

    def reconnect(self, service: Service) -> None:
        docker("network", "connect", self._network.name, service.id)

    def client(self, project: str = PROJECT) -> Client:
        """A client on this machine, outside of all containers."""
        return leveret.connect(self.url, project=project, key=KEY, timeout=DEADLINE)

    def let_pass(self, number: int = book.ALL, root: str = book.EVERY) -> None:
        book.let_pass(self.folder, number, root)

    def lines(self, event: str | None = None, run: str | None = None) -> list[book.Line]:
        """Of the ledger: those of an event, of a run."""
        return [
            line
            for line in book.read(self.folder)
            if event in (None, line.event) and run in (None, line.run)
        ]

    def counts(self, event: str) -> Counter[str]:
        """How often an event happened, by run."""
        return Counter(line.run for line in self.lines(event))

    def close(self) -> None:
        """Remove all. What they have logged is shown if the test failed."""
        for service in self._services:
            if not service.is_removed:
                print(f"-- {service.host} --\n{service.text()[-TOLD:]}")
                service.remove()
