"""The network between the processes and the broker in memory: late, unreliable, and honest.

It does what a real one may do, and no more:

- Each direction of a connection keeps its order. Between connections there is none.
- A broken connection loses what was on its way: requests, confirms, acknowledgements, deliveries.
  What was published and not confirmed is published again.
- A confirm can be so late that the publisher publishes again: both copies arrive, the second behind
  what others published meanwhile.
- A broker that starts again has lost what is not persistent, and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from leveret_broker.memory import MemoryBroker
from leveret_broker.transport import Delivery, Outgoing
from tests.simulation.loop import Process, World

TRANSIENT = "simulated-transient"
"""The header of messages that don't survive a restart of the broker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weather:
    """How bad the network is. Probabilities of each message."""

    late: float = 0.0
    """Up to `delay` seconds later than at once."""
    delay: float = 0.5
    doubled: float = 0.0


FAIR = Weather()


class Wire(Protocol):
    """A connection of a process to the broker."""

    def break_off(self, *, come_back: bool = True) -> None:
        """It breaks, and is made again soon."""
        ...

    def come_back(self) -> None:
        """It is made again."""
        ...


class Network:
    """The broker, in a process that is never killed, and all connections to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.process = world.process("broker")
        self.queues = MemoryBroker()
        self.weather = FAIR
        self.published: Callable[[str, Outgoing], None] = lambda _who, _message: None
        """Called for everything that reaches the broker."""
        self.delivered: Callable[[str, Delivery], None] = lambda _who, _delivery: None
        """Called for everything that reaches a client."""
        self.settled: Callable[[str, str, Delivery], None] = lambda _who, _verb, _delivery: None
        """Called for every delivery that is settled, with the verb."""
        self.seen: dict[str, None] = {}
        """The names of all queues that were ever declared."""
        self._wires: list[Wire] = []
        self._is_up = True

    def add(self, wire: Wire) -> None:
        self._wires.append(wire)

    def forget(self, wire: Wire) -> None:
        if wire in self._wires:
            self._wires.remove(wire)

    def post(self, action: Callable[[], object]) -> None:
        """Do something at the broker, in its next turn."""
        self.process.call_soon(action)

    def late(self) -> float:
        """Seconds that the next message takes."""
        rng, weather = self.world.rng, self.weather
        return rng.random() ** 3 * weather.delay if rng.random() < weather.late else 0.0

    def stop(self) -> None:
        """The broker goes down with its connections; the queues are kept."""
        self._is_up = False
        for wire in list(self._wires):
            wire.break_off(come_back=False)
        self.queues.stop()
        for name in self.seen:
            self._forget_transient(name)

    def start(self) -> None:
        """The broker comes up, and its clients connect again, in any order."""
        self._is_up = True
        self.queues.start()
        for wire in list(self._wires):
            wire.come_back()

    @property
    def is_up(self) -> bool:
        return self._is_up

    def purge(self, queue: str) -> None:
        """Somebody throws away what waits in a queue."""
        if self.queues.inspect(queue) is not None:
            self.queues.find(queue).ready.clear()

    def delete(self, queue: str) -> None:
        """Somebody deletes a queue under everybody."""
        self.queues.delete(queue)

    def _forget_transient(self, queue: str) -> None:
        if self.queues.inspect(queue) is not None:
            ready = self.queues.find(queue).ready
            ready[:] = sorted(each for each in ready if TRANSIENT not in each.headers)


class Stream:
    """One direction of a connection: what is sent arrives in order, or not at all."""

    def __init__(self, network: Network, to: Process) -> None:
        self._network = network
        self._to = to
        self._arrives = 0.0

    def send(self, action: Callable[[], object]) -> None:
        now = self._network.world.time
        arrives = max(self._arrives, now + self._network.late())
        if arrives == now and self._arrives < now:
            self._to.call_soon(action)
        else:
            self._arrives = arrives
            self._to.call_at(arrives, action)
