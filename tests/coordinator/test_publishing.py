"""What the broker doesn't take now is taken later; what it never takes goes in fewer words."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from leveret_broker import topology
from leveret_broker.errors import BrokerBlocked, Expired, TransportError
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import (
    Attach,
    Failure,
    Finished,
    Hello,
    ListRuns,
    Refused,
    ShowRun,
    Welcome,
)
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.facts import Message
from leveret_coordinator.service import VERSION, CoordinatorSettings
from tests.coordinator import build, peers
from tests.coordinator.faults import RefusingTransport

ROOT, CHILD, OTHER = (build.run_id(number) for number in range(1, 4))


@pytest.mark.parametrize(
    "error",
    [BrokerBlocked("full"), Expired("late"), RuntimeError("a fault of the transport")],
    ids=lambda error: type(error).__name__,
)
async def test_what_was_not_published_is_published_again(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path, error: Exception
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        await caller.consume("p:flow:1")
        is_refusal = isinstance(error, TransportError)
        refusing.errors = [error] * (3 if is_refusal else 1)
        await caller.request(build.submit(build.submission(ROOT, acknowledge=True)))
        await caller.until(lambda: len(caller.replies) == 3 and bool(caller.deliveries["p:flow:1"]))
        refusing.errors = [error] * (3 if is_refusal else 1)
        await caller.tell(build.outcomes(build.outcome(ROOT)))
        await caller.until_finished(ROOT)
    assert len(caller.deliveries["p:flow:1"]) == 1


async def test_a_caller_that_is_gone_is_dropped(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    gone = build.submit(build.submission(ROOT), session="gone")
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.ask(peers.FLOW)
        await caller.request(gone)
        await caller.tell(build.outcomes(build.outcome(ROOT)))
        assert isinstance(await caller.ask(Hello(session="s", request="1")), Welcome)
    with closing(sqlite3.connect(tmp_path / "catalog")) as connection:
        assert connection.execute("SELECT * FROM waiters").fetchall() == []
        states = connection.execute("SELECT state FROM runs").fetchall()
    assert states == [("succeeded",)]


async def _keep(path: Path, *messages: Message) -> None:
    """Write into a catalog what an earlier coordinator would have, and publish nothing."""
    catalog = await Catalog.open(path)
    await build.apply(catalog, build.register(build.spec("flow"), build.spec("other")))
    for message in messages:
        await build.apply(catalog, message)
    await catalog.close()


async def test_an_answer_that_was_not_published_is_given_by_the_next_coordinator(
    transport: MemoryTransport,
    caller: peers.Caller,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = build.outcomes(build.outcome(ROOT))
    await _keep(tmp_path / "catalog", build.submit(build.submission(ROOT), session="old"), told)
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        refusing.full = {"replies:s"}
        await caller.request(Attach(session="s", runs=(ROOT,)))
        async with asyncio.timeout(peers.PATIENCE):
            while "message not published" not in caplog.text:
                await asyncio.sleep(0)
    assert caller.replies == []
    async with peers.coordinator(transport, tmp_path / "catalog", peers.QUICK):
        await caller.until_finished(ROOT)
    with closing(sqlite3.connect(tmp_path / "catalog")) as connection:
        assert connection.execute("SELECT count(*) FROM waiters").fetchone() == (0,)


async def test_an_end_that_failed_to_be_told_many_times_is_told_once(
    transport: MemoryTransport,
    caller: peers.Caller,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        await caller.ask(build.submit(build.submission(ROOT)))
        refusing.full = {"replies:s"}
        await caller.tell(build.outcomes(build.outcome(ROOT)))
        async with asyncio.timeout(peers.PATIENCE):
            while caplog.text.count("message not published") < 4:
                await asyncio.sleep(0)
        refusing.full = set()
        await caller.until_finished(ROOT)
        assert isinstance(await caller.ask(Hello(session="s", request="1")), Welcome)
    assert len(caller.finished()[ROOT]) == 1


async def test_runs_of_a_queue_that_takes_nothing_hold_back_no_others(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    stuck = [build.run_id(number) for number in range(11, 18)]
    await _keep(
        tmp_path / "catalog",
        build.submit(*(build.submission(run, "p:other:1") for run in stuck)),
        build.submit(build.submission(ROOT)),
    )
    refusing = RefusingTransport(transport)
    refusing.full = {"p:other:1"}
    settings = CoordinatorSettings(retry_first=0.001, retry_longest=0.01, page=2)
    for queue in ("p:other:1", "p:flow:1"):
        await caller.transport.declare(topology.work_queue(queue))
        await caller.consume(queue)
    async with peers.coordinator(refusing, tmp_path / "catalog", settings):
        await caller.until(lambda: bool(caller.deliveries["p:flow:1"]))
        assert not caller.deliveries["p:other:1"]
        assert isinstance(await caller.ask(Hello(session="s", request="1")), Welcome)
        refusing.full = set()
        await caller.until(lambda: len(caller.deliveries["p:other:1"]) == len(stuck))
    assert len(caller.deliveries["p:flow:1"]) == 1


async def test_a_start_does_not_wait_until_all_that_is_left_is_published(
    broker: MemoryBroker, transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    await _keep(tmp_path / "catalog", build.submit(build.submission(ROOT)))
    await caller.transport.declare(topology.work_queue("p:flow:1"))
    await caller.consume("p:flow:1")
    broker.block()
    async with peers.coordinator(transport, tmp_path / "catalog", peers.QUICK):
        status = await transport.inspect(topology.REQUESTS.name)
        assert status is not None
        assert status.consumers == 1
        broker.unblock()
        await caller.until(lambda: bool(caller.deliveries["p:flow:1"]))


async def test_an_answer_that_the_broker_refuses_becomes_a_refusal(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        await caller.ask(build.submit(build.submission(ROOT)))
        children = (build.submission(run, "flow", parent=ROOT) for run in (CHILD, OTHER))
        await caller.request(build.submit(*children))
        await caller.until_replies(4)
        refusing.largest = 700
        for question in (
            ShowRun(session="s", request="q", run=ROOT),
            ListRuns(session="s", request="q", project=None),
        ):
            reply = await caller.ask(question)
            assert isinstance(reply, Refused)
            assert (reply.request, reply.code) == ("q", "invalid")
            assert "too large for the broker: over 700 bytes" in reply.message
    assert len(refusing.refused) == 2


async def test_a_result_that_the_broker_refuses_is_told_as_a_failure_and_kept(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        await caller.request(build.submit(*map(build.submission, (ROOT, OTHER))))
        await caller.until_replies(3)
        refusing.largest = 2000
        large = build.outcome(ROOT, result=bytes(3000))
        await caller.tell(build.outcomes(large, build.outcome(OTHER)))
        await caller.until_finished(ROOT, OTHER)
        refusing.largest = None
        assert await peers.state_of(caller, ROOT) == "succeeded"
    [end] = caller.finished()[ROOT]
    assert (end.state, end.result) == ("failed", None)
    assert end.failure is not None
    assert end.failure.type == "leveret.errors.PayloadError"
    assert "the result of 3000 bytes is too large for the broker" in end.failure.message
    assert caller.finished()[OTHER][0].result == b"result", "what shared the message is told"
    with closing(sqlite3.connect(tmp_path / "catalog")) as connection:
        assert connection.execute("SELECT count(*) FROM waiters").fetchone() == (0,)


async def test_an_error_that_the_broker_refuses_is_told_in_fewer_words(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        await caller.ask(build.submit(build.submission(ROOT)))
        refusing.largest = 2000
        failed = build.outcome(ROOT, "failed").model_copy(update={"error": bytes(3000)})
        await caller.tell(build.outcomes(failed))
        await caller.until_finished(ROOT)
    [end] = caller.finished()[ROOT]
    assert end == Finished(
        run=ROOT, state="failed", failure=Failure(type="ValueError", message="no")
    )


async def test_a_run_whose_invocation_the_broker_refuses_fails(
    transport: MemoryTransport,
    caller: peers.Caller,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        refusing.largest = 2000
        large = build.submission(ROOT, arguments=bytes(3000))
        await caller.request(build.submit(large, build.submission(OTHER)))
        await caller.until_finished(ROOT)
        assert await peers.state_of(caller, ROOT) == "failed"
        assert await peers.state_of(caller, OTHER) in ("pending", "queued")
    [end] = caller.finished()[ROOT]
    assert end.failure is not None
    assert end.failure.type == "leveret.errors.PayloadError"
    assert len(refusing.refused) == 1
    assert "message refused by the broker" in caplog.text


async def test_what_can_not_be_said_in_fewer_words_is_not_said(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        await caller.ask(peers.FLOW)
        refusing.largest = 0
        await caller.request(Hello(session="s", request="1"))
        async with asyncio.timeout(peers.PATIENCE):
            while not refusing.refused:
                await asyncio.sleep(0)
        refusing.largest = None
        assert await caller.ask(Hello(session="s", request="2")) == Welcome(
            request="2", version=VERSION
        )
    assert len(refusing.refused) == 1
