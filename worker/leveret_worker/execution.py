"""One record of everything about one execution, from its delivery to its outcome.

    waiting ──▶ executing ──▶ ended ──▶ reported
       └────────────┴──▶ dropped     (cancelled, or given back to the queue)

A delivery may carry several runs; it is acknowledged when the last of them is done with. After a
lost connection the broker delivers again what this worker still has: a second delivery of a run
joins the execution that is there, and is settled with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from leveret.definitions import Definition, Task
from leveret_broker.messages import Invocation
from leveret_broker.transport import Delivery

Attempt = tuple[str, int]
"""A run's id and the number of the attempt at it."""


class Bundle:
    """The runs that came in one delivery and are settled with it."""

    def __init__(self, delivery: Delivery, size: int) -> None:
        self._delivery = delivery
        self._open = size
        self._given_back = False

    def done(self) -> None:
        """One of its runs needs the delivery no longer."""
        self._open -= 1
        if self._open == 0 and not self._given_back:
            self._delivery.ack()

    def give_back(self) -> None:
        """Put the message back for another worker."""
        if not self._given_back and self._open > 0:
            self._given_back = True
            self._delivery.nack()


@dataclass(kw_only=True, slots=True, eq=False)
class Execution:
    """One attempt at one run on this worker."""

    invocation: Invocation
    definition: Definition[..., Any]
    queue: str
    """`project:name:version`."""
    project: str
    bundles: list[Bundle]
    """What it came in: more than one if the broker delivered it again after a lost connection."""
    started_at: float | None = None
    """Seconds since the Unix epoch; `None` while it waits for a slot."""
    stop: Callable[[], None] = field(default=lambda: None)
    """Ends the user code, as far as it can be ended."""
    is_dropped: bool = False
    """Nobody wants its outcome any more."""
    is_given_back: bool = False
    """Another worker will execute it: what it has called goes on."""

    def done(self) -> None:
        """Nothing more will be said of it: its deliveries may be acknowledged."""
        for bundle in self.bundles:
            bundle.done()

    def give_back(self) -> None:
        """Return it to its queue, for another worker."""
        self.is_dropped = self.is_given_back = True
        for bundle in self.bundles:
            bundle.give_back()

    @property
    def attempt(self) -> Attempt:
        return self.invocation.run, self.invocation.attempt

    @property
    def run(self) -> str:
        return self.invocation.run

    @property
    def needs_slot(self) -> bool:
        """Waiting holds no slot: workflows mostly wait for what they called."""
        return self.definition.kind == "task"

    @property
    def needs_process(self) -> bool:
        definition = self.definition
        return (
            isinstance(definition, Task)
            and not definition.is_async
            and definition.runs_in == "process"
        )
