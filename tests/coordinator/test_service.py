"""The coordinator at work over the in-memory broker, with a catalog in a file."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from leveret_broker import codec, topology
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import (
    Accepted,
    Attach,
    Cancel,
    Cancelled,
    Control,
    Finished,
    Goodbye,
    Hello,
    Invocations,
    ListWorkers,
    Refused,
    Registered,
    Rejected,
    Resolve,
    Rows,
    ShowRun,
    Submission,
    Target,
    Unserved,
    Welcome,
)
from leveret_broker.transport import Outgoing, Queue
from leveret_coordinator.service import CoordinatorService, CoordinatorSettings
from tests.coordinator import build, peers
from tests.coordinator.build import control_queue
from tests.coordinator.faults import RefusingTransport

ROOT, CHILD, OTHER = (build.run_id(number) for number in range(1, 4))


# -- from submission to reply ---------------------------------------------------------------------


@pytest.mark.usefixtures("service")
async def test_a_run_goes_to_the_queue_of_its_definition_and_its_end_to_the_caller(
    caller: peers.Caller,
) -> None:
    registered = await caller.ask(peers.FLOW)
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
    await caller.request(peers.FLOW, peers.FLOW)
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
    assert await peers.state_of(caller, ROOT) == "succeeded"
    assert len(caller.deliveries["p:flow:1"]) == 1
    assert service.refused_outcomes == 2


@pytest.mark.usefixtures("service")
async def test_a_run_that_nobody_serves_is_said_to_wait(caller: peers.Caller) -> None:
    await caller.ask(peers.FLOW)
    reply = await caller.ask(build.submit(build.submission(ROOT)))
    assert reply == Unserved(run=ROOT, queue="p:flow:1")


@pytest.mark.usefixtures("service")
async def test_answers_that_wait_for_a_session_share_a_message(
    broker: MemoryBroker, caller: peers.Caller
) -> None:
    runs = [build.run_id(number) for number in range(1, 21)]
    await caller.ask(peers.FLOW)
    await caller.request(build.submit(*(build.submission(run, acknowledge=True) for run in runs)))
    await caller.until_replies(1 + 2 * len(runs))
    assert len(caller.deliveries["replies:s"]) == 2
    assert caller.deliveries["replies:s"][-1].correlation_id is None


@pytest.mark.usefixtures("service")
async def test_large_results_do_not_share_a_message(caller: peers.Caller) -> None:
    runs = [build.run_id(number) for number in range(1, 5)]
    await caller.ask(peers.FLOW)
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
        await caller.ask(peers.FLOW)
    await transport.delete("p:flow:1")
    async with peers.coordinator(transport, tmp_path / "catalog"):
        assert await transport.inspect("p:flow:1") is not None


@pytest.mark.usefixtures("service")
async def test_a_work_queue_that_was_deleted_is_declared_again(caller: peers.Caller) -> None:
    await caller.ask(peers.FLOW)
    await caller.transport.delete("p:flow:1")
    await caller.request(build.submit(build.submission(ROOT)))
    await caller.until_replies(2)
    status = await caller.transport.inspect("p:flow:1")
    assert status is not None
    assert status.messages == 1


@pytest.mark.usefixtures("service")
async def test_a_queue_with_other_properties_stops_nobody(caller: peers.Caller) -> None:
    await caller.transport.declare(Queue(name="p:flow:1"))
    assert isinstance(await caller.ask(peers.FLOW), Registered)
    assert isinstance(await caller.ask(build.submit(build.submission(ROOT))), Unserved)


async def test_a_queue_that_can_not_be_declared_now_is_when_it_is_needed(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        refusing.declares = False
        assert isinstance(await caller.ask(peers.FLOW), Registered)
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
    await caller.transport.declare(control_queue("w"))
    await caller.consume("control:w")
    await caller.ask(peers.FLOW)
    child = build.submission(CHILD, "flow", parent=ROOT)
    await caller.request(build.submit(build.submission(ROOT)), build.submit(child))
    await caller.request(Cancel(session="s", request="c", runs=(ROOT,)))
    await caller.until(lambda: isinstance(caller.replies[-1], Cancelled))
    assert caller.replies[-1] == Cancelled(request="c", runs=(ROOT, CHILD))
    ends = caller.finished()
    assert [ends[run] for run in (ROOT, CHILD)] == [
        [Finished(run=ROOT, state="cancelled")],
        [Finished(run=CHILD, state="cancelled", has_parent_ended=True)],
    ]
    await caller.until(lambda: bool(caller.deliveries["control:w"]))
    [delivery] = caller.deliveries["control:w"]
    stops = codec.decode(delivery.body, Control).stop
    assert [(stop.run, stop.attempt) for stop in stops] == [(ROOT, 1), (CHILD, 1)]

    await caller.tell(build.outcomes(build.outcome(ROOT)))
    grandchild = build.submission(OTHER, "flow", parent=CHILD)
    await caller.request(build.submit(grandchild))
    await caller.until_finished(OTHER)
    told = Finished(run=OTHER, state="cancelled", has_parent_ended=True)
    assert caller.finished()[OTHER] == [told]
    assert await peers.state_of(caller, ROOT) == "cancelled"


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
    registered = await caller.ask(peers.FLOW)
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


@pytest.mark.usefixtures("service")
async def test_a_request_that_poses_as_a_marker_is_a_request(caller: peers.Caller) -> None:
    await caller.consume("leveret.dead")
    hello = codec.encode(Hello(session="s", request="1"))
    for body in (b"nonsense", hello):
        headers = {topology.MARKER_HEADER: "a guess"}
        await caller.transport.publish(
            Outgoing(body=body, queue=topology.REQUESTS.name, headers=headers)
        )
    await caller.until_replies(1)
    await caller.until(lambda: bool(caller.deliveries["leveret.dead"]))
    [dead] = caller.deliveries["leveret.dead"]
    assert dead.body == b"nonsense"
    assert dead.headers[topology.REASON_HEADER].startswith("malformed: not msgpack")


@pytest.mark.usefixtures("service")
async def test_what_comes_through_an_exchange_of_a_project_speaks_for_that_project_only(
    caller: peers.Caller,
) -> None:
    await caller.consume("leveret.dead")
    await caller.transport.declare(*topology.exchanges("q"))
    outgoing = Outgoing(
        body=codec.encode(Hello(session="s", request="1")),
        queue=topology.REQUESTS.name,
        exchange=topology.project_exchange("q"),
    )
    await caller.transport.publish(outgoing)
    await caller.until(lambda: bool(caller.deliveries["leveret.dead"]))
    [dead] = caller.deliveries["leveret.dead"]
    reason = "refused: from the project 'q', and 's' is not of it"
    assert dead.headers[topology.REASON_HEADER] == reason
    assert not caller.replies


async def test_a_message_that_fails_is_set_aside_and_its_batch_goes_on(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.ask(peers.FLOW)
    await caller.consume("leveret.dead")
    poison = build.submission(OTHER).model_copy(update={"ordinal": 2**63})  # too large for SQLite
    await caller.request(
        build.submit(build.submission(ROOT)), build.submit(poison), Hello(session="s", request="1")
    )
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.until(lambda: bool(caller.deliveries["leveret.dead"]))
        await caller.until_replies(3)  # registered, unserved, welcome
        assert await peers.state_of(caller, ROOT) in ("pending", "queued")
    [dead] = caller.deliveries["leveret.dead"]
    assert "OverflowError" in dead.headers[topology.REASON_HEADER]


async def test_messages_of_many_bytes_are_divided_into_batches(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    runs = [build.run_id(number) for number in range(1, 6)]
    async with peers.coordinator(transport, tmp_path / "catalog"):
        await caller.ask(peers.FLOW)
    await caller.request(*(build.submit(build.submission(run)) for run in runs))
    small = CoordinatorSettings(largest_batch_bytes=1)
    async with peers.coordinator(transport, tmp_path / "catalog", small):
        await caller.until_replies(1 + len(runs))
    assert len(caller.deliveries["replies:s"]) == 1 + len(runs)


@pytest.mark.usefixtures("service")
async def test_a_catalog_that_can_not_be_written_is_tried_until_it_can(
    caller: peers.Caller, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await caller.ask(peers.FLOW)
    with closing(sqlite3.connect(tmp_path / "catalog", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await caller.request(build.submit(build.submission(ROOT)))
        async with asyncio.timeout(peers.PATIENCE):
            while "can't be used now" not in caplog.text:
                await asyncio.sleep(0)
        other.execute("ROLLBACK")
    await caller.until_replies(2)
    assert caller.replies[-1] == Unserved(run=ROOT, queue="p:flow:1")
