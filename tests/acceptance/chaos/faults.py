"""What is done to the cluster while it works, drawn from a seed."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiormq.exceptions import AMQPError

from tests.acceptance.chaos import evidence, queues
from tests.acceptance.chaos.cluster import SILENT_AFTER, Cluster, Member, children, send
from tests.acceptance.chaos.console import ConsoleError

GAPS = (0.0, 0.6)
"""Seconds between two faults, at least and at most."""
CALM, CALM_SHARE = 9.0, 0.03
"""Seconds of peace after that, and how often there are some: the dead are found by their silence,
which counts only while the coordinator is left alone. Without, nearly all would wait in the end."""
DOWN = (0.0, 0.0, 0.5, 2.0)
"""Seconds until what was killed is started again."""
LOW, USUAL = "0.00001", "0.4"
"""Shares of the machine's memory: with the first the broker is over it at once."""

CLOSE_ONE = (
    "case rabbit_networking:connections() of [] -> none; All -> "
    'rabbit_networking:close_connection(lists:nth({n} rem length(All) + 1, All), "chaos") end'
)
CLOSE_ALL = 'rabbit_networking:close_connections(rabbit_networking:connections(), "chaos")'
SET_MEMORY = "vm_memory_monitor:set_vm_memory_high_watermark({share})"


class Missed(Exception):
    """There was nothing to do it to; it doesn't count."""


@dataclass(kw_only=True)
class Chaos:
    """The cluster, the dice, and what is to be undone later."""

    cluster: Cluster
    dice: random.Random
    undo: list[tuple[float, Callable[[], None]]] = field(
        default_factory=list[tuple[float, Callable[[], None]]]
    )
    alarmed: bool = False

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self.undo.append((time.monotonic() + seconds, action))

    def undo_due(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        due = [entry for entry in self.undo if everything or entry[0] <= now]
        self.undo = [entry for entry in self.undo if entry not in due]
        for _, action in due:
            action()

    def evaluate(self, expression: str) -> None:
        try:
            self.cluster.console.evaluate(expression)
        except ConsoleError as error:
            raise Missed(str(error)) from error

    def worker(self) -> Member:
        """Some worker that runs."""
        return self._running(self.dice.sample(self.cluster.workers, len(self.cluster.workers)))

    def spare_worker(self) -> Member:
        """Some worker that runs and isn't the last one."""
        if sum(worker.is_working for worker in self.cluster.workers) < 2:
            raise Missed("there is none to spare")
        return self.worker()

    def running(self, member: Member) -> Member:
        return self._running([member])

    def _running(self, members: list[Member]) -> Member:
        for member in members:
            if member.is_working:
                return member
        raise Missed("none of them runs")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault."""

    name: str
    weight: int
    """How often it comes up, beside the others."""
    apply: Callable[[Chaos], str]
    """Does it and tells the details."""
    needs_broker: bool = True
    """It is put off until the broker is up."""


# -- processes ------------------------------------------------------------------------------------


def kill_worker(chaos: Chaos) -> str:
    worker, whole, down = chaos.worker(), chaos.dice.random() < 0.4, chaos.dice.choice(DOWN)
    worker.kill(down, whole=whole)
    return f"{worker.name}{' with its children' if whole else ''}, back after {down:g} s"


def kill_coordinator(chaos: Chaos) -> str:
    down = chaos.dice.choice(DOWN)
    chaos.running(chaos.cluster.coordinator).kill(down)
    return f"back after {down:g} s"


def kill_driver(chaos: Chaos) -> str:
    chaos.running(chaos.cluster.driver).kill(0)
    return ""


def kill_child(chaos: Chaos) -> str:
    worker = chaos.worker()
    assert worker.process is not None
    found = children(worker.process.pid)
    if not found:
        raise Missed("it has no children")
    child = chaos.dice.choice(found)
    send(child, signal.SIGKILL)
    return f"{child} of {worker.name}"


def drain_worker(chaos: Chaos) -> str:
    worker = chaos.spare_worker()
    worker.drain(0)
    return worker.name


def pause_worker(chaos: Chaos) -> str:
    worker, whole = chaos.spare_worker(), chaos.dice.random() < 0.5
    seconds = SILENT_AFTER + chaos.dice.uniform(0.5, 3)
    worker.pause(whole=whole)
    chaos.later(seconds, worker.resume)
    return f"{worker.name}{' with its children' if whole else ''} for {seconds:.1f} s"


# -- connections and queues -----------------------------------------------------------------------


def close_connection(chaos: Chaos) -> str:
    chaos.evaluate(CLOSE_ONE.format(n=chaos.dice.randrange(1000)))
    return ""


def close_connections(chaos: Chaos) -> str:
    chaos.evaluate(CLOSE_ALL)
    return ""


def delete_queue(chaos: Chaos) -> str:
    name, messages = _work_queue(chaos)
    _through_broker(queues.delete, chaos, name)
    return f"{name} with about {messages} messages"


def purge_queue(chaos: Chaos) -> str:
    name, messages = _work_queue(chaos)
    _through_broker(queues.purge, chaos, name)
    return f"{name} with about {messages} messages"


def _through_broker(work: Callable[[str, str], None], chaos: Chaos, queue: str) -> None:
    try:
        work(chaos.cluster.url, queue)
    except (AMQPError, OSError) as error:
        raise Missed(f"{error!r}") from error


def _work_queue(chaos: Chaos) -> tuple[str, int]:
    """Some work queue, preferably the fullest."""
    waiting = evidence.waiting(chaos.cluster.catalog)
    if not waiting:
        raise Missed("there is no work queue")
    fullest = max(waiting, key=lambda name: waiting[name])
    name = fullest if chaos.dice.random() < 0.7 else chaos.dice.choice(sorted(waiting))
    return name, waiting[name]


# -- the broker -----------------------------------------------------------------------------------


def alarm(chaos: Chaos) -> str:
    if chaos.alarmed:
        raise Missed("there is an alarm already")
    seconds = chaos.dice.uniform(0.5, 3)
    chaos.evaluate(SET_MEMORY.format(share=LOW))
    chaos.alarmed = True

    def lift() -> None:
        chaos.cluster.await_broker()  # a node that was started again has the usual one
        chaos.cluster.console.evaluate(SET_MEMORY.format(share=USUAL))
        chaos.alarmed = False

    chaos.later(seconds, lift)
    return f"for {seconds:.1f} s"


def kill_node(chaos: Chaos) -> str:
    down = chaos.dice.choice(DOWN)
    node = chaos.cluster.node

    def restart() -> None:
        node.kill()
        time.sleep(down)
        node.start()

    chaos.cluster.in_background(restart)
    return f"back after {down:g} s"


def restart_app(chaos: Chaos) -> str:
    down = chaos.dice.choice(DOWN)
    console = chaos.cluster.console

    def restart() -> None:
        console.evaluate("rabbit:stop()")
        time.sleep(down)
        console.evaluate("rabbit:start()")

    chaos.cluster.in_background(restart)
    return f"down for {down:g} s"


FAULTS = (
    Fault(name="close a connection", weight=18, apply=close_connection),
    Fault(name="close all connections", weight=9, apply=close_connections),
    Fault(name="kill a worker", weight=10, apply=kill_worker, needs_broker=False),
    Fault(name="kill a worker's child", weight=6, apply=kill_child, needs_broker=False),
    Fault(name="kill the coordinator", weight=7, apply=kill_coordinator, needs_broker=False),
    Fault(name="kill the driver", weight=3, apply=kill_driver, needs_broker=False),
    Fault(name="drain a worker", weight=5, apply=drain_worker, needs_broker=False),
    Fault(name="pause a worker", weight=5, apply=pause_worker, needs_broker=False),
    Fault(name="delete a queue", weight=6, apply=delete_queue),
    Fault(name="purge a queue", weight=6, apply=purge_queue),
    Fault(name="memory alarm", weight=4, apply=alarm),
    Fault(name="kill the broker", weight=1, apply=kill_node),
    Fault(name="restart the broker", weight=2, apply=restart_app),
)


def drawn(seed: int) -> random.Random:
    """The dice of a round."""
    return random.Random(f"{seed}/faults")


def next_fault(dice: random.Random) -> tuple[float, Fault, random.Random]:
    """Seconds to wait, the fault, and dice of its own, so that what it draws shifts no other."""
    (fault,) = dice.choices(FAULTS, [fault.weight for fault in FAULTS])
    gap = dice.uniform(*GAPS) + CALM * (dice.random() < CALM_SHARE)
    return gap, fault, random.Random(dice.random())
