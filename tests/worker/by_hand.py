"""A coordinator by hand: it answers what a worker asks when the test lets it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from leveret_broker import codec, messages, topology
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_broker.messages import Control, Heartbeat, Invocation, Invocations, Outcomes
from leveret_broker.transport import Delivery, Outgoing

PATIENCE = 10.0
"""Seconds after which a test gives up waiting."""

T = TypeVar("T")


class CoordinatorByHand:
    """Knows no catalog: every definition is what its worker says."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.transport = MemoryTransport(broker)
        self.generation = 0
        self.lets_in = True
        self.outcomes: list[Outcomes] = []
        """What workers told."""
        self.heartbeats: list[Heartbeat] = []
        self.said: list[str] = []
        """The types of what arrived, in order."""
        self._nonces: dict[str, str | None] = {}
        self._records: dict[str, messages.DefinitionRecord] = {}
        self._changed = asyncio.Event()
        self._answers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.transport.open()
        await self.transport.declare(topology.REQUESTS, topology.OUTCOMES, topology.DEAD)
        await self.transport.consume(topology.REQUESTS.name, self._on_request, prefetch=0)
        await self.transport.consume(topology.OUTCOMES.name, self._on_outcomes, prefetch=0)

    async def stop(self) -> None:
        await self.transport.close()

    # -- what a test does -------------------------------------------------------------------------

    async def submit(self, queue: str, *runs: Invocation, generation: int | None = None) -> None:
        message = Invocations(
            project="p",
            definition=self._records[queue].id,
            runs=runs,
            generation=self.generation if generation is None else generation,
        )
        await self.transport.publish(Outgoing(queue=queue, body=codec.encode(message)))

    async def tell(self, worker: str, control: Control) -> None:
        queue = topology.control_queue(worker).name
        await self.transport.publish(Outgoing(queue=queue, body=codec.encode(control)))

    async def tell_all(self, control: Control) -> None:
        body = codec.encode(control)
        await self.transport.publish(Outgoing(fanout=topology.control_exchange("p"), body=body))

    async def let_in(self, worker: str) -> None:
        self.generation += 1
        nonce = self._nonces.get(worker)
        await self.tell(worker, Control(generation=self.generation, nonce=nonce))

    # -- what a test sees -------------------------------------------------------------------------

    async def until(self, condition: Callable[[], T]) -> T:
        """What the condition gives, as soon as that is something."""
        async with asyncio.timeout(PATIENCE):
            while not (found := condition()):
                self._changed.clear()
                await self._changed.wait()
        return found

    @property
    def joins(self) -> list[Outcomes]:
        return [message for message in self.outcomes if message.join is not None]

    @property
    def claims(self) -> list[messages.Claim]:
        return [claim for message in self.outcomes for claim in message.claims]

    @property
    def started(self) -> list[messages.Started]:
        return [started for message in self.outcomes for started in message.started]

    @property
    def ends(self) -> dict[str, str]:
        outcomes = [outcome for message in self.outcomes for outcome in message.outcomes]
        return {outcome.run: outcome.state for outcome in outcomes}

    # -- what arrives -----------------------------------------------------------------------------

    def _on_request(self, delivery: Delivery) -> None:
        message = codec.decode_request(delivery.body)
        self.said.append(message.type)
        match message:
            case messages.Hello():
                self._reply(message, messages.Welcome(request=message.request, version="0"))
            case messages.Register():
                self._reply(message, self._registered(message))
            case messages.Heartbeat():
                self.heartbeats.append(message)
            case _:
                pass
        delivery.ack()
        self._changed.set()

    def _on_outcomes(self, delivery: Delivery) -> None:
        message = codec.decode(delivery.body, Outcomes)
        self.outcomes.append(message)
        if message.join is not None:
            self.said.append("join")
            self._nonces[message.worker] = message.join.nonce
            if self.lets_in:
                self._soon(self.let_in(message.worker))
        delivery.ack()
        self._changed.set()

    def _registered(self, message: messages.Register) -> messages.Registered:
        for spec in message.definitions:
            queue = f"{message.project}:{spec.name}:{spec.version or '1'}"
            self._records[queue] = messages.DefinitionRecord(
                id=f"id of {queue}",
                project=message.project,
                kind=spec.kind,
                name=spec.name,
                version=spec.version or "1",
                queue=queue,
            )
        records = tuple(self._records.values())[-len(message.definitions) :]
        return messages.Registered(request=message.request, definitions=records)

    def _reply(self, to: messages.Hello | messages.Register, reply: messages.Reply) -> None:
        body = codec.encode(messages.Replies(replies=(reply,)))
        queue = topology.reply_queue_name(to.session)
        self._soon(self.transport.publish(Outgoing(queue=queue, body=body)))

    def _soon(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
