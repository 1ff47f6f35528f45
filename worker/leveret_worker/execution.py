"""One record of everything about one execution, from its delivery to its outcome.

    waiting ──▶ claiming ──▶ executing ──▶ leased        leased: its delivery is acknowledged
       └───────────────────────▶ │ │          │
                                 │ └────┬─────┘
                                 │      ▼
                                 │   stopping ──▶ abandoned      it did not end within the grace
                                 │      │             │
                                 └──┬───┘             │
                                    ▼                 ▼
                                  ended ──────────────┴──▶ reported

    waiting, claiming ───────────────────────────────────▶ dropped

`leased` may end by itself too. What is `dropped` nobody wants, or it went back to its queue. Of
what was stopped by an order the coordinator hears, since the order may have been a stranger's.
`executing`, `leased` and `stopping` count as running: they hold their slot, as `claiming` does.

A delivery may carry several runs; it is settled when the last of them is done with. After a lost
connection the broker delivers again what this worker still has: a second delivery of an attempt
joins the execution that is there, and is settled with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from leveret.definitions import Definition
from leveret_broker.messages import CodeRef, Invocation, Place
from leveret_broker.transport import Delivery
from leveret_worker.code import SealedCode, Shipped

Attempt = tuple[str, int]
"""A run's id and the number of the attempt at it."""

State = Literal[
    "waiting",
    "claiming",
    "executing",
    "leased",
    "stopping",
    "abandoned",
    "ended",
    "reported",
    "dropped",
]
RUNNING: frozenset[State] = frozenset({"executing", "leased", "stopping"})

NEXT: dict[State, tuple[State, ...]] = {
    "waiting": ("claiming", "executing", "dropped"),
    "claiming": ("executing", "dropped"),
    "executing": ("leased", "stopping", "ended"),
    "leased": ("stopping", "ended"),
    "stopping": ("abandoned", "ended"),
    "abandoned": ("reported",),
    "ended": ("reported",),
    "reported": (),
    "dropped": (),
}
"""What may follow each state."""

StopCause = Literal["unwanted", "returned", "timed-out"]
"""Why an execution is stopped: by an order, because nobody wants its outcome any more; because
another worker goes on with it; or because it took too long."""


class Bundle:
    """The runs that came in one delivery and are settled with it.

    If any of them is given back the message goes back, and only when nothing of it runs here any
    more: whoever gets it next would find the others, and could not know that they still execute.
    """

    def __init__(self, delivery: Delivery, size: int) -> None:
        self._delivery = delivery
        self._open = size
        self._is_given_back = False

    @property
    def redelivered(self) -> bool:
        return self._delivery.redelivered

    def done(self) -> None:
        """One of its runs needs the delivery no longer."""
        self._open -= 1
        if self._open == 0:
            (self._delivery.nack if self._is_given_back else self._delivery.ack)()

    def give_back(self) -> None:
        """One of its runs is for another worker."""
        self._is_given_back = True
        self.done()


@dataclass(kw_only=True, slots=True, eq=False)
class Execution:
    """One attempt at one run on this worker."""

    invocation: Invocation
    definition: Definition[..., Any] | Shipped
    queue: str
    """`project:name:version`."""
    project: str
    bundles: list[Bundle]
    """What it came in: more than one if the broker delivered it again after a lost connection."""
    generation: int = 0
    """Of the message it came in."""
    code: SealedCode | None = None
    """What executes it, if that was shipped and is here already."""
    state: State = "waiting"
    arrived_at: float = 0.0
    """Seconds since the Unix epoch, as all times here."""
    handed_out: bool = False
    """Somebody may have had it before."""
    is_doubtful: bool = False
    """Something may have been missed while it waited."""
    over_before: int = 0
    """The latest attempt at its run that was over when this one was claimed. The verdict on it is
    later news."""
    is_claimed: bool = False
    """It was started by the coordinator's leave."""
    started_at: float | None = None
    seconds: float | None = None
    """How long its code ran, if that is known."""
    stop: Callable[[], None] = field(default=lambda: None)
    """Ends the user code, as far as it can be ended. To be called once."""
    stopped_for: StopCause | None = None
    is_settled: bool = False
    """Its deliveries are acknowledged, or went back."""

    def become(self, state: State) -> None:
        """Go on to the next state; it has to be one that the table has."""
        assert state in NEXT[self.state], f"what is {self.state} can't become {state}"
        self.state = state

    def settle(self) -> None:
        """It needs its deliveries no longer: they may be acknowledged."""
        self.is_settled = True
        bundles, self.bundles = self.bundles, []
        for bundle in bundles:
            bundle.done()

    def give_back(self) -> None:
        """Return it to its queue, for another worker."""
        self.is_settled = True
        bundles, self.bundles = self.bundles, []
        for bundle in bundles:
            bundle.give_back()

    def join(self, other: "Execution") -> None:
        """Another delivery of this attempt: what came in it is settled with this one."""
        self.bundles += other.bundles
        if self.state == "waiting":  # one claim says the same however often it is made
            self.handed_out |= other.handed_out
        if self.is_settled:
            self.settle()

    @property
    def attempt(self) -> Attempt:
        return self.invocation.run, self.invocation.attempt

    @property
    def run(self) -> str:
        return self.invocation.run

    @property
    def inputs(self) -> dict[str, bytes]:
        """The results that came with it, by their runs."""
        given = self.invocation.inputs
        return {each.run: each.result for each in given if each.result is not None}

    @property
    def number(self) -> int:
        """Which attempt at its run this is."""
        return self.invocation.attempt

    @property
    def is_running(self) -> bool:
        return self.state in RUNNING

    @property
    def is_wanted(self) -> bool:
        """Whether nothing has stopped it."""
        return self.stopped_for is None

    @property
    def is_dropped(self) -> bool:
        """It was stopped by somebody's order: what it may have made is not wanted."""
        return self.stopped_for == "unwanted"

    @property
    def needs_slot(self) -> bool:
        """Waiting holds no slot: workflows mostly wait for what they called."""
        return self.definition.kind == "task"

    @property
    def place(self) -> Place:
        """Where its code runs."""
        if isinstance(self.definition, Shipped):
            return (self.invocation.code or self.definition.code).place
        return self.definition.place

    @property
    def code_ref(self) -> CodeRef | None:
        """The shipped code that executes it; `None` if the worker has its own."""
        if isinstance(self.definition, Shipped):
            return self.invocation.code or self.definition.code
        return None
