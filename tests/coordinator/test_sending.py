"""Several batches are on their way to the broker at a time."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from leveret_broker import topology
from leveret_broker.clock import SystemClock
from leveret_broker.errors import Expired, TransportError
from leveret_broker.memory import MemoryTransport
from leveret_broker.messages import Finished, Hello, Welcome
from leveret_broker.transport import Outgoing
from leveret_coordinator import parcels
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.database import in_a_thread
from leveret_coordinator.decision import Answer
from leveret_coordinator.errors import CatalogUnavailable
from leveret_coordinator.publishing import Publisher
from leveret_coordinator.records import Waiter
from leveret_coordinator.service import VERSION
from leveret_coordinator.settings import CoordinatorSettings
from leveret_coordinator.statements import Connection
from tests.coordinator import build, peers
from tests.coordinator.faults import FailingConnection, RefusingTransport

ROOT, OTHER, THIRD = (build.run_id(number) for number in range(1, 4))


class HoldingTransport(RefusingTransport):
    """The broker confirms what is published to some queues only once a test lets it."""

    def __init__(self, inner: MemoryTransport) -> None:
        super().__init__(inner)
        self.slow: set[str] = set()
        self.held: list[asyncio.Future[TransportError | None]] = []

    async def publish_all(self, messages: Sequence[Outgoing]) -> Sequence[TransportError | None]:
        results = await super().publish_all(messages)
        if self.slow.isdisjoint(message.queue or "" for message in messages):
            return results
        held: asyncio.Future[TransportError | None] = asyncio.get_running_loop().create_future()
        self.held.append(held)
        error = await held
        return results if error is None else [error] * len(messages)


def _publisher(transport: HoldingTransport) -> Publisher:
    """One that tries nothing again by itself while a test lasts."""
    return Publisher(
        transport,
        SystemClock(),
        lambda: None,
        confirm_after=60,
        retry_first=60,
        retry_longest=60,
        page=1,
    )


async def _until_welcome(caller: peers.Caller, number: int = 1) -> None:
    """The coordinator has dealt with all that came before."""
    await caller.request(Hello(session="s", request=str(number)))
    welcome = Welcome(request=str(number), version=VERSION)
    await caller.until(lambda: welcome in caller.replies)


@pytest.fixture
def holding(transport: MemoryTransport) -> HoldingTransport:
    return HoldingTransport(transport)


async def test_a_batch_is_dealt_with_while_the_one_before_is_not_confirmed(
    holding: HoldingTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    async with peers.coordinator(holding, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        holding.slow = {"p:flow:1"}
        await caller.request(build.submit(build.submission(ROOT, acknowledge=True)))
        await _until_welcome(caller)
        await caller.tell(build.outcomes(build.outcome(ROOT)))
        await caller.until_finished(ROOT)
        holding.held[0].set_result(None)


async def test_what_is_not_confirmed_is_not_acknowledged(
    holding: HoldingTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    settings = CoordinatorSettings(stop_within=0.01)
    async with peers.coordinator(holding, tmp_path / "catalog", settings):
        await caller.ask(peers.FLOW)
        holding.slow = {"p:flow:1"}
        await caller.request(build.submit(build.submission(ROOT, acknowledge=True)))
        await _until_welcome(caller)
    left = await caller.transport.inspect(topology.REQUESTS.name)
    assert left is not None
    assert left.messages == 1


async def test_a_fault_in_publishing_has_each_message_tried_alone(
    holding: HoldingTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    async with peers.coordinator(holding, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        await caller.consume(topology.DEAD.name)
        holding.errors = [RuntimeError("a fault")]
        await caller.request(build.submit(build.submission(ROOT, acknowledge=True)))
        await caller.tell(build.outcomes(build.outcome(ROOT)))
        await caller.until_finished(ROOT)
    assert not caller.deliveries[topology.DEAD.name]


async def test_faults_of_several_batches_lose_none_of_their_messages(
    holding: HoldingTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    runs = [ROOT, OTHER, THIRD]
    async with peers.coordinator(holding, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        await caller.consume(topology.DEAD.name)
        holding.slow = {"p:flow:1"}
        for number, run in enumerate(runs, start=1):
            await caller.request(build.submit(build.submission(run, acknowledge=True)))
            await _until_welcome(caller, number)
        holding.slow = set()
        first, *others = holding.held
        first.set_exception(RuntimeError("a fault"))
        for _ in range(10):  # turns of the loop, in which the first comes to be tried alone
            await asyncio.sleep(0)
        for held in others:
            held.set_exception(RuntimeError("a fault"))
        await caller.tell(build.outcomes(*map(build.outcome, runs)))
        await caller.until_finished(*runs)
        await _until_welcome(caller, len(runs) + 1)
    left = await caller.transport.inspect(topology.REQUESTS.name)
    assert left is not None
    assert left.messages == 0
    assert not caller.deliveries[topology.DEAD.name]


async def test_an_answer_that_was_given_twice_is_settled_by_the_second(
    holding: HoldingTransport, caller: peers.Caller
) -> None:
    publisher = _publisher(holding)
    holding.slow = {topology.reply_queue_name("s")}
    answer = Answer(session="s", reply=Finished(run=ROOT, state="succeeded"))
    first, second = (
        asyncio.create_task(publisher.send(parcels.pack_answers([answer]))) for _ in range(2)
    )
    await caller.until_finished(ROOT)
    await caller.until(lambda: len(holding.held) == 2)
    holding.held[1].set_result(Expired("the broker did not answer"))
    await second
    holding.held[0].set_result(None)
    await first
    with publisher.taken_confirmed() as confirmed:
        assert confirmed.settled == ()
    again = asyncio.create_task(publisher.send(parcels.pack_answers([answer])))
    await caller.until(lambda: len(caller.replies) == 3)
    await caller.until(lambda: len(holding.held) == 3)
    holding.held[2].set_result(None)
    await again
    with publisher.taken_confirmed() as confirmed:
        assert confirmed.settled == (Waiter(run=ROOT, session="s"),)
    await publisher.close()


async def test_answers_outlive_a_catalog_that_can_not_be_asked(
    holding: HoldingTransport, caller: peers.Caller
) -> None:
    """Those that it doesn't remember; what they answer must not be acknowledged meanwhile."""
    connections: list[FailingConnection] = []

    async def connect(name: str) -> Connection:
        connections.append(FailingConnection(await in_a_thread(name)))
        return connections[0]

    catalog = await Catalog.open(None, connect)
    publisher = _publisher(holding)
    holding.errors = [Expired("the broker did not answer")]
    welcome = Welcome(request="1", version=VERSION)
    await publisher.send(parcels.pack_answers([Answer(session="s", reply=welcome)]))
    publisher.open_backlog(catalog, 0)
    connections[0].fails_at = "SELECT"
    with pytest.raises(CatalogUnavailable):
        await publisher.publish_page(catalog)
    assert publisher.owes_answers
    connections[0].fails_at = None
    publisher.open_backlog(catalog, 0)
    await publisher.publish_page(catalog)
    assert await caller.until_replies(1) == [welcome]
    assert not publisher.owes_answers
    await publisher.close()
    await catalog.close()


async def test_what_is_not_written_stays_to_be_written(
    holding: HoldingTransport, caller: peers.Caller
) -> None:
    publisher = _publisher(holding)
    answer = Answer(session="s", reply=Finished(run=ROOT, state="succeeded"))
    await publisher.send(parcels.pack_answers([answer]))
    with pytest.raises(OSError, match="disk"), publisher.taken_confirmed():
        raise OSError("disk")
    with publisher.taken_confirmed() as confirmed:
        assert confirmed.settled == (Waiter(run=ROOT, session="s"),)
    await publisher.close()
