"""One coordinator a broker, from its start to its end."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from leveret_broker import codec, topology
from leveret_broker.clock import SystemClock
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import (
    Hello,
    Outcomes,
    Registered,
    Unserved,
    Welcome,
)
from leveret_coordinator.errors import AnotherCoordinator
from leveret_coordinator.service import CoordinatorService, CoordinatorSettings
from tests.coordinator import build, peers

ROOT, CHILD, OTHER = (build.run_id(number) for number in range(1, 4))


# -- one coordinator a broker ---------------------------------------------------------------------


async def test_a_second_coordinator_at_a_broker_is_refused_whatever_its_catalog(
    broker: MemoryBroker, transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    impatient = CoordinatorSettings(predecessor_leaves_within=0)
    async with peers.connected(broker) as other, peers.coordinator(transport, tmp_path / "one"):
        for _ in range(2):  # the second time shows that the first left the catalog free
            second = CoordinatorService(other, tmp_path / "two", settings=impatient)
            with pytest.raises(AnotherCoordinator, match=r"consumes 'leveret.requests'"):
                await second.start()
        assert isinstance(await caller.ask(peers.FLOW), Registered)


async def test_a_start_waits_for_a_predecessor_that_is_about_to_leave(
    broker: MemoryBroker, transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    first = CoordinatorService(transport, tmp_path / "one")
    await first.start()

    class Meanwhile(SystemClock):
        """The predecessor leaves while its successor sleeps."""

        async def sleep(self, seconds: float) -> None:
            await first.stop()

    async with peers.connected(broker) as other:
        second = CoordinatorService(other, tmp_path / "two", Meanwhile())
        await second.start()
        assert isinstance(await caller.ask(peers.FLOW), Registered)
        await second.stop()


@pytest.mark.usefixtures("service")
async def test_outcomes_of_unknown_runs_are_set_aside(caller: peers.Caller) -> None:
    await caller.consume("leveret.dead")
    stray = build.outcomes(build.outcome(ROOT))
    await caller.tell(stray)
    await caller.until(lambda: bool(caller.deliveries["leveret.dead"]))
    [dead] = caller.deliveries["leveret.dead"]
    assert codec.decode(dead.body, Outcomes) == stray
    assert dead.headers[topology.ORIGIN_HEADER] == "leveret.outcomes"
    assert "no such run" in dead.headers[topology.REASON_HEADER]


# -- starting and stopping ------------------------------------------------------------------------


async def test_stopping_before_the_start_and_twice_is_fine(transport: MemoryTransport) -> None:
    service = CoordinatorService(transport, None)
    await service.stop()
    service = CoordinatorService(transport, None)
    await service.start()
    await service.stop()
    await service.stop()


async def test_a_failed_start_leaves_the_catalog_free(
    broker: MemoryBroker, transport: MemoryTransport, tmp_path: Path
) -> None:
    closed = MemoryTransport(broker)
    service = CoordinatorService(closed, tmp_path / "catalog")
    with pytest.raises(Exception, match="not opened"):
        await service.start()
    async with peers.coordinator(transport, tmp_path / "catalog"):
        pass


async def test_stopping_does_not_wait_for_a_broker_that_takes_nothing(
    broker: MemoryBroker, transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    settings = CoordinatorSettings(stop_within=0.01)
    async with peers.coordinator(transport, tmp_path / "catalog", settings):
        await caller.ask(peers.FLOW)
        await caller.request(build.submit(build.submission(ROOT)))
        broker.block()
    broker.unblock()
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.until(lambda: Unserved(run=ROOT, queue="p:flow:1") in caller.replies)


async def test_what_was_dealt_with_never_comes_again(
    broker: MemoryBroker, caller: peers.Caller, tmp_path: Path
) -> None:
    async with peers.connected(broker) as transport:
        service = CoordinatorService(transport, tmp_path / "catalog")
        await service.start()
        await caller.ask(peers.FLOW)
        await caller.ask(build.submit(build.submission(ROOT)))
        await caller.tell(build.outcomes(build.outcome(ROOT)), build.outcomes(build.outcome(OTHER)))
        await caller.until_finished(ROOT)
        assert isinstance(await caller.ask(Hello(session="s", request="1")), Welcome)
        await service.stop()
    for queue in (topology.REQUESTS, topology.OUTCOMES):
        status = await caller.transport.inspect(queue.name)
        assert status is not None
        assert status.messages == 0, queue.name


async def test_stopping_writes_what_was_confirmed_and_gives_back_the_rest(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.ask(peers.FLOW)
        await caller.ask(build.submit(build.submission(ROOT)))
    with closing(sqlite3.connect(tmp_path / "catalog")) as connection:
        assert connection.execute("SELECT state FROM runs").fetchall() == [("queued",)]
    await caller.request(Hello(session="s", request="later"))
    status = await transport.inspect(topology.REQUESTS.name)
    assert status is not None
    assert (status.messages, status.consumers) == (1, 0)
