"""Two projects on one broker, each with a user of its own that RabbitMQ lets into nothing else."""

import asyncio
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiormq
import pytest
from aiormq import exceptions

import leveret
from leveret.keys import new_key
from leveret_broker import codec, topology
from leveret_broker import messages as m
from leveret_broker.identifiers import new_id
from leveret_broker.permissions import of_project
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.transport import Delivery, Outgoing
from tests import rabbit
from tests.acceptance.processes import Site

pytestmark = pytest.mark.rabbitmq

MINE, THEIRS = "a", "a.b"
"""An unanchored or unescaped pattern for one of them would fit the other."""
PASSWORD = "quite-secret"
PATIENCE = 30.0
ENDINGS = FOREIGN_ID, FOREIGN_PROJECT = ("is not of it", "it names 'a.b'")
"""Of the reasons for which messages are set aside."""
APP = """
import os, time
from pathlib import Path
from leveret import define

@define.task
def note(text: str) -> str:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(text + "\\n")
    return text

@define.task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds

@define.workflow
async def tell(text: str) -> str:
    return await note(text) + await note("again")
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Broker:
    """A node with a management API."""

    node: rabbit.PrivateNode
    management: str

    def url_of(self, user: str) -> str:
        parts = urlsplit(self.node.url)
        return f"amqp://{user}:{PASSWORD}@127.0.0.1:{parts.port}/"


@pytest.fixture(scope="module")
def broker() -> Generator[Broker]:
    scripts = rabbit.installed_scripts() or rabbit.missing("this needs a RabbitMQ of its own")
    (port,) = rabbit.free_ports(1)
    lines = f"management.tcp.port = {port}\nmanagement.tcp.ip = 127.0.0.1\n"
    plugins = ["rabbitmq_management"]
    with rabbit.own_node(scripts, print, settings=lines, plugins=plugins) as node:
        yield Broker(node=node, management=f"http://guest:guest@127.0.0.1:{port}")


class Place:
    """The broker with a coordinator, two projects, and their users and workers."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.admin = Site(broker.node.url, folder)
        self.mine = self._site("anna", folder / "mine")
        self.theirs = self._site("bob", folder / "theirs")

    def _site(self, user: str, folder: Path) -> Site:
        folder.mkdir()
        (folder / "app.py").write_text(APP)
        return Site(self.broker.url_of(user), folder)

    def manage(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`leveret admin …` as the broker's administrator."""
        given = {"LEVERET_MANAGEMENT": self.broker.management, **environment}
        return self.admin.run("admin", *command, timeout=60.0, **given)

    def grant(self, project: str, user: str) -> None:
        done = self.manage("grant", project, user, "--create-user", LEVERET_NEW_PASSWORD=PASSWORD)
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stdout + done.stderr

    def close(self) -> None:
        for site in (self.mine, self.theirs, self.admin):
            site.close()


@pytest.fixture(scope="module")
def place(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(broker, tmp_path_factory.mktemp("isolation"))
    place.admin.coordinator()
    place.grant(MINE, "anna")
    place.grant(THEIRS, "bob")
    with pytest.MonkeyPatch.context() as patch:
        for site, project in ((place.mine, MINE), (place.theirs, THEIRS)):
            patch.setenv("NOTES", str(site.folder / "notes"))
            site.worker("app.py", "--project", project, name=f"worker-{project}")
        yield place
    place.close()


def notes(site: Site) -> list[str]:
    path = site.folder / "notes"
    return path.read_text().split() if path.exists() else []


def client(place: Place, user: str, project: str | None) -> leveret.Client:
    return leveret.connect(place.broker.url_of(user), project=project, timeout=PATIENCE)


# -- what the users may do ------------------------------------------------------------------------


async def test_both_projects_work_with_nothing_but_what_they_were_granted(place: Place) -> None:
    for user, project, site in (("anna", MINE, place.mine), ("bob", THEIRS, place.theirs)):
        async with client(place, user, project) as connected:
            run = await connected.start("tell", f"from-{user}")
            assert await run.result() == f"from-{user}again"
            assert [row.id for row in await connected.runs(roots_only=True)][:1] == [run.id]
            assert {row.project for row in await connected.runs()} == {project}
            assert {row.project for row in await connected.workers()} == {project}
            assert {row.definition.project for row in await connected.definitions()} == {project}
        assert f"from-{user}" in notes(site)


SCRIPT = """
import asyncio

import leveret
from leveret import define

@define.task
def double(n: int) -> int:
    return 2 * n

@define.workflow
async def total(numbers: list[int]) -> int:
    return sum([await double(n) for n in numbers])

async def main() -> None:
    async with leveret.connect():
        print(await total([1, 2]), await double(leveret.result_of(double(1))))

asyncio.run(main())
"""


def test_code_is_shipped_and_executed_with_nothing_but_what_was_granted(place: Place) -> None:
    place.grant("e", "emil")
    folder = place.admin.folder / "of-emil"
    folder.mkdir()
    emil, key = Site(place.broker.url_of("emil"), folder), new_key()
    try:
        generic = emil.worker("--project", "e", "--accept-code", name="generic", LEVERET_KEY=key)
        (folder / "script.py").write_text(SCRIPT)
        for _ in range(2):
            ours = {"LEVERET_PROJECT": "e", "LEVERET_KEY": key}
            done = emil.execute([sys.executable, "script.py"], 2 * PATIENCE, **ours)
            assert done.returncode == 0, done.stderr
            assert done.stdout.split() == ["6", "4"]
        assert generic.exit_code is None
        assert "ACCESS_REFUSED" not in generic.text()
    finally:
        emil.close()


async def test_work_goes_on_after_everything_was_cut_off_or_started_again(
    broker: Broker, tmp_path: Path
) -> None:
    place = Place(broker, tmp_path)
    broker.node.ctl("add_vhost", "restless")
    broker.node.ctl("set_permissions", "-p", "restless", "guest", ".*", ".*", ".*")
    for site in (place.admin, place.mine):
        site.url += "restless"
    try:
        coordinator = place.admin.coordinator()
        done = place.manage("grant", "c", "anna", "--create-user", LEVERET_NEW_PASSWORD=PASSWORD)
        assert done.returncode == 0, done.stderr
        worker = place.mine.worker("app.py", "--project", "c")
        async with leveret.connect(place.mine.url, project="c", timeout=PATIENCE) as connected:

            async def works(text: str) -> None:
                run = await connected.start("nap", 0.01)
                assert await asyncio.wait_for(run.result(), PATIENCE) == 0.01, text

            await works("at the start")
            await asyncio.to_thread(broker.node.close_all_connections)
            await works("after lost connections")
            await asyncio.to_thread(worker.kill)
            await asyncio.to_thread(place.mine.worker, "app.py", "--project", "c")
            await works("with another worker")
            await asyncio.to_thread(coordinator.kill)
            await asyncio.to_thread(place.admin.coordinator)
            await works("with another coordinator")
            # Their queues are gone, and with them what bound the project's exchange to them.
            for queue in (topology.REQUESTS.name, topology.OUTCOMES.name):
                await asyncio.to_thread(broker.node.ctl, "-p", "restless", "delete_queue", queue)
            async with asyncio.timeout(PATIENCE):
                while not await _is_bound(broker, "restless"):
                    await asyncio.sleep(0.1)
            await works("with queues made anew")
            run = await connected.start("nap", 60.0)
            await _executes(connected, run.id)
            assert list(await connected.cancel(run.id)) == [run.id]
            with pytest.raises(leveret.RunCancelled):
                await run.result()
    finally:
        place.close()


async def _is_bound(broker: Broker, vhost: str) -> bool:
    told = await asyncio.to_thread(
        broker.node.ctl, "-p", vhost, "list_bindings", "source_name", "destination_name"
    )
    pairs = {tuple(line.split("\t")) for line in told.splitlines()}
    exchange = topology.project_exchange("c")
    return {(exchange, q.name) for q in (topology.REQUESTS, topology.OUTCOMES)} <= pairs


async def _executes(connected: leveret.Client, run: str) -> None:
    """Return once a worker is known to execute it."""
    async with asyncio.timeout(PATIENCE):
        while (await connected.show(run))[0].state != "running":
            await asyncio.sleep(0.1)


# -- what RabbitMQ refuses ------------------------------------------------------------------------


@asynccontextmanager
async def channel_of(place: Place, user: str) -> AsyncGenerator[Callable[[], Any]]:
    """Channels of a plain AMQP client."""
    connection = await aiormq.connect(place.broker.url_of(user))
    try:
        yield connection.channel
    finally:
        await connection.close()


def names(place: Place, what: str, *more: str) -> list[str]:
    told = place.broker.node.ctl("-q", f"list_{what}", "name", *more)
    return [line for line in told.splitlines() if line not in ("", "name")]


Attempt = Callable[[Any], Coroutine[Any, Any, object]]


def _at_queue(queue: str) -> dict[str, Attempt]:
    exchange = topology.project_exchange(MINE)
    return {
        "get": lambda channel: channel.basic_get(queue),
        "consume": lambda channel: channel.basic_consume(queue, _ignore),
        "purge": lambda channel: channel.queue_purge(queue),
        "delete": lambda channel: channel.queue_delete(queue),
        "declare": lambda channel: channel.queue_declare(queue, durable=True),
        "bind": lambda channel: channel.queue_bind(queue, exchange, routing_key=queue),
        "publish": lambda channel: channel.basic_publish(b"x", routing_key=queue, mandatory=True),
    }


def _at_exchange(exchange: str) -> dict[str, Attempt]:
    own = f"replies:{MINE}:attack"
    return {
        "publish": lambda channel: channel.basic_publish(
            b"x", exchange=exchange, routing_key=topology.REQUESTS.name
        ),
        "bind": lambda channel: channel.queue_bind(own, exchange, routing_key="#"),
        "declare": lambda channel: channel.exchange_declare(exchange, exchange_type="fanout"),
        "delete": lambda channel: channel.exchange_delete(exchange),
    }


async def _ignore(_message: object) -> None:
    pass


async def test_a_plain_client_reaches_no_queue_and_no_exchange_of_others(place: Place) -> None:
    async with client(place, "bob", THEIRS) as theirs:  # so that there is a reply queue too
        queues = await asyncio.to_thread(names, place, "queues")
        foreign = [
            name for name in queues if name.split(":")[0] != MINE and f":{MINE}:" not in name
        ]
        kinds = {re.sub(r":.*", "", name) for name in foreign}
        assert {"replies", "control", THEIRS, "leveret.requests", "leveret.dead"} <= kinds
        made_up = [
            f"{kind}:{other}:x" for kind in ("replies", "control") for other in ("ab", "a.c")
        ]
        reached: list[str] = []
        async with channel_of(place, "anna") as channel:
            for name in [*foreign, *made_up, "ab:note:0", "xa:note:0", "xreplies:a:y"]:
                for what, attempt in _at_queue(name).items():
                    reached += [f"{what} {name}"] if not await _is_refused(channel, attempt) else []
            for what in ("declare", "publish"):  # work queues are for the coordinator to make
                assert await _is_refused(channel, _at_queue(f"{MINE}:note:99")[what])
        assert reached == []
        run = await theirs.start("tell", "undisturbed")
        assert await run.result() == "undisturbedagain"


async def test_a_plain_client_reaches_no_exchange_of_others(place: Place) -> None:
    own = {topology.project_exchange(MINE), topology.control_exchange(MINE), topology.CONTROL}
    exchanges = set(await asyncio.to_thread(names, place, "exchanges")) - own
    assert {"amq.topic", topology.project_exchange(THEIRS)} <= exchanges
    reached: list[str] = []
    async with channel_of(place, "anna") as channel:
        await (await channel()).queue_declare(f"replies:{MINE}:attack", exclusive=True)
        for name in [*exchanges, "leveret.control.ab", "leveret.project.ab"]:
            for what, attempt in _at_exchange(name).items():
                reached += [f"{what} {name}"] if not await _is_refused(channel, attempt) else []
        for name in own:  # to be heard from, or spoken through; but never changed
            for what in ("declare", "delete"):
                attempt = _at_exchange(name)[what]
                reached += [f"{what} {name}"] if not await _is_refused(channel, attempt) else []
        for name in (topology.CONTROL, topology.control_exchange(MINE)):
            assert await _is_refused(channel, _at_exchange(name)["publish"])
    assert reached == []


async def test_no_dead_letters_are_a_way_out(place: Place) -> None:
    """The broker publishes dead letters by itself, wherever their queue says."""
    async with channel_of(place, "anna") as channel:
        for exchange in ("", topology.project_exchange(THEIRS), "amq.direct"):
            arguments = {
                "x-dead-letter-exchange": exchange,
                "x-dead-letter-routing-key": topology.REQUESTS.name,
                "x-message-ttl": 0,
            }

            def attempt(channel: Any, given: dict[str, Any] = arguments) -> Any:
                return channel.queue_declare(f"replies:{MINE}:way-out", arguments=given)

            assert await _is_refused(channel, attempt)


async def _is_refused(channel: Callable[[], Any], attempt: Attempt) -> bool:
    """Whether the broker refuses it for want of a permission."""
    opened = await channel()
    try:
        await attempt(opened)
    except (exceptions.ChannelAccessRefused, exceptions.ConnectionClosed):
        return True
    except (exceptions.ChannelNotFoundEntity, exceptions.ChannelPreconditionFailed):
        return False  # it was looked at, so it might have been done
    except (exceptions.PublishError, exceptions.DeliveryError):
        return False
    await opened.close()
    return False


async def test_a_program_of_another_project_is_told_what_is_missing(place: Place) -> None:
    for project in (THEIRS, None):
        with pytest.raises(leveret.CoordinatorUnreachable, match="ACCESS_REFUSED") as raised:
            async with client(place, "anna", project):
                pass
        assert "leveret admin grant" in str(raised.value) or "LEVERET_PROJECT" in str(raised.value)
        assert PASSWORD not in str(raised.value)


# -- what the coordinator refuses -----------------------------------------------------------------


class Speaker:
    """Says what it likes through the exchange of its project."""

    def __init__(self, transport: RabbitTransport) -> None:
        self._transport = transport
        self.session = topology.owned(MINE, new_id("session"))
        self.worker = topology.owned(MINE, new_id("worker"))
        self._heard: list[m.Reply] = []
        self._arrived = asyncio.Event()

    async def start(self) -> None:
        queue = topology.reply_queue(self.session)
        await self._transport.declare(queue, topology.control_queue(self.worker))
        await self._transport.consume(queue.name, self._take, prefetch=0)

    def _take(self, delivery: Delivery) -> None:
        self._heard += codec.decode(delivery.body, m.Replies).replies
        delivery.ack()
        self._arrived.set()

    async def say(self, message: m.Wire, queue: str = topology.REQUESTS.name) -> None:
        exchange = topology.project_exchange(MINE)
        await self._transport.publish(
            Outgoing(body=codec.encode(message), queue=queue, exchange=exchange)
        )

    async def settle(self) -> list[m.Reply]:
        """All that was answered to what was said before."""
        await self.say(m.Hello(session=self.session, request="end"))
        async with asyncio.timeout(PATIENCE):
            while not any(isinstance(reply, m.Welcome) for reply in self._heard):
                self._arrived.clear()
                await self._arrived.wait()
        heard: list[m.Reply] = [each for each in self._heard if not isinstance(each, m.Welcome)]
        self._heard.clear()
        return heard


@pytest.fixture
async def speaker(place: Place) -> AsyncGenerator[Speaker]:
    transport = RabbitTransport(place.broker.url_of("anna"), name="attack")
    await transport.open()
    speaker = Speaker(transport)
    await speaker.start()
    yield speaker
    await transport.close()


def _submission(**fields: Any) -> m.Submission:
    given: dict[str, Any] = {"run": new_id("run"), "project": MINE, "arguments": b"", **fields}
    return m.Submission(acknowledge=True, **given)


async def test_nothing_of_another_project_is_started_seen_or_stopped(
    place: Place, speaker: Speaker
) -> None:
    async with client(place, "bob", THEIRS) as theirs:
        done = await theirs.start("note", "theirs-only")
        await done.result()
        busy = await theirs.start("nap", 3.0)
        definition = await theirs.resolve("note")
        before = notes(place.theirs)
        s = speaker.session
        for target in (definition.id, f"{THEIRS}:note:0"):
            submission = _submission(target=m.Target(identifier=target))
            await speaker.say(m.Submit(session=s, submissions=(submission,)))
        known = m.Target(identifier=f"{MINE}:note:0")
        for fields in (
            {"run": done.id},
            {"parent": busy.id, "root": busy.id},
            {"inputs": (done.id,)},
        ):
            submission = _submission(target=known, **fields)
            await speaker.say(m.Submit(session=s, submissions=(submission,)))
        refused = await speaker.settle()
        assert [type(reply) for reply in refused] == [m.Rejected] * 5, refused
        await speaker.say(m.Attach(session=s, runs=(done.id, busy.id)))
        await speaker.say(m.Cancel(session=s, request="1", runs=(busy.id,)))
        await speaker.say(m.Cancel(session=s, runs=(busy.id,)))
        await speaker.say(m.Cancel(session=s, runs=(), unneeded=(busy.id,)))
        await speaker.say(m.Retry(session=s, request="2", run=done.id))
        await speaker.say(m.Explain(session=s, request="3", run=busy.id))
        await speaker.say(m.ShowRun(session=s, request="4", run=done.id))
        await speaker.say(m.Resolve(session=s, request="5", identifier=definition.id, project=None))
        await speaker.say(
            m.ListRuns(session=s, request="6", project=None, definition=definition.id)
        )
        refused = await speaker.settle()
        assert [type(reply) for reply in refused] == [m.Rejected] * 2 + [m.Refused] * 6, refused
        for reply in refused:
            assert b"theirs-only" not in codec.encode(reply)
        await speaker.say(m.ListRuns(session=s, request="7", project=None, limit=1000))
        await speaker.say(m.ListDefinitions(session=s, request="8", project=None))
        await speaker.say(m.ListWorkers(session=s, request="9", project=None))
        for rows in await speaker.settle():
            assert isinstance(rows, m.Rows)
            seen = [*(row.project for row in rows.runs), *(row.project for row in rows.workers)]
            assert {*seen, *(row.definition.project for row in rows.definitions)} <= {MINE}
        assert await busy.result() == 3.0
        assert notes(place.theirs) == before


async def test_no_worker_speaks_for_runs_of_another_project(place: Place, speaker: Speaker) -> None:
    async with client(place, "bob", THEIRS) as theirs:
        busy = await theirs.start("nap", 2.0)
        await _executes(theirs, busy.id)
        told = m.Outcome(
            run=busy.id, attempt=1, state="succeeded", result=b"x", started_at=1, finished_at=2
        )
        started = m.Started(run=busy.id, attempt=1, started_at=1.0, leased=True)
        claim = m.Claim(run=busy.id, attempt=1, handed_out=True)
        say = m.Outcomes(
            worker=speaker.worker, outcomes=(told,), started=(started,), claims=(claim,)
        )
        await speaker.say(say, topology.OUTCOMES.name)
        assert await speaker.settle() == []
        assert await busy.result() == 2.0
        tree = await theirs.show(busy.id)
        assert (tree[0].attempt, tree[0].state) == (1, "succeeded")


def _beat(worker: str) -> m.Heartbeat:
    return m.Heartbeat(
        worker=worker,
        project=THEIRS,
        host="h",
        pid=1,
        slots=1,
        busy=0,
        started_at=1.0,
        definitions=(),
    )


class Onlooker:
    """May do everything, and takes what is set aside."""

    def __init__(self, transport: RabbitTransport) -> None:
        self.transport = transport
        self._letters: list[tuple[str, str]] = []

    def take(self, delivery: Delivery) -> None:
        headers = delivery.headers
        self._letters.append((headers[topology.ORIGIN_HEADER], headers[topology.REASON_HEADER]))
        delivery.ack()

    async def letters(self, count: int) -> list[tuple[str, str]]:
        """So many, each with the queue in which it was and the reason."""
        async with asyncio.timeout(PATIENCE):
            while len(self._letters) < count:
                await asyncio.sleep(0.05)
        return self._letters


@asynccontextmanager
async def onlooker(place: Place) -> AsyncGenerator[Onlooker]:
    transport = RabbitTransport(place.broker.node.url, name="onlooker")
    await transport.open()
    try:
        look = Onlooker(transport)
        await transport.consume(topology.DEAD.name, look.take, prefetch=0)
        yield look
    finally:
        await transport.close()


async def test_what_users_of_a_project_cannot_read_they_set_aside_through_its_exchange(
    place: Place,
) -> None:
    async with client(place, "anna", MINE) as mine, onlooker(place) as look:
        (worker,) = await mine.workers()
        control = topology.control_queue(worker.id).name
        replies = topology.reply_queue_name(mine.connection.session.id)
        for queue in (control, replies):
            await look.transport.publish(Outgoing(queue=queue, body=b"nonsense"))
        letters = await look.letters(2)
        assert {queue for queue, _ in letters} == {control, replies}
        assert all(reason.startswith("malformed: not msgpack") for _, reason in letters)


async def test_what_names_another_project_is_set_aside_with_its_reason(
    place: Place, speaker: Speaker
) -> None:
    foreign = topology.owned(THEIRS, new_id("session"))
    s, w = speaker.session, speaker.worker
    spec = m.DefinitionSpec(
        kind="task", name="evil", version="0", fingerprint="", module="m", qualname="q"
    )
    other = topology.owned(THEIRS, new_id("worker"))
    said: list[tuple[m.Wire, str]] = [
        (m.Hello(session=foreign, request="1"), FOREIGN_ID),
        (m.Hello(session=new_id("session"), request="1"), FOREIGN_ID),
        (m.Attach(session=foreign, runs=()), FOREIGN_ID),
        (m.Goodbye(worker=other), FOREIGN_ID),
        (_beat(other), FOREIGN_ID),
        (_beat(w), FOREIGN_PROJECT),
        (m.Register(session=s, request="1", project=THEIRS, definitions=(spec,)), FOREIGN_PROJECT),
        (m.ListRuns(session=s, request="1", project=THEIRS), FOREIGN_PROJECT),
        (
            m.Submit(
                session=s,
                submissions=(_submission(project=THEIRS, target=m.Target(identifier="note")),),
            ),
            FOREIGN_PROJECT,
        ),
        (m.Cancel(session=s, runs=(), project=THEIRS), FOREIGN_PROJECT),
    ]
    async with onlooker(place) as look:
        for message, _ in said:
            await speaker.say(message)
        joins = m.Outcomes(worker=w, join=_beat(other))
        await speaker.say(joins, topology.OUTCOMES.name)
        assert await speaker.settle() == []
        letters = await look.letters(len(said) + 1)
    reasons = [reason for _, reason in letters]
    assert all(reason.startswith("refused: from the project 'a', and ") for reason in reasons)
    told = [next(ending for ending in ENDINGS if reason.endswith(ending)) for reason in reasons]
    assert Counter(told) == Counter([*(ending for _, ending in said), FOREIGN_ID])
    async with client(place, "bob", THEIRS) as theirs:
        assert "evil" not in {row.definition.name for row in await theirs.definitions()}
        assert len(await theirs.workers()) == 1


# -- granting and revoking ------------------------------------------------------------------------


def test_an_administrator_does_not_lose_what_it_may_do_by_a_slip(place: Place) -> None:
    done = place.manage("grant", MINE, "guest")
    assert done.returncode == 2
    assert "other permissions" in done.stderr


def test_without_the_management_api_the_command_to_run_is_told(place: Place) -> None:
    done = place.manage("grant", MINE, "anna", LEVERET_MANAGEMENT="http://guest:x@127.0.0.1:1")
    assert done.returncode == 4
    own = of_project(MINE)
    assert f"rabbitmqctl set_permissions -p / anna '{own.configure}'" in done.stderr
    assert "guest:x" not in done.stderr
    printed = place.manage("grant", MINE, "anna", "--print")
    assert printed.returncode == 0
    assert printed.stdout.startswith("rabbitmqctl set_permissions -p / anna ")
    assert printed.stdout.strip() in done.stderr
    assert "The project's exchanges are not made by it" in printed.stderr


def test_who_does_not_exist_or_may_not_grant_is_told(place: Place) -> None:
    done = place.manage("grant", MINE, "nobody")
    assert done.returncode == 1 or done.returncode == 2
    assert "nobody" in done.stderr or "no_such_user" in done.stderr
    management = place.broker.management.replace("guest:guest", f"anna:{PASSWORD}")
    done = place.manage("grant", MINE, "anna", LEVERET_MANAGEMENT=management)
    assert "refused the login" in done.stderr
    assert PASSWORD not in done.stderr


async def test_who_is_revoked_may_do_nothing_any_more(place: Place) -> None:
    await asyncio.to_thread(place.grant, "d", "dora")
    async with client(place, "dora", "d") as dora:
        assert not await dora.runs()
    done = await asyncio.to_thread(place.manage, "revoke", MINE, "dora")
    assert done.returncode == 2  # that was not hers
    done = await asyncio.to_thread(place.manage, "revoke", "d", "dora")
    assert done.returncode == 0, done.stderr
    with pytest.raises(leveret.CoordinatorUnreachable, match="virtual host"):
        async with client(place, "dora", "d"):
            pass
