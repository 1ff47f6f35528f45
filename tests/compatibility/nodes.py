"""RabbitMQ nodes of other versions, each in a container."""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from tests.acceptance.processes import until
from tests.containers.engine import DockerError, docker

IMAGE = Path(__file__).with_name("image")
COMPONENTS = {"debian": "main", "ubuntu": "main,universe"}
"""By distribution: those with RabbitMQ."""
KEYRING = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
"""What debootstrap trusts Ubuntu by; Debian's own it has."""
BUILDING = 1200.0
"""Seconds that an image may take."""
VERSIONS = (
    "{ok, Version} = application:get_key(rabbit, vsn), "
    'io:format("~s ~s~n", [Version, erlang:system_info(otp_release)]).'
)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that runs."""

    name: str
    """As it was asked for."""
    url: str
    control: Sequence[str]
    """The command that controls it, `rabbitmqctl` or one that reaches it."""
    rabbitmq: str = "?"
    erlang: str = "?"


@contextmanager
def running(name: str) -> Generator[Node]:
    """The node that a name means. Raises `DockerError` if it can't be had."""
    if "://" in name:
        control = shlex.split(os.environ.get("LEVERET_TEST_CTL", ""))
        shown = urlsplit(name).hostname or "a broker"
        yield _with_versions(Node(name=shown, url=name, control=control))
        return
    container = docker(
        *("run", "--detach", "--hostname", "broker", "--publish", "127.0.0.1::5672"),
        *("--env", "RABBITMQ_NODENAME=rabbit@broker", _image(name)),
    )
    try:
        control = ["docker", "exec", container, "rabbitmqctl"]
        port = docker("port", container, "5672").splitlines()[0].rpartition(":")[2]
        node = Node(name=name, url=f"amqp://guest:guest@127.0.0.1:{port}/", control=control)
        until(lambda: _is_up(node), f"{name} has started")
        yield _with_versions(node)
    finally:
        docker("rm", "--force", "--volumes", container)


def _is_up(node: Node) -> bool:
    try:
        docker(*node.control[1:], "-q", "await_startup")
    except DockerError:
        return False
    return True


def _with_versions(node: Node) -> Node:
    if not node.control:
        return node
    asking = [*node.control, "-q", "eval", VERSIONS]
    told = subprocess.run(asking, capture_output=True, text=True, check=True).stdout.split()
    return replace(node, rabbitmq=told[0], erlang=told[1])


# -- images ---------------------------------------------------------------------------------------


def _image(name: str) -> str:
    """An image with RabbitMQ: one that was pulled, or one made of a distribution's package."""
    distribution, _, suite = name.partition(":")
    if distribution not in COMPONENTS:
        return name
    image = f"leveret-compatibility/{distribution}:{suite}"
    if not _is_here(image):
        base = _base(distribution, suite)
        arguments = ("--quiet", "--network", "host", "--build-arg", f"BASE={base}", "--tag", image)
        docker("build", *arguments, str(IMAGE), timeout=BUILDING)
    return image


def _base(distribution: str, suite: str) -> str:
    """The distribution's own image, or one by debootstrap where that can't be pulled."""
    official, base = f"{distribution}:{suite}", f"leveret-compatibility/base:{distribution}-{suite}"
    if _is_here(base):
        return base
    try:
        docker("pull", "--quiet", official, timeout=BUILDING)
    except DockerError:
        _bootstrap(distribution, suite, base)
        return base
    return official


def _bootstrap(distribution: str, suite: str, base: str) -> None:
    components = f"--components={COMPONENTS[distribution]}"
    options = [components, "--variant=minbase", "--force-check-gpg"]
    if distribution == "ubuntu":
        options.append(f"--keyring={os.environ.get('UBUNTU_KEYRING', KEYRING)}")
    with tempfile.TemporaryDirectory(prefix="leveret-compatibility-") as folder:
        making = ["debootstrap", *options, suite, folder]
        done = subprocess.run(making, capture_output=True, text=True, timeout=BUILDING, check=False)
        if done.returncode:
            told = f"{done.stdout[-1000:]}{done.stderr[-1000:]}"
            raise DockerError(f"no base for {distribution}:{suite}: {told}")
        packing = subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(["docker", "import", "-", base], stdin=packing.stdout, check=True)
        packing.communicate()


def _is_here(image: str) -> bool:
    try:
        docker("image", "inspect", "--format", "{{.Id}}", image)
    except DockerError:
        return False
    return True
