"""Services may be started in any order: each waits for what it needs, and says for what."""

import shutil
import tempfile
from collections.abc import Callable, Generator
from urllib.parse import urlsplit

import pytest

from leveret_broker.lifecycle import IoThread
from tests import rabbit
from tests.acceptance.processes import Site, until
from tests.broker.proxy import Proxy

pytestmark = pytest.mark.rabbitmq

APP = """
from leveret import define

@define.task(runs_in="thread")
def answer() -> int:
    return 42
"""

WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "host": (
        lambda url: url.replace("127.0.0.1", "nowhere.invalid"),
        "amqp://guest:***@nowhere.invalid:{port}/{vhost} can't be reached: "
        "unknown host 'nowhere.invalid'",
    ),
    "port": (
        lambda url: url.replace(str(urlsplit(url).port), "1"),
        "amqp://guest:***@127.0.0.1:1/{vhost} can't be reached: nothing listens at 127.0.0.1:1",
    ),
    "password": (
        lambda url: url.replace("guest:guest", "guest:secret"),
        "amqp://guest:***@127.0.0.1:{port}/{vhost} refused the login of user 'guest'",
    ),
    "virtual host": (
        lambda url: f"{url}-nowhere",
        "refused the virtual host '{vhost}-nowhere': it does not exist, or user 'guest' may not "
        "use it",
    ),
    "scheme": (
        lambda url: url.replace("amqp://", "amqps://"),
        "can't be used: what listens there speaks no TLS: write amqp:// for a plain port",
    ),
}


@pytest.fixture
def app_site(site: Site) -> Generator[tuple[Site, str]]:
    """With a run directory, since there are services that were started by nobody here."""
    (site.folder / "app.py").write_text(APP)
    folder = tempfile.mkdtemp(prefix="lvrt-")
    yield site, folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_url_is_said_at_once_and_tried_again(
    app_site: tuple[Site, str], what: str
) -> None:
    site, folder = app_site
    spoil, told = WRONG[what]
    port, vhost = urlsplit(site.url).port, urlsplit(site.url).path[1:]
    reason = told.format(port=port, vhost=vhost)
    environment = {"LEVERET_URL": spoil(site.url), "LEVERET_RUN_DIR": folder}
    worker = site.start("worker", "app.py", **environment)
    until(lambda: worker.text().count("not started, will be tried again") > 1, "two attempts")
    for line in worker.text().splitlines()[:2]:
        assert reason in line
        assert "Traceback" not in line
    health = site.run("health", LEVERET_RUN_DIR=folder)
    assert health.returncode == 1
    assert (
        f"has not started, and tries again: {'' if 'amqp' in reason else 'amqp'}" in health.stderr
    )
    assert reason in health.stderr
    assert "secret" not in worker.text() + health.stderr
    assert worker.terminate() == 0


def test_workers_that_come_first_wait_for_broker_and_coordinator(
    app_site: tuple[Site, str],
) -> None:
    site, folder = app_site
    thread, network = IoThread("proxy"), Proxy(site.url)
    thread.start()
    network.refuses = True
    url = thread.submit(network.start()).result()
    worker = site.start("worker", "app.py", LEVERET_URL=url, LEVERET_RUN_DIR=folder)
    worker.ready("can't be reached: the connection broke")
    network.refuses = False
    worker.ready("no coordinator yet")
    site.coordinator()
    worker.ready("worker ready")
    assert site.run("run", "answer").stdout == "42\n"
    assert worker.terminate() == 0
    thread.submit(network.stop()).result()
    thread.stop()


def test_a_password_that_is_put_right_at_the_broker_lets_in_who_waits(
    app_site: tuple[Site, str], rabbit_node: rabbit.RabbitNode
) -> None:
    site, _ = app_site
    url = site.url.replace("guest:guest@", "later:password@")
    services = [
        site.start("coordinator", LEVERET_URL=url),
        site.start_module("leveret_coordinator", f"--url={url}", "--catalog=other"),
    ]
    for service in services:
        service.ready("refused the login of user 'later'")
    services.pop().kill()
    vhost = urlsplit(site.url).path[1:]
    rabbit_node.ctl("add_user", "later", "password")
    try:
        rabbit_node.ctl("set_permissions", "-p", vhost, "later", "", "", "")
        services[0].ready("the broker refused to declare")
        rabbit_node.ctl("set_permissions", "-p", vhost, "later", ".*", ".*", ".*")
        services[0].ready("coordinator ready")
        assert services[0].terminate() == 0
    finally:
        rabbit_node.ctl("delete_user", "later")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"LEVERET_URL": "http://keeper:secret@host/"}, "is no broker URL"),
        ({"LEVERET_URL": "amqp://keeper:secret@host:port/"}, "is no broker URL"),
        ({"LEVERET_TLS_CA": "/nowhere.pem"}, "settings for TLS are given"),
    ],
)
@pytest.mark.parametrize("command", [["coordinator"], ["worker", "app.py"]])
def test_what_can_not_be_meant_ends_a_service_at_once(
    app_site: tuple[Site, str], command: list[str], environment: dict[str, str], told: str
) -> None:
    site, _ = app_site
    done = site.run(*command, timeout=60.0, **environment)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_worker_with_another_key_names_the_key_that_it_lacks_and_is_unhealthy_until_it_reads(
    app_site: tuple[Site, str],
) -> None:
    site, folder = app_site
    ours, theirs = (site.run("key", "new").stdout.strip() for _ in range(2))
    site.coordinator()
    worker = site.worker("app.py", LEVERET_KEY=theirs, LEVERET_RUN_DIR=folder)
    ids = site.run("key", "ids", LEVERET_KEY=ours).stdout.split()
    done = site.run("run", "answer", LEVERET_KEY=ours)
    assert done.returncode == 1
    for told in (done.stderr, worker.text()):
        assert "it was signed with the key " in told
        assert any(f"with the key {each}, which this process doesn't have" in told for each in ids)
        assert ours not in told
        assert theirs not in told
    assert "a payload could not be read or made" in worker.text()
    health = site.run("health", LEVERET_RUN_DIR=folder)
    assert health.returncode == 1
    assert "could not read its latest payload" in health.stdout + health.stderr
    assert site.run("health", "--live", LEVERET_RUN_DIR=folder).returncode == 0
    assert site.run("run", "answer", LEVERET_KEY=theirs).stdout == "42\n"
    assert site.run("health", LEVERET_RUN_DIR=folder).returncode == 0
