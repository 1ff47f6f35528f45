"""Messages to bytes and back."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret_broker import codec
from leveret_broker import messages as m
from leveret_broker.errors import MalformedMessage

DEFINITION = m.DefinitionRecord(
    id="task_1", project="p", kind="task", name="n", version="1", queue="p:n:1"
)
POLICY = m.RetryPolicy(
    max=3, initial=1, factor=2, cap=60, jitter=0.5, on=("OSError",), unless=("KeyError",),
    then="park",
)  # fmt: skip
OPTIONS = m.RunOptions(retry=POLICY, lost_retries=1, timeout=1.5, total_timeout=9, queue_timeout=3)
SPEC = m.DefinitionSpec(
    kind="workflow",
    name="n",
    version=None,
    fingerprint="f",
    module="app",
    qualname="n",
    options=OPTIONS,
)
FAILURE = m.Failure(
    type="ValueError", message="ä", traceback="…", kinds=("ValueError", "Exception")
)
ATTEMPT = m.AttemptRow(
    number=1, state="lost", worker="w", host="h", pid=3, started_at=1.0, leased_at=2.0,
    finished_at=3.0, failure=FAILURE,
)  # fmt: skip
RUN = m.RunRow(
    id="run_1", project="p", definition="p:n:1", kind="task", state="failed", attempt=2,
    root="run_0", parent="run_0", ordinal=1, asked_for="n", created_at=1.5, started_at=2.0,
    finished_at=None, worker=None, host="h", failure=FAILURE, key="k", due_at=9.0,
    attempts=(ATTEMPT,),
)  # fmt: skip
WORKER = m.WorkerRow(
    id="worker_1", project="p", host="h", pid=1, slots=4, busy=1, started_at=1.0,
    heartbeat_at=2.0, definitions=("p:n:1",),
)  # fmt: skip

REQUESTS: list[m.Request] = [
    m.Hello(session="s", request="r"),
    m.Register(session="s", request="r", project="p", definitions=(SPEC,)),
    m.Resolve(session="s", request="r", identifier="n:1", project=None),
    m.Submit(
        session="s",
        submissions=(
            m.Submission(
                run="run_1",
                target=m.Target(kind="workflow", name="n", fingerprint="f"),
                project="p",
                arguments=b"\x00\xff",
                parent="run_0",
                root="run_0",
                identity="i",
                ordinal=3,
                acknowledge=True,
                options=OPTIONS,
                key="k",
                digest="d",
                round=2,
            ),
            m.Submission(
                run="run_2",
                target=m.Target(kind="step", name="leveret.step"),
                project="p",
                arguments=b"",
                recorded=m.Recorded(
                    name="now", result=b"r", error=b"e", failure=FAILURE, delay=2.5
                ),
            ),
        ),
    ),
    m.Attach(session="s", runs=("run_1",)),
    m.Cancel(session="s", request="r", runs=("run_1", "run_2"), project="p"),
    m.Retry(session="s", request="r", run="run_1", project="p", version="2", resume=True),
    m.Explain(session="s", request="r", run="run_1", project="p"),
    m.ListDefinitions(session="s", request="r", project="p"),
    m.ListRuns(session="s", request="r", project=None, state="failed", since=1.0, limit=7),
    m.ShowRun(session="s", request="r", run="run_1"),
    m.Prune(session="s", request="r", older_than=3600.0, after=m.Position(created_at=1.5, seq=7)),
    m.ListWorkers(session="s", request="r", project=None),
    m.Heartbeat(
        worker="w", project="p", host="h", pid=1, slots=4, busy=2, started_at=0.5,
        definitions=("task_1",), held={"task_1": 3},
    ),
    m.Goodbye(worker="w"),
]  # fmt: skip
REPLIES = m.Replies(
    replies=(
        m.Welcome(request="r", version="1"),
        m.Registered(request="r", definitions=(DEFINITION,)),
        m.Resolved(request="r", definition=DEFINITION),
        m.Refused(request="r", code="conflict", message="no"),
        m.Cancelled(request="r", runs=("run_1",)),
        m.Accepted(run="run_1", definition=DEFINITION),
        m.Rejected(run="run_1", code="key-conflict", message="no", arguments=b"a"),
        m.Retried(request="r", run="run_1", attempt=2, definition="p:n:1"),
        m.Explanation(request="r", run="run_1", state="queued", text="…", chain=("run_1",)),
        m.Unserved(run="run_1", queue="p:n:1"),
        m.Finished(run="run_1", state="failed", error=b"\xff", failure=FAILURE),
        m.Rows(
            request="r",
            definitions=(m.DefinitionRow(definition=DEFINITION, workers=2),),
            runs=(RUN,),
            workers=(WORKER,),
        ),
        m.Tree(request="r", runs=(RUN,)),
        m.Pruned(request="r", trees=1, runs=2, place=m.Position(created_at=1.5, seq=7)),
    )
)
INVOCATIONS = m.Invocations(
    project="p",
    definition="task_1",
    runs=(
        m.Invocation(
            run="run_1", attempt=1, root="run_1", parent=None, arguments=b"\xfe", round=2,
            timeout=1.5, announce=True, again=True,
        ),
    ),
    generation=1 << 33,
)  # fmt: skip
OUTCOMES = m.Outcomes(
    worker="w",
    outcomes=(
        m.Outcome(
            run="run_1", attempt=1, state="succeeded", result=b"r", started_at=1.0, finished_at=2.0
        ),
    ),
    started=(m.Started(run="run_2", attempt=1, started_at=1.0, leased=True),),
    claims=(m.Claim(run="run_3", attempt=1, handed_out=True, executing=True, started_at=1.0),),
    join=m.Heartbeat(
        worker="w", project="p", host="h", pid=1, slots=4, busy=2, started_at=0.5, definitions=()
    ),
)
CONTROL = m.Control(
    stop=(m.Stop(run="run_1", attempt=2),),
    verdicts=(m.Verdict(run="run_1", attempt=1, granted=2),),
    generation=7,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.type)
def test_every_request_arrives_as_it_was_sent(request_: m.Request) -> None:
    assert codec.decode_request(codec.encode(request_)) == request_


def test_every_other_message_arrives_as_it_was_sent() -> None:
    assert codec.decode(codec.encode(REPLIES), m.Replies) == REPLIES
    assert codec.decode(codec.encode(INVOCATIONS), m.Invocations) == INVOCATIONS
    assert codec.decode(codec.encode(OUTCOMES), m.Outcomes) == OUTCOMES
    assert codec.decode(codec.encode(CONTROL), m.Control) == CONTROL


def attempt_all(body: bytes) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: codec.decode_request(body),
        lambda: codec.decode(body, m.Replies),
        lambda: codec.decode(body, m.Invocations),
        lambda: codec.decode(body, m.Outcomes),
        lambda: codec.decode(body, m.Control),
    ]
    for attempt in attempts:
        with suppress(MalformedMessage):
            attempt()


@given(st.binary())
def test_bytes_of_any_kind_are_at_worst_malformed(body: bytes) -> None:
    attempt_all(body)


@given(st.dictionaries(st.text() | st.sampled_from(["type", "runs", "replies"]), anything))
def test_a_map_of_any_kind_is_at_worst_malformed(fields: dict[Any, Any]) -> None:
    attempt_all(msgpack.packb({**fields, "v": codec.PROTOCOL}))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_message_is_at_worst_malformed(position: int, byte: int) -> None:
    body = bytearray(codec.encode(REPLIES))
    body[position % len(body)] = byte
    attempt_all(bytes(body))


def test_fields_of_a_newer_version_are_ignored() -> None:
    fields = msgpack.unpackb(codec.encode(CONTROL))
    assert codec.decode(msgpack.packb({**fields, "newer": 1}), m.Control) == CONTROL


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (msgpack.packb([1]), "a list where a map was expected"),
        (msgpack.packb({}), "protocol version None, this side speaks 2"),
        (msgpack.packb({"v": 1}), "protocol version 1, this side speaks 2"),
        (msgpack.packb({"v": 2, "stop": 5}), "stop: "),
    ],
)
def test_the_reason_of_a_malformed_message_is_named(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=f"^{reason}"):
        codec.decode(body, m.Control)
