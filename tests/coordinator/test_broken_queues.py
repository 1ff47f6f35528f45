"""A work queue that broke within the broker: it exists, and takes nothing until it is made anew."""

from collections.abc import Sequence
from pathlib import Path

from leveret_broker.errors import Expired, TransportError
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import Hello
from leveret_broker.topology import work_queue
from leveret_broker.transport import Outgoing
from leveret_coordinator.service import CoordinatorSettings
from tests.coordinator import build, peers
from tests.coordinator.faults import RefusingTransport

QUEUE = "p:flow:1"
ROOT = build.run_id(1)
AT_ONCE = CoordinatorSettings(
    look_every=0.02, deaf_after=0.05, retry_first=0.01, retry_longest=0.01
)


class _Broken(RefusingTransport):
    """Queues that take nothing are mended by deleting them."""

    def __init__(self, inner: MemoryTransport) -> None:
        super().__init__(inner)
        self.deleted: list[str] = []
        self.tries = 0
        self.is_silent = False
        """Whether the broker answers nothing to whom publishes to the queue."""

    async def delete(self, queue: str) -> None:
        self.deleted.append(queue)
        self.full.discard(queue)
        await super().delete(queue)

    async def publish_all(self, messages: Sequence[Outgoing]) -> Sequence[TransportError | None]:
        concerned = any(message.queue == QUEUE for message in messages)
        self.tries += concerned
        if concerned and self.is_silent and not self.deleted:
            return [Expired("the broker confirmed nothing")] * len(messages)
        return await super().publish_all(messages)


async def test_a_queue_that_takes_nothing_is_made_anew(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path, broker: MemoryBroker
) -> None:
    broken = _Broken(transport)
    async with peers.coordinator(broken, tmp_path / "catalog", AT_ONCE):
        await caller.ask(peers.FLOW)
        broken.full = {QUEUE}
        await caller.request(build.submit(build.submission(ROOT)))
        while not broken.deleted:  # other messages are taken all the while
            await caller.ask(Hello(session="s", request="h"))
            await caller.request(build.submit(build.submission(build.run_id(2), "p:other:1")))
        await caller.consume(QUEUE)
        await caller.until(lambda: bool(caller.deliveries[QUEUE]))
    assert set(broken.deleted) == {QUEUE}


async def test_a_queue_that_is_only_full_keeps_what_it_has(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    broken = _Broken(transport)
    async with peers.coordinator(broken, tmp_path / "catalog", AT_ONCE):
        await caller.ask(peers.FLOW)
        await transport.declare(work_queue(QUEUE))
        await caller.request(build.submit(build.submission(ROOT)))
        while (status := await transport.inspect(QUEUE)) is None or not status.messages:
            await caller.ask(Hello(session="s", request="h"))
        broken.full = {QUEUE}
        await caller.request(build.submit(build.submission(build.run_id(2))))
        while broken.tries < 20:
            await caller.ask(Hello(session="s", request="h"))
    assert broken.deleted == []


async def test_a_queue_that_holds_up_all_others_is_made_anew_before_the_next_publication(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    broken = _Broken(transport)
    patient = CoordinatorSettings(retry_first=0.01, retry_longest=0.01)
    async with peers.coordinator(broken, tmp_path / "catalog", patient):
        await caller.ask(peers.FLOW)
        broken.is_silent = True
        await caller.request(build.submit(build.submission(ROOT)))
        await caller.consume(QUEUE)
        await caller.until(lambda: bool(caller.deliveries[QUEUE]))
    assert broken.deleted == [QUEUE]
    assert broken.tries == 2


async def test_a_queue_that_can_not_be_made_anew_holds_up_nothing_else(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    broken = _Broken(transport)
    patient = CoordinatorSettings(retry_first=0.01, retry_longest=0.01)
    async with peers.coordinator(broken, tmp_path / "catalog", patient):
        await caller.ask(peers.FLOW)
        await transport.declare(work_queue(QUEUE))
        await transport.publish(Outgoing(body=b"kept", queue=QUEUE))
        broken.is_silent = True
        await caller.request(build.submit(build.submission(ROOT)))
        while broken.tries < 5:
            await caller.ask(Hello(session="s", request="h"))
    assert broken.deleted == []
