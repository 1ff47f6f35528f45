"""One caller's conversation with the coordinator, over a broker in memory."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from leveret.errors import CoordinatorUnreachable, PayloadError
from leveret.session import Session
from leveret_broker import codec, identifiers, messages, topology
from leveret_broker.errors import Refused
from leveret_broker.lifecycle import Connected
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import Outgoing
from leveret_coordinator.service import CoordinatorService


class Narrow(MemoryTransport):
    """A broker that takes no message over 10,000 bytes."""

    async def publish(self, message: Outgoing) -> None:
        if len(message.body) > 10_000:
            raise Refused("the broker refused the message: too large")
        await super().publish(message)


class Site:
    def __init__(self, catalog: Path) -> None:
        self.broker = MemoryBroker()
        self.catalog = catalog
        self.transport = Narrow(self.broker, publish_timeout=0.5)
        self.session = Session(self.transport, where="memory", patience=2.0)
        self.coordinator = self.new_coordinator()

    def new_coordinator(self) -> Connected:
        transport = MemoryTransport(self.broker)
        return Connected(transport, CoordinatorService(transport, self.catalog))

    async def register(self) -> None:
        spec = messages.DefinitionSpec(
            kind="task", name="work", version="0", fingerprint="f", module="m", qualname="work"
        )
        asked = messages.Register(
            session=self.session.id, request="1", project="p", definitions=(spec,)
        )
        answer = await self.session.ask("1", asked, messages.Registered)
        assert isinstance(answer, messages.Registered)

    def submission(self, size: int = 10) -> messages.Submission:
        return messages.Submission(
            run=identifiers.new_id("run"),
            target=messages.Target(identifier="work"),
            project="p",
            arguments=bytes(size),
            acknowledge=True,
        )

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


async def test_a_reply_that_is_no_reply_is_set_aside(site: Site) -> None:
    queue = topology.reply_queue_name(site.session.id)
    await site.transport.publish(Outgoing(queue=queue, body=b"garbage"))
    pending = site.session.submit(site.submission())
    async with asyncio.timeout(5):
        await pending.until(lambda pending: pending.is_accepted)


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
    submission = site.submission()
    pending = site.session.submit(submission)
    async with asyncio.timeout(5):
        await pending.until(lambda pending: pending.is_accepted)
    site.transport.lose()
    site.broker.delete(topology.reply_queue_name(site.session.id))
    onlooker = MemoryTransport(site.broker)
    await onlooker.open()
    outcome = messages.Outcome(
        run=submission.run,
        attempt=1,
        state="succeeded",
        result=b"result",
        started_at=1.0,
        finished_at=2.0,
    )
    body = codec.encode(messages.Outcomes(worker="worker", outcomes=(outcome,)))
    other = Session(onlooker, where="memory")
    await other.start()
    await onlooker.publish(Outgoing(queue=topology.OUTCOMES.name, body=body))
    async with asyncio.timeout(5):
        while await site.state(submission.run, other) != "succeeded":
            await asyncio.sleep(0)
        await site.state(submission.run, other)  # the reply of that batch is published by now
        site.transport.come_back_soon()
        await pending.until(lambda pending: pending.is_settled)
    assert isinstance(pending.answer, messages.Finished)
    assert pending.answer.result == b"result"
    await other.stop()
    await onlooker.close()


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
