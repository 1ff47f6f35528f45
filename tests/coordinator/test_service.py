"""The coordinator at work over the in-memory broker, with a catalog in a file."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from leveret_broker import codec, topology
from leveret_broker.clock import SystemClock
from leveret_broker.errors import BrokerBlocked, Expired, TransportError
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import (
    Accepted,
    Attach,
    Cancel,
    Cancelled,
    Control,
    Failure,
    Finished,
    Goodbye,
    Hello,
    Invocations,
    ListRuns,
    ListWorkers,
    Outcomes,
    Refused,
    Registered,
    Rejected,
    Resolve,
    Rows,
    ShowRun,
    Submission,
    Target,
    Tree,
    Unserved,
    Welcome,
)
from leveret_broker.transport import Outgoing, Queue
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.errors import AnotherCoordinator
from leveret_coordinator.facts import Message
from leveret_coordinator.service import VERSION, CoordinatorService, CoordinatorSettings
from tests.coordinator import build, peers
from tests.coordinator.faults import RefusingTransport

ROOT, CHILD, OTHER = (build.run_id(number) for number in range(1, 4))
FLOW = build.register(build.spec("flow"), session="s")
QUICK = CoordinatorSettings(retry_first=0.001, retry_longest=0.01)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def transport(broker: MemoryBroker) -> AsyncIterator[MemoryTransport]:
    async with peers.connected(broker) as transport:
        yield transport


@pytest.fixture
async def caller(broker: MemoryBroker) -> AsyncIterator[peers.Caller]:
    async with peers.connected(broker) as transport:
        yield await peers.Caller(transport).open()


@pytest.fixture
async def service(transport: MemoryTransport, tmp_path: Path) -> AsyncIterator[CoordinatorService]:
    async with peers.coordinator(transport, tmp_path / "catalog", QUICK) as service:
        yield service


async def _state(caller: peers.Caller, run: str) -> str:
    tree = await caller.ask(ShowRun(session="s", request="show", run=run))
    assert isinstance(tree, Tree)
    return tree.runs[0].state


# -- from submission to reply ---------------------------------------------------------------------


@pytest.mark.usefixtures("service")
async def test_a_run_goes_to_the_queue_of_its_definition_and_its_end_to_the_caller(
    caller: peers.Caller,
) -> None:
    registered = await caller.ask(FLOW)
    assert isinstance(registered, Registered)
    await caller.consume("p:flow:1")
    await caller.request(build.heartbeat(registered.definitions[0].id))
    accepted = await caller.ask(build.submit(build.submission(ROOT, acknowledge=True)))
    assert accepted == Accepted(run=ROOT, definition=registered.definitions[0])

    await caller.until(lambda: bool(caller.deliveries["p:flow:1"]))
    [delivery] = caller.deliveries["p:flow:1"]
    assert delivery.correlation_id == ROOT
    invocations = codec.decode(delivery.body, Invocations)
    assert (invocations.project, invocations.definition) == ("p", registered.definitions[0].id)
    [invocation] = invocations.runs
    assert (invocation.run, invocation.attempt, invocation.root) == (ROOT, 1, ROOT)
    assert invocation.arguments == b"arguments"

    await caller.tell(build.outcomes(build.outcome(ROOT)))
    await caller.until_finished(ROOT)
    assert caller.replies[-1] == Finished(run=ROOT, state="succeeded", result=b"result")
    assert caller.deliveries["replies:s"][-1].correlation_id == ROOT


@pytest.mark.usefixtures("service")
async def test_every_message_may_come_twice(
    caller: peers.Caller, service: CoordinatorService
) -> None:
    await caller.request(FLOW, FLOW)
    await caller.until_replies(2)
    assert caller.replies[0] == caller.replies[1]
    await caller.consume("p:flow:1")
    asked = build.submit(build.submission(ROOT, acknowledge=True))
    await caller.request(asked, asked, Attach(session="s", runs=(ROOT,)))
    told = build.outcomes(build.outcome(ROOT))
    late = build.outcomes(build.outcome(ROOT, "failed"))
    await caller.until(lambda: bool(caller.deliveries["p:flow:1"]))
    await caller.tell(build.started(ROOT), build.started(ROOT), told, told, late)
    await caller.until_finished(ROOT)
    await caller.request(asked)
    await caller.until(lambda: len(caller.finished()[ROOT]) == 2)
    assert {end.state for end in caller.finished()[ROOT]} == {"succeeded"}
    assert await _state(caller, ROOT) == "succeeded"
    assert len(caller.deliveries["p:flow:1"]) == 1
    assert service.refused_outcomes == 2


@pytest.mark.usefixtures("service")
async def test_a_run_that_nobody_serves_is_said_to_wait(caller: peers.Caller) -> None:
    await caller.ask(FLOW)
    reply = await caller.ask(build.submit(build.submission(ROOT)))
    assert reply == Unserved(run=ROOT, queue="p:flow:1")


@pytest.mark.usefixtures("service")
async def test_answers_that_wait_for_a_session_share_a_message(
    broker: MemoryBroker, caller: peers.Caller
) -> None:
    runs = [build.run_id(number) for number in range(1, 21)]
    await caller.ask(FLOW)
    await caller.request(build.submit(*(build.submission(run, acknowledge=True) for run in runs)))
    await caller.until_replies(1 + 2 * len(runs))
    assert len(caller.deliveries["replies:s"]) == 2
    assert caller.deliveries["replies:s"][-1].correlation_id is None


@pytest.mark.usefixtures("service")
async def test_large_results_do_not_share_a_message(caller: peers.Caller) -> None:
    runs = [build.run_id(number) for number in range(1, 5)]
    await caller.ask(FLOW)
    await caller.request(build.submit(*(build.submission(run) for run in runs)))
    await caller.until_replies(1 + len(runs))
    before = len(caller.deliveries["replies:s"])
    large = bytes(200 * 1024)
    await caller.tell(build.outcomes(*(build.outcome(run, result=large) for run in runs)))
    await caller.until_finished(*runs)
    assert len(caller.deliveries["replies:s"]) == before + len(runs)


@pytest.mark.usefixtures("service")
async def test_a_rejected_submission_says_why(caller: peers.Caller) -> None:
    target = Target(kind="task", name="fit", version="1", fingerprint="f")
    asked = Submission(run=ROOT, target=target, project="p", arguments=b"")
    reply = await caller.ask(build.submit(asked))
    assert isinstance(reply, Rejected)
    assert (reply.run, reply.code) == (ROOT, "not-deployed")
    assert caller.deliveries["replies:s"][-1].correlation_id == ROOT


# -- definitions and queues -----------------------------------------------------------------------


@pytest.mark.usefixtures("service")
async def test_a_registered_definition_has_its_queue_when_the_answer_comes(
    caller: peers.Caller,
) -> None:
    await caller.ask(build.register(build.spec("flow"), build.spec("other"), session="s"))
    for queue in ("p:flow:1", "p:other:1"):
        assert await caller.transport.inspect(queue) is not None


async def test_a_start_declares_the_queues_of_all_definitions(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.ask(FLOW)
    await transport.delete("p:flow:1")
    async with peers.coordinator(transport, tmp_path / "catalog"):
        assert await transport.inspect("p:flow:1") is not None


@pytest.mark.usefixtures("service")
async def test_a_work_queue_that_was_deleted_is_declared_again(caller: peers.Caller) -> None:
    await caller.ask(FLOW)
    await caller.transport.delete("p:flow:1")
    await caller.request(build.submit(build.submission(ROOT)))
    await caller.until_replies(2)
    status = await caller.transport.inspect("p:flow:1")
    assert status is not None
    assert status.messages == 1


@pytest.mark.usefixtures("service")
async def test_a_queue_with_other_properties_stops_nobody(caller: peers.Caller) -> None:
    await caller.transport.declare(Queue(name="p:flow:1"))
    assert isinstance(await caller.ask(FLOW), Registered)
    assert isinstance(await caller.ask(build.submit(build.submission(ROOT))), Unserved)


async def test_a_queue_that_can_not_be_declared_now_is_when_it_is_needed(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", QUICK):
        refusing.declares = False
        assert isinstance(await caller.ask(FLOW), Registered)
        assert await transport.inspect("p:flow:1") is None
        assert isinstance(await caller.ask(build.submit(build.submission(ROOT))), Unserved)
        refusing.declares = True
        await caller.transport.declare(topology.work_queue("p:flow:1"))
        await caller.consume("p:flow:1")
        await caller.until(lambda: bool(caller.deliveries["p:flow:1"]))


@pytest.mark.usefixtures("service")
async def test_queues_with_other_properties_keep_none_from_being_declared(
    caller: peers.Caller,
) -> None:
    await caller.transport.declare(Queue(name="p:flow:1"))
    await caller.ask(build.register(build.spec("flow"), build.spec("other"), session="s"))
    assert await caller.transport.inspect("p:other:1") is not None


# -- cancellation ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("service")
async def test_a_cancelled_tree_is_told_to_workers_and_to_all_who_wait(
    broker: MemoryBroker, caller: peers.Caller
) -> None:
    await caller.transport.declare(topology.control_queue("w"))
    await caller.consume("control:w")
    await caller.ask(FLOW)
    child = build.submission(CHILD, "flow", parent=ROOT)
    await caller.request(build.submit(build.submission(ROOT)), build.submit(child))
    await caller.request(Cancel(session="s", request="c", runs=(ROOT,)))
    await caller.until(lambda: isinstance(caller.replies[-1], Cancelled))
    assert caller.replies[-1] == Cancelled(request="c", runs=(ROOT, CHILD))
    ends = caller.finished()
    assert [ends[run] for run in (ROOT, CHILD)] == [
        [Finished(run=ROOT, state="cancelled")],
        [Finished(run=CHILD, state="cancelled")],
    ]
    await caller.until(lambda: bool(caller.deliveries["control:w"]))
    [delivery] = caller.deliveries["control:w"]
    assert codec.decode(delivery.body, Control).cancel == (ROOT, CHILD)

    await caller.tell(build.outcomes(build.outcome(ROOT)))
    grandchild = build.submission(OTHER, "flow", parent=CHILD)
    await caller.request(build.submit(grandchild))
    await caller.until_finished(OTHER)
    assert caller.finished()[OTHER] == [Finished(run=OTHER, state="cancelled")]
    assert await _state(caller, ROOT) == "cancelled"


# -- questions ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("service")
async def test_requests_are_answered_under_their_name(caller: peers.Caller) -> None:
    welcome = await caller.ask(Hello(session="s", request="1"))
    assert isinstance(welcome, Welcome)
    assert welcome.request == "1"
    unknown = await caller.ask(Resolve(session="s", request="2", identifier="x", project=None))
    assert isinstance(unknown, Refused)
    assert (unknown.request, unknown.code) == ("2", "unidentified")
    missing = await caller.ask(ShowRun(session="s", request="3", run=ROOT))
    assert isinstance(missing, Refused)
    assert (missing.request, missing.code) == ("3", "unknown-run")


@pytest.mark.usefixtures("service")
async def test_a_worker_is_listed_while_it_is_there(caller: peers.Caller) -> None:
    registered = await caller.ask(FLOW)
    assert isinstance(registered, Registered)
    await caller.request(build.heartbeat(registered.definitions[0].id))
    question = ListWorkers(session="s", request="w", project="p")
    listed = await caller.ask(question)
    assert isinstance(listed, Rows)
    assert [(row.id, row.definitions) for row in listed.workers] == [("w", ("p:flow:1",))]
    await caller.request(Goodbye(worker="w"))
    gone = await caller.ask(question)
    assert isinstance(gone, Rows)
    assert gone.workers == ()


# -- what can't be dealt with ---------------------------------------------------------------------


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(
    ("queue", "body", "reason"),
    [
        ("leveret.requests", b"\xc1", "not msgpack"),
        ("leveret.outcomes", b"", "not msgpack"),
        ("leveret.requests", codec.encode(build.outcomes()), "tag"),
        ("leveret.outcomes", codec.encode(build.heartbeat()), "type"),
        ("leveret.requests", codec.encode(Hello(session="s" * 300, request="r")), "300 bytes"),
    ],
    ids=["no msgpack", "empty", "of the other queue", "of another queue", "endless id"],
)
async def test_what_is_no_message_is_set_aside_with_its_reason(
    caller: peers.Caller, queue: str, body: bytes, reason: str
) -> None:
    await caller.consume("leveret.dead")
    await caller.transport.publish(
        Outgoing(body=body, queue=queue, correlation_id="c", headers={"mine": "kept"})
    )
    await caller.until(lambda: bool(caller.deliveries["leveret.dead"]))
    [dead] = caller.deliveries["leveret.dead"]
    assert dead.body == body
    assert dead.correlation_id == "c"
    assert dead.headers["mine"] == "kept"
    assert dead.headers[topology.ORIGIN_HEADER] == queue
    assert reason in dead.headers[topology.REASON_HEADER]
    assert isinstance(await caller.ask(Hello(session="s", request="1")), Welcome)


async def test_a_message_that_fails_is_set_aside_and_its_batch_goes_on(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.ask(FLOW)
    await caller.consume("leveret.dead")
    poison = build.submission(OTHER).model_copy(update={"ordinal": 2**63})  # too large for SQLite
    await caller.request(
        build.submit(build.submission(ROOT)), build.submit(poison), Hello(session="s", request="1")
    )
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.until(lambda: bool(caller.deliveries["leveret.dead"]))
        await caller.until_replies(3)  # registered, unserved, welcome
        assert await _state(caller, ROOT) in ("pending", "queued")
    [dead] = caller.deliveries["leveret.dead"]
    assert "OverflowError" in dead.headers[topology.REASON_HEADER]


async def test_messages_of_many_bytes_are_divided_into_batches(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    runs = [build.run_id(number) for number in range(1, 6)]
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.ask(FLOW)
    await caller.request(*(build.submit(build.submission(run)) for run in runs))
    small = CoordinatorSettings(largest_batch_bytes=1)
    async with peers.coordinator(transport, tmp_path / "catalog", small):
        await caller.until_replies(1 + len(runs))
    assert len(caller.deliveries["replies:s"]) == 1 + len(runs)


@pytest.mark.usefixtures("service")
async def test_a_catalog_that_can_not_be_written_is_tried_until_it_can(
    caller: peers.Caller, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await caller.ask(FLOW)
    with closing(sqlite3.connect(tmp_path / "catalog", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await caller.request(build.submit(build.submission(ROOT)))
        async with asyncio.timeout(peers.PATIENCE):
            while "can't be used now" not in caplog.text:
                await asyncio.sleep(0)
        other.execute("ROLLBACK")
    await caller.until_replies(2)
    assert caller.replies[-1] == Unserved(run=ROOT, queue="p:flow:1")


# -- what the broker doesn't take -----------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [BrokerBlocked("full"), Expired("late"), RuntimeError("a fault of the transport")],
    ids=lambda error: type(error).__name__,
)
async def test_what_was_not_published_is_published_again(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path, error: Exception
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", QUICK):
        await caller.ask(FLOW)
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
        await caller.ask(FLOW)
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
    async with peers.coordinator(refusing, tmp_path / "catalog", QUICK):
        refusing.full = {"replies:s"}
        await caller.request(Attach(session="s", runs=(ROOT,)))
        async with asyncio.timeout(peers.PATIENCE):
            while "message not published" not in caplog.text:
                await asyncio.sleep(0)
    assert caller.replies == []
    async with peers.coordinator(transport, tmp_path / "catalog", QUICK):
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
    async with peers.coordinator(refusing, tmp_path / "catalog", QUICK):
        await caller.ask(FLOW)
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
    async with peers.coordinator(transport, tmp_path / "catalog", QUICK):
        status = await transport.inspect(topology.REQUESTS.name)
        assert status is not None
        assert status.consumers == 1
        broker.unblock()
        await caller.until(lambda: bool(caller.deliveries["p:flow:1"]))


async def test_an_answer_that_the_broker_refuses_becomes_a_refusal(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", QUICK):
        await caller.ask(FLOW)
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
    async with peers.coordinator(refusing, tmp_path / "catalog", QUICK):
        await caller.ask(FLOW)
        await caller.request(build.submit(*map(build.submission, (ROOT, OTHER))))
        await caller.until_replies(3)
        refusing.largest = 2000
        large = build.outcome(ROOT, result=bytes(3000))
        await caller.tell(build.outcomes(large, build.outcome(OTHER)))
        await caller.until_finished(ROOT, OTHER)
        refusing.largest = None
        assert await _state(caller, ROOT) == "succeeded"
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
    async with peers.coordinator(refusing, tmp_path / "catalog", QUICK):
        await caller.ask(FLOW)
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
    async with peers.coordinator(refusing, tmp_path / "catalog", QUICK):
        await caller.ask(FLOW)
        refusing.largest = 2000
        large = build.submission(ROOT, arguments=bytes(3000))
        await caller.request(build.submit(large, build.submission(OTHER)))
        await caller.until_finished(ROOT)
        assert await _state(caller, ROOT) == "failed"
        assert await _state(caller, OTHER) in ("pending", "queued")
    [end] = caller.finished()[ROOT]
    assert end.failure is not None
    assert end.failure.type == "leveret.errors.PayloadError"
    assert len(refusing.refused) == 1
    assert "message refused by the broker" in caplog.text


async def test_what_can_not_be_said_in_fewer_words_is_not_said(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", QUICK):
        await caller.ask(FLOW)
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
        assert isinstance(await caller.ask(FLOW), Registered)


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
        assert isinstance(await caller.ask(FLOW), Registered)
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
        await caller.ask(FLOW)
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
        await caller.ask(FLOW)
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
        await caller.ask(FLOW)
        await caller.ask(build.submit(build.submission(ROOT)))
    with closing(sqlite3.connect(tmp_path / "catalog")) as connection:
        assert connection.execute("SELECT state FROM runs").fetchall() == [("queued",)]
    await caller.request(Hello(session="s", request="later"))
    status = await transport.inspect(topology.REQUESTS.name)
    assert status is not None
    assert (status.messages, status.consumers) == (1, 0)
