"""One caller's conversation with the coordinator, over a broker in memory."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from leveret.errors import CoordinatorUnreachable, PayloadError
from leveret.pending import Pending
from leveret.session import Session
from leveret_broker import codec, identifiers, messages, topology
from leveret_broker.errors import BrokerBlocked, Refused, TransportError
from leveret_broker.lifecycle import Connected
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import Delivery, Outgoing
from leveret_coordinator.service import CoordinatorService


class Narrow(MemoryTransport):
    """A broker that takes no message over 10,000 bytes."""

    def __init__(self, broker: MemoryBroker, *, publish_timeout: float) -> None:
        super().__init__(broker, publish_timeout=publish_timeout)
        self.submitted: list[messages.Submission] = []
        """What the broker has taken."""

    async def publish(self, message: Outgoing) -> None:
        if len(message.body) > 10_000:
            raise Refused("the broker refused the message: too large")
        await super().publish(message)
        if message.queue == topology.REQUESTS.name:
            request = codec.decode_request(message.body)
            if isinstance(request, messages.Submit):
                self.submitted += request.submissions


class Site:
    def __init__(self, catalog: Path) -> None:
        self.broker = MemoryBroker()
        self.catalog = catalog
        self.transport = Narrow(self.broker, publish_timeout=0.5)
        self.session = self.new_session()
        self.coordinator = self.new_coordinator()

    def new_coordinator(self) -> Connected:
        transport = MemoryTransport(self.broker)
        return Connected(transport, CoordinatorService(transport, self.catalog))

    def new_session(self) -> Session:
        """Another caller, on the same connection."""
        return Session(self.transport, where="memory", patience=2.0)

    async def register(self) -> None:
        spec = messages.DefinitionSpec(
            kind="task", name="work", version="0", fingerprint="f", module="m", qualname="work"
        )
        asked = messages.Register(
            session=self.session.id, request="1", project="p", definitions=(spec,)
        )
        answer = await self.session.ask("1", asked, messages.Registered)
        assert isinstance(answer, messages.Registered)

    def submission(self, size: int = 10, **fields: Any) -> messages.Submission:
        plain = messages.Submission(
            run=identifiers.new_id("run"),
            target=messages.Target(identifier="work"),
            project="p",
            arguments=bytes(size),
            acknowledge=True,
        )
        return plain.model_copy(update=fields)

    async def finish(self, run: str, state: messages.AttemptEnd = "succeeded") -> None:
        """Tell the coordinator how the first attempt ended, on a connection of its own."""
        transport = MemoryTransport(self.broker)
        await transport.open()
        outcome = messages.Outcome(
            run=run,
            attempt=1,
            state=state,
            result=b"result" if state == "succeeded" else None,
            error=None if state == "succeeded" else b"error",
            started_at=1.0,
            finished_at=2.0,
        )
        body = codec.encode(messages.Outcomes(worker="worker", outcomes=(outcome,)))
        await transport.publish(Outgoing(queue=topology.OUTCOMES.name, body=body))
        await transport.close()

    async def state(self, run: str, session: Session | None = None) -> str:
        asker = session or self.session
        asked = messages.ShowRun(session=asker.id, request=identifiers.new_id("request"), run=run)
        answer = await asker.ask(asked.request, asked, messages.Tree)
        assert isinstance(answer, messages.Tree)
        return answer.runs[0].state


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    made = Site(tmp_path / "catalog.sqlite")
    await made.transport.open()
    await made.coordinator.start()
    await made.session.start()
    await made.register()
    yield made
    await made.session.stop()
    await made.coordinator.stop()
    await made.transport.close()


async def test_asking_for_the_same_run_twice_is_asking_once(site: Site) -> None:
    submission = site.submission()
    first, second = site.session.submit(submission), site.session.submit(submission)
    assert first is second
    assert site.session.attach(submission.run) is first


async def ended(pending: Pending) -> messages.Wire | None:
    """The last word about a run."""
    async with asyncio.timeout(5):
        await pending.until(lambda pending: pending.is_settled)
    return pending.answer


async def accepted(pending: Pending) -> None:
    async with asyncio.timeout(5):
        await pending.until(lambda pending: pending.is_accepted)


async def test_equal_arguments_with_other_bytes_share_the_run(site: Site) -> None:
    submission = site.submission(digest="1")
    other = submission.model_copy(update={"arguments": b"as another process pickles them"})
    assert site.session.submit(submission) is site.session.submit(other)


async def test_who_wants_to_know_that_a_shared_run_is_accepted_hears_it(site: Site) -> None:
    quiet = site.submission(acknowledge=False)
    first = site.session.submit(quiet)
    second = site.session.submit(quiet.model_copy(update={"acknowledge": True}))
    assert second is first
    await accepted(second)


@pytest.mark.parametrize("acknowledge", [True, False])
async def test_a_key_with_other_arguments_in_one_process_is_a_conflict(
    site: Site, acknowledge: bool
) -> None:
    has_it = site.submission(key="k", digest="1", acknowledge=acknowledge)
    wants_it = has_it.model_copy(update={"digest": "2", "arguments": b"others"})
    first, second = site.session.submit(has_it), site.session.submit(wants_it)
    refused = await ended(second)
    assert isinstance(refused, messages.Rejected)
    assert (refused.code, refused.arguments) == ("key-conflict", has_it.arguments)
    assert second.submission == wants_it
    assert not first.is_settled
    await site.finish(has_it.run)
    assert isinstance(await ended(first), messages.Finished)
    assert {sent.digest for sent in site.transport.submitted} == {"1"}


async def test_a_key_whose_first_call_was_refused_is_free_for_the_second(site: Site) -> None:
    nowhere = messages.Target(identifier="nowhere")
    refused = site.submission(key="k", digest="1", target=nowhere)
    taken = site.submission(key="k", digest="2", run=refused.run)
    first, second = site.session.submit(refused), site.session.submit(taken)
    assert isinstance(await ended(first), messages.Rejected)
    await accepted(second)
    assert not second.is_settled


async def test_a_later_round_is_not_answered_by_what_an_earlier_one_asked(site: Site) -> None:
    before = site.submission(round=1)
    first = site.session.submit(before)
    second = site.session.submit(before.model_copy(update={"round": 2}))
    await accepted(first)
    assert [sent.round for sent in site.transport.submitted] == [1]
    await site.finish(before.run)
    assert isinstance(await ended(first), messages.Finished)
    assert isinstance(await ended(second), messages.Finished)
    assert [sent.round for sent in site.transport.submitted] == [1, 2]


async def test_cancelling_a_run_ends_all_that_wait_for_it(site: Site) -> None:
    submission = site.submission(round=1)
    first = site.session.submit(submission)
    second = site.session.submit(submission.model_copy(update={"round": 2}))
    await accepted(first)
    site.session.cancel(submission.run)
    for pending in (first, second):
        end = await ended(pending)
        assert isinstance(end, messages.Finished)
        assert end.state == "cancelled"
    assert [sent.round for sent in site.transport.submitted] == [1]


async def test_who_attached_hears_the_end_and_not_that_a_key_is_in_use(site: Site) -> None:
    has_it = site.submission(key="k", digest="1")
    other = Session(site.transport, where="memory")
    await other.start()
    await accepted(other.submit(has_it))
    attached = site.session.attach(has_it.run)
    refused = await ended(site.session.submit(has_it.model_copy(update={"digest": "2"})))
    assert isinstance(refused, messages.Rejected)
    assert (refused.code, refused.arguments) == ("key-conflict", has_it.arguments)
    assert not attached.is_settled
    await site.finish(has_it.run)
    assert isinstance(await ended(attached), messages.Finished)
    await other.stop()


async def test_a_run_that_nobody_knows_can_be_attached_to_and_asked_for(site: Site) -> None:
    submission = site.submission()
    attached = site.session.attach(submission.run)
    submitted = site.session.submit(submission)
    unknown = await ended(attached)
    assert isinstance(unknown, messages.Rejected)
    assert unknown.code == "unknown-run"
    await accepted(submitted)
    assert not submitted.is_settled


async def test_a_run_that_has_ended_can_be_attached_to_again(site: Site) -> None:
    submission = site.submission()
    first = site.session.submit(submission)
    await accepted(first)
    await site.finish(submission.run)
    assert isinstance(await ended(first), messages.Finished)
    again = site.session.attach(submission.run)
    assert again is not first
    assert await ended(again) == first.answer


async def tell(site: Site, *ends: messages.Finished) -> None:
    """Have the session told these ends, as by a reply that is delivered late or again."""
    body = codec.encode(messages.Replies(replies=ends))
    queue = topology.reply_queue_name(site.session.id)
    await site.transport.publish(Outgoing(queue=queue, body=body))


async def test_who_retried_a_run_does_not_hear_the_end_before(site: Site) -> None:
    other, run = site.submission(), site.submission().run
    unended = site.session.attach(run, attempt=2)
    heard = site.session.submit(other)
    late = messages.Finished(run=run, state="failed", attempt=1)
    await tell(site, late, messages.Finished(run=other.run, state="failed"))
    await ended(heard)
    assert unended.answer != late
    await tell(site, messages.Finished(run=run, state="succeeded", attempt=2, result=b"r"))
    assert isinstance(await ended(unended), messages.Finished | messages.Rejected)


async def test_a_later_round_does_not_hear_how_an_earlier_one_failed(site: Site) -> None:
    asked = site.submission(round=2)
    pending = site.session.submit(asked)
    await accepted(pending)
    late = messages.Finished(run=asked.run, state="cancelled", parent_round=1)
    success = messages.Finished(run=asked.run, state="succeeded", parent_round=1, result=b"r")
    await tell(site, late, success)
    assert await ended(pending) == success, "what succeeded counts in every round"


async def test_a_run_that_is_cancelled_while_its_submission_is_held_up_is_cancelled(
    site: Site,
) -> None:
    submission = site.submission()
    site.broker.block()
    pending = site.session.submit(submission)
    for _ in range(10):
        await asyncio.sleep(0)
    site.session.cancel(submission.run)
    site.broker.unblock()
    async with asyncio.timeout(5):
        await pending.until(lambda pending: pending.is_settled)
    assert isinstance(pending.answer, messages.Finished)
    assert pending.answer.state == "cancelled"
    assert await site.state(submission.run) == "cancelled"


@pytest.mark.parametrize("is_held_up", [False, True], ids=["accepted", "on its way"])
async def test_what_is_cancelled_right_before_the_session_stops_is_cancelled(
    site: Site, is_held_up: bool
) -> None:
    """A program that is interrupted cancels what it awaits, and ends."""
    caller = site.new_session()
    await caller.start()
    submission = site.submission()
    if is_held_up:
        site.broker.block()
    pending = caller.submit(submission)
    if is_held_up:
        for _ in range(10):
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.1, site.broker.unblock)
    else:
        await accepted(pending)
    caller.cancel(submission.run)
    await caller.stop()
    assert await site.state(submission.run) == "cancelled"


async def test_a_run_that_is_cancelled_before_it_was_sent_is_never_sent(site: Site) -> None:
    submission = site.submission()
    pending = site.session.submit(submission)
    site.session.cancel(submission.run)
    await pending.until(lambda pending: pending.is_settled)
    assert isinstance(pending.answer, messages.Finished)
    asked = messages.ShowRun(session=site.session.id, request="show", run=submission.run)
    answer = await site.session.ask("show", asked, messages.Tree)
    assert isinstance(answer, messages.Refused)
    assert answer.code == "unknown-run"


async def test_a_broker_that_takes_nothing_fails_the_submission_in_time(site: Site) -> None:
    site.broker.block()
    pending = site.session.submit(site.submission())
    async with asyncio.timeout(5):
        await pending.until(lambda pending: pending.is_settled)
    assert isinstance(pending.error, CoordinatorUnreachable)
    assert "blocked" in str(pending.error)
    site.broker.unblock()


async def test_a_lost_connection_loses_no_answer(site: Site) -> None:
    pending = [site.session.submit(site.submission()) for _ in range(20)]
    site.broker.drop_connections()
    async with asyncio.timeout(5):
        for one in pending:
            await one.until(lambda pending: pending.is_accepted)


async def test_a_coordinator_that_is_away_is_waited_for(site: Site) -> None:
    await site.coordinator.stop()
    pending = site.session.submit(site.submission())
    site.coordinator = site.new_coordinator()
    await site.coordinator.start()
    async with asyncio.timeout(5):
        await pending.until(lambda pending: pending.is_accepted)


async def test_a_reply_that_is_no_reply_is_set_aside_with_its_reason(site: Site) -> None:
    queue = topology.reply_queue_name(site.session.id)
    dead: asyncio.Queue[Delivery] = asyncio.Queue()
    await site.transport.consume(topology.DEAD.name, dead.put_nowait, prefetch=0)
    await site.transport.publish(Outgoing(queue=queue, body=b"garbage"))
    pending = site.session.submit(site.submission())
    async with asyncio.timeout(5):
        await pending.until(lambda pending: pending.is_accepted)
        letter = await dead.get()
    assert letter.body == b"garbage"
    assert letter.headers[topology.REASON_HEADER].startswith("malformed: not msgpack")
    assert letter.headers[topology.ORIGIN_HEADER] == queue


async def test_replies_that_nobody_may_set_aside_are_dropped_counted_and_told_in_few_lines(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    queue = topology.reply_queue_name(site.session.id)
    await site.transport.delete(topology.DEAD.name)
    for _ in range(9):
        await site.transport.publish(Outgoing(queue=queue, body=b"garbage"))
    async with asyncio.timeout(5):
        while "message dropped, since it can't be set aside" not in caplog.text or (
            "count=8" not in caplog.text
        ):
            await asyncio.sleep(0.01)
    assert caplog.text.count("message set aside") == 4
    pending = site.session.submit(site.submission())
    async with asyncio.timeout(5):
        await pending.until(lambda pending: pending.is_accepted)
    status = await site.transport.inspect(queue)
    assert status is not None
    assert status.messages == 0


async def test_what_is_asked_of_a_stopped_session_fails_at_once(site: Site) -> None:
    await site.session.stop()
    for pending in (site.session.submit(site.submission()), site.session.attach("run")):
        async with asyncio.timeout(5):
            await pending.until(lambda pending: pending.is_settled)
        assert isinstance(pending.error, CoordinatorUnreachable)
    asked = messages.ShowRun(session=site.session.id, request="1", run="run")
    with pytest.raises(CoordinatorUnreachable, match="closed"):
        await site.session.ask("1", asked, messages.Tree)


async def test_a_coordinator_that_never_answers_is_told_in_time() -> None:
    transport = MemoryTransport(MemoryBroker())
    await transport.open()
    session = Session(transport, where="amqp://h/", patience=0.3)
    with pytest.raises(CoordinatorUnreachable, match="no coordinator answered at amqp://h/"):
        await session.start()
    await session.stop()
    await transport.close()


async def test_an_end_that_was_told_while_the_caller_was_away_is_asked_for_again(
    site: Site,
) -> None:
    submission, keyed = site.submission(), site.submission(key="k", digest="1")
    started = [site.session.submit(each) for each in (submission, keyed, submission)]
    for pending in started:
        await accepted(pending)
    onlooker = MemoryTransport(site.broker)
    await onlooker.open()
    other = Session(onlooker, where="memory")
    await other.start()
    elsewhere = site.submission()
    await accepted(other.submit(elsewhere))
    attached = site.session.attach(elsewhere.run)
    await site.state(elsewhere.run)  # the one before was dealt with
    site.transport.lose()
    site.broker.delete(topology.reply_queue_name(site.session.id))
    runs = (submission.run, keyed.run, elsewhere.run)
    for run in runs:
        await site.finish(run)
    async with asyncio.timeout(5):
        for run in runs:
            while await site.state(run, other) != "succeeded":
                await asyncio.sleep(0)
        await site.state(submission.run, other)  # the reply of that batch is published by now
    site.transport.come_back_soon()
    for pending in (*started, attached):
        end = await ended(pending)
        assert isinstance(end, messages.Finished)
        assert end.result == b"result"
    await other.stop()
    await onlooker.close()


async def test_what_was_asked_once_is_asked_again_until_the_broker_takes_it(site: Site) -> None:
    submission = site.submission()
    pending = site.session.submit(submission)
    await accepted(pending)
    site.broker.drop_connections()
    site.broker.block()
    for _ in range(3):  # longer than the broker is given to take a message
        with pytest.raises(BrokerBlocked):
            await site.transport.publish(Outgoing(queue=topology.REQUESTS.name, body=b""))
    assert not pending.is_settled
    site.broker.unblock()
    await site.finish(submission.run)
    assert isinstance(await ended(pending), messages.Finished)


async def test_arguments_that_the_broker_refuses_fail_their_run_only(site: Site) -> None:
    sizes = [10, 20_000, 6_000, 6_000, 10]
    pending = [site.session.submit(site.submission(size)) for size in sizes]
    async with asyncio.timeout(5):
        for one in pending:
            await one.until(lambda pending: pending.is_accepted)
    assert [type(one.error) for one in pending] == [
        type(None),
        PayloadError,
        type(None),
        type(None),
        type(None),
    ]
    assert "20000 bytes" in str(pending[1].error)


async def test_a_cancellation_outlasts_a_broker_that_takes_nothing(site: Site) -> None:
    submission = site.submission()
    pending = site.session.submit(submission)
    await accepted(pending)
    site.broker.block()
    site.session.cancel(submission.run)
    with pytest.raises(TransportError):  # for longer than a publication may take
        await site.transport.publish(Outgoing(queue=topology.REQUESTS.name, body=b""))
    site.broker.unblock()
    end = await ended(pending)
    assert isinstance(end, messages.Finished)
    assert end.state == "cancelled"


async def test_what_is_stopped_before_it_was_sent_again_is_stopped_where_it_runs(
    site: Site,
) -> None:
    parent = site.submission()
    child = site.submission(parent=parent.run)
    earlier = site.new_session()
    await earlier.start()
    await accepted(earlier.submit(parent))
    before = earlier.submit(child)
    await accepted(before)
    again = site.session.submit(child)
    site.session.cancel(child.run, caller=(parent.run, 1))
    for pending in (again, before):
        end = await ended(pending)
        assert isinstance(end, messages.Finished)
        assert end.state == "cancelled"
    await earlier.stop()
