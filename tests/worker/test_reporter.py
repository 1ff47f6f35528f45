"""What a worker tells: batched, confirmed, and split where the broker takes less."""

from collections.abc import AsyncGenerator

import pytest

from leveret_broker import codec, messages, topology
from leveret_broker.errors import Refused
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.transport import Delivery, Outgoing
from leveret_worker.reporter import Reporter
from tests.worker.clocks import settle


class Narrow(MemoryTransport):
    """A broker that takes no message over 1,000 bytes."""

    async def publish(self, message: Outgoing) -> None:
        if len(message.body) > 1000:
            raise Refused("too large")
        await super().publish(message)


class Line:
    """A reporter, and what arrives of what it tells."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.transport = Narrow(self.broker)
        self.reporter = Reporter(self.transport, "worker_1")
        self.told: list[messages.Outcomes] = []
        self.confirmed: list[str] = []

    async def open(self) -> None:
        await self.transport.open()
        await self.transport.declare(topology.OUTCOMES)
        await self.transport.consume(topology.OUTCOMES.name, self._hear, prefetch=0)

    def _hear(self, delivery: Delivery) -> None:
        self.told.append(codec.decode(delivery.body, messages.Outcomes))
        delivery.ack()

    def report(self, run: str, size: int = 10) -> None:
        outcome = messages.Outcome(
            run=run, attempt=1, state="succeeded", result=bytes(size), started_at=1, finished_at=2
        )
        self.reporter.report(outcome, lambda: self.confirmed.append(run))

    def announce(self, run: str) -> None:
        started = messages.Started(run=run, attempt=1, started_at=1, leased=True)
        self.reporter.announce(started, lambda: self.confirmed.append(run))

    async def flush(self) -> None:
        await self.reporter.flush()
        await settle()


@pytest.fixture
async def line() -> AsyncGenerator[Line]:
    made = Line()
    await made.open()
    yield made
    made.reporter.close()
    await made.transport.close()


HEARTBEAT = messages.Heartbeat(
    worker="worker_1", project="p", host="h", pid=1, slots=1, busy=0, started_at=1, definitions=()
)


async def test_whatever_is_waiting_shares_a_message(line: Line) -> None:
    line.report("a")
    line.announce("b")
    line.reporter.claim(messages.Claim(run="c", attempt=1))
    line.reporter.join(HEARTBEAT, messages.Claim(run="d", attempt=1, executing=True))
    await line.flush()
    (message,) = line.told
    assert message.worker == "worker_1"
    assert [outcome.run for outcome in message.outcomes] == ["a"]
    assert [started.run for started in message.started] == ["b"]
    assert [claim.run for claim in message.claims] == ["c", "d"]
    assert message.join == HEARTBEAT
    assert line.confirmed == ["a", "b"]


async def test_nothing_is_confirmed_before_the_broker_has_it(line: Line) -> None:
    line.broker.block()
    line.report("a")
    line.announce("b")
    await settle()
    assert line.confirmed == []
    line.broker.unblock()
    await line.flush()
    assert line.confirmed == ["a", "b"]


async def test_a_large_outcome_takes_nothing_else_down_with_it(line: Line) -> None:
    line.report("a", size=2000)
    line.report("b")
    line.announce("c")
    line.reporter.claim(messages.Claim(run="d", attempt=1))
    await line.flush()
    outcomes = [outcome for message in line.told for outcome in message.outcomes]
    assert [(one.run, one.state) for one in outcomes] == [("a", "failed"), ("b", "succeeded")]
    assert [one.run for message in line.told for one in message.started] == ["c"]
    assert [one.run for message in line.told for one in message.claims] == ["d"]
    assert sorted(line.confirmed) == ["a", "b", "c"]
