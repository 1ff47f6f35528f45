"""One simulation: a cluster, an adversary, and what has to hold all along and in the end."""

import gc
import logging
import random
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache, partial

import ulid

from leveret_broker import batches, messages, topology
from leveret_broker.transport import Delivery, Outgoing
from tests.simulation import app, schedule, telling
from tests.simulation.cluster import PROJECT, Caller, Coordinator, Machine, Worker, begun_in
from tests.simulation.invariants import ENDED, Invariants, Violation, check_may_begin
from tests.simulation.loop import START, World
from tests.simulation.network import FAIR, Network
from tests.simulation.schedule import Fault, Schedule
from tests.simulation.storage import Disk

CALM_WITHIN = 900.0
"""Seconds after the last fault within which everything has to have come to its end."""
NOTICED_BY_CLOCK = 5.0
"""Seconds of standing still that a worker notices. A broker takes longer to miss a connection."""
MOST_TURNS = 100_000


class Failed(AssertionError):
    """A schedule that shows a fault of the product."""


class Simulation:
    """Runs a schedule."""

    def __init__(self, schedule: Schedule, *, image: bytes | None) -> None:
        self.schedule = schedule
        self.world = World(random.Random(schedule.seed))
        self.network = Network(self.world)
        self.network.published = self._published
        self.network.delivered = self._delivered
        self.network.settled = self._settled
        self.disk = Disk(image, self._committed, self.world.rng)
        self.invariants = Invariants(self.disk.database)
        self.coordinator = Coordinator(self.network, self.disk)
        self.workers = [
            Worker(self.network, name, lambda: self.invariants.committed)
            for name in ("worker1", "worker2")
        ]
        self.caller = Caller(self.network, schedule.tree)
        self.violation: Violation | None = None
        self.is_cancelled = False

    def run(self) -> None:
        """Raises `Violation`."""
        self.network.weather = schedule.WEATHER[self.schedule.sky]
        with app.noting(self), _quiet(), _own_ids(self.world), _messages(self.schedule.seed):
            try:
                for machine in self.machines:
                    machine.start()
                self._go_through_faults()
                self._calm_down()
                self._check_end()
            finally:
                self.world.end()
                self.disk.close()

    @property
    def machines(self) -> list[Machine]:
        return [self.coordinator, *self.workers, self.caller]

    def _published(self, who: str, message: Outgoing) -> None:
        if self.world.trace is not None:
            self.world.note(who, telling.told(message))

    def _delivered(self, who: str, delivery: Delivery) -> None:
        if self.world.trace is not None and delivery.queue in self._work_queues:
            self.world.note(who, telling.taken(delivery))

    def _settled(self, who: str, verb: str, delivery: Delivery) -> None:
        if self.world.trace is not None and delivery.queue in self._work_queues:
            self.world.note(who, f"{verb} {telling.taken(delivery)}")

    # -- what happens -----------------------------------------------------------------------------

    def _go_through_faults(self) -> None:
        for fault in self.schedule.faults:
            while self.world.turns < fault.turn and not self._is_over():
                self._turn()
            self.world.note("adversary", str(fault))
            self._apply(fault)

    def _calm_down(self) -> None:
        """The adversary is done: everything is mended, and has to come to its end."""
        while not all(machine.is_well for machine in self.machines):
            self._turn()
        self.network.weather = FAIR
        self.world.note("adversary", "is done")
        deadline = self.world.time + CALM_WITHIN
        while not self._is_over():
            self._turn()
            if self.world.time > deadline or self.world.turns > MOST_TURNS:
                raise Violation(f"it comes to no end: {self._what_is_open()}")

    def _turn(self) -> None:
        self.world.take_turn()
        if self.violation is not None:
            raise self.violation
        if self.world.errors:
            raise Violation("; ".join(self.world.errors))

    def _is_over(self) -> bool:
        if self.caller.answer is None:
            return False
        states = self.invariants.states
        return all(state in ENDED for state in states) and not self._leftovers()

    def _apply(self, fault: Fault) -> None:
        verb, _, whom = fault.kind.partition("-")
        named = {machine.name: machine for machine in self.machines}
        seconds = float(fault.seconds)
        match verb:
            case "kill":
                named[whom].kill(again_after=seconds, noticed_after=self.world.rng.random())
            case "stop":
                named[whom].stop(seconds)
                # What is delivered until the broker notices waits in the stopped process.
                named[whom].later(
                    seconds / 2 if seconds > NOTICED_BY_CLOCK else 0, named[whom].break_off
                )
            case "freeze":
                named[whom].stop(seconds)
            case "break":
                named[whom].break_off()
            case "restart":
                self.network.post(self.network.stop)
                self.coordinator.later(min(seconds, 5.0), self.network.start)
            case "cancel":
                self.is_cancelled = True
                self.caller.cancel()
            case "purge" | "delete":
                action = self.network.purge if verb == "purge" else self.network.delete
                for queue in self._queues(whom):
                    self.network.post(partial(action, queue))
            case "drain":
                self.workers[0].drain()
            case _:
                raise ValueError(fault.kind)

    def _queues(self, kind: str) -> list[str]:
        match kind:
            case "work":
                return self._work_queues
            case "replies":
                return [name for name in self.network.seen if name.startswith("replies:")]
            case _:
                return [name for name in self.network.seen if name.startswith("control:")]

    @property
    def _work_queues(self) -> list[str]:
        return [name for name in self.network.seen if name.startswith(f"{PROJECT}:")]

    # -- what has to hold -------------------------------------------------------------------------

    def began(self, run: str, attempt: int, path: str) -> None:
        """See `app.Ledger`."""
        self.world.note("code", f"begins {path} {run[-5:]} attempt {attempt}")
        try:
            check_may_begin(run, begun_in.get())
        except Violation as violation:
            self.violation = violation

    def stepped(self, path: str) -> None:
        """See `app.Ledger`."""
        self.world.note("code", f"step {path}")

    def _committed(self) -> None:
        try:
            changes = self.invariants.check()
        except Violation as violation:
            self.violation = violation
        else:
            if changes:
                self.world.note("catalog", ", ".join(changes))

    def _leftovers(self) -> list[str]:
        names = [topology.REQUESTS.name, topology.OUTCOMES.name, topology.DEAD.name]
        found: list[str] = []
        for name in [*names, *self._work_queues]:
            status = self.network.queues.inspect(name)
            if status is not None and status.messages:
                found.append(f"{name}: {status.messages}")
        return found

    def _what_is_open(self) -> str:
        open_runs = self.invariants.rows(
            "SELECT id, state, attempt FROM runs WHERE finished_at IS NULL"
        )
        return f"caller heard {self.caller.answer}, runs {open_runs}, queues {self._leftovers()}"

    def _check_end(self) -> None:
        answer = self.caller.answer
        if not isinstance(answer, messages.Finished):
            raise Violation(f"the caller was told {answer}")
        wanted = app.expected("/", self.schedule.tree)
        if answer.state == "succeeded":
            if self.caller.result != wanted:
                raise Violation(f"the caller was told {self.caller.result}, not {wanted}")
        elif not (self.is_cancelled and answer.state == "cancelled"):
            raise Violation(f"the run is {answer.state}: {answer.failure}")
        self._check_nothing_is_left()

    def _check_nothing_is_left(self) -> None:
        """Deliveries that nobody has settled come back when their consumers are gone."""
        self._pass(1.0 + 2 * schedule.WEATHER[self.schedule.sky].delay)
        for machine in self.workers:
            machine.kill(again_after=1000.0, noticed_after=0.0)
        self._pass(1.0)
        if left := self._leftovers():
            raise Violation(f"messages are left: {left}")

    def _pass(self, seconds: float) -> None:
        until = self.world.time + seconds
        self.network.process.call_at(until, lambda: None)
        while self.world.time < until:
            self._turn()


@contextmanager
def _quiet() -> Generator[None]:
    """What the product logs of faults that are meant is of no interest."""
    logger = logging.getLogger("leveret")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _messages(seed: int) -> Generator[None]:
    """In every fourth schedule each submission has a message to itself: some overtake others."""
    before = batches.MOST_ITEMS
    batches.MOST_ITEMS = 1 if seed % 4 == 0 else before
    try:
        yield
    finally:
        batches.MOST_ITEMS = before


@contextmanager
def _own_ids(world: World) -> Generator[None]:
    """The ids that leveret makes are the same whenever a schedule is run."""
    rng, before = random.Random(world.rng.random()), ulid.default_generator
    ulid.default_generator = ulid.ULIDGenerator(
        clock=lambda: int(world.time * 1000), randomness=lambda _: rng.randbytes(10)
    )
    try:
        yield
    finally:
        ulid.default_generator = before


@cache
def fresh_catalog() -> bytes:
    """A catalog that knows the definitions and nothing else."""
    simulation = Simulation(schedule.parse("0:[]:fair:"), image=None)
    with _quiet(), _own_ids(simulation.world):
        simulation.coordinator.start()
        simulation.workers[0].start()
        while not simulation.workers[0].is_ready:
            simulation.world.take_turn()
        simulation.world.end()
    simulation.disk.database.execute("DELETE FROM workers")
    image = simulation.disk.image()
    simulation.disk.close()
    return image


def simulate(wanted: Schedule) -> None:
    """Run a schedule. Raises `Failed` with everything that happened."""
    simulation = Simulation(wanted, image=fresh_catalog())
    gc.disable()  # there is little to collect, and looking for it takes a sixth of the time
    try:
        simulation.run()
    except AssertionError as error:
        how = f"{error}\n\npython -m tests.simulation '{wanted}'"
        raise Failed(f"{error}\n\n{explain(wanted)}\n\n{how}") from error
    finally:
        gc.enable()


def explain(wanted: Schedule) -> str:
    """Run it once more, and tell what happens."""
    simulation = Simulation(wanted, image=fresh_catalog())
    trace = simulation.world.trace = []
    with suppress(AssertionError):
        simulation.run()
    return "\n".join(f"{time - START:9.3f} {who:12} {what}" for time, who, what in trace)
