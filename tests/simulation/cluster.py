"""The processes of leveret, real ones, each on an event loop of a simulated process."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

from leveret import payload
from leveret.keys import Keyring
from leveret.session import Session
from leveret_broker import identifiers, messages, topology
from leveret_broker.lifecycle import IoThread
from leveret_coordinator.service import CoordinatorService, CoordinatorSettings
from leveret_worker.service import WorkerService
from tests.simulation import app
from tests.simulation.invariants import States
from tests.simulation.loop import Process, World
from tests.simulation.network import Network
from tests.simulation.storage import Disk
from tests.simulation.wire import Wire

PROJECT = "p"
KEYS = Keyring(keys=(b"known to all who take part",))
DEFINITIONS = (app.flow, app.work, app.unreliable, app.join)

SETTINGS = CoordinatorSettings(worker_silent_after=13.0, vanished_after=8.0, stuck_after=12.0)
"""Less patience than usual, since every second of the simulation is paid for."""

Main = Callable[[Wire], Coroutine[Any, Any, None]]


class SimulatedClock:
    """The world's time."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return self._world.time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


begun_in: ContextVar[States] = ContextVar("begun_in")
"""What was committed when the worker began the execution that the current code belongs to. The code
itself may run later, if the process was stopped in between."""


class NoThread(IoThread):
    """Runs on the loop of whoever started it: a simulated process has one thread."""

    def __init__(self, committed: Callable[[], States]) -> None:
        super().__init__()
        self._committed = committed

    def start(self) -> None:
        self._home = asyncio.get_running_loop()

    def stop(self, timeout: float = 5.0) -> None: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._home

    def post(self, function: Callable[[], None]) -> bool:
        context = copy_context()
        context.run(begun_in.set, self._committed())
        self._home.call_soon(function, context=context)
        return True


class Machine:
    """A process that is started again whenever it is gone."""

    def __init__(self, network: Network, name: str, main: Main) -> None:
        self.name = name
        self.process: Process | None = None
        self.died: Callable[[], None] = lambda: None
        """Called when the process is killed."""
        self._network = network
        self._main = main
        self._wire: Wire | None = None
        self._to_come = 0

    def start(self) -> None:
        if self.process is None:
            process = self.process = self._network.world.process(self.name)
            wire = self._wire = Wire(self._network, process)
            task = process.create_task(self._run(wire), name=self.name)
            task.add_done_callback(partial(self._ended, process))

    def kill(self, *, again_after: float, noticed_after: float) -> None:
        """By SIGKILL; the broker notices, and the process is started again, after so long."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        self.died()
        if self._wire is not None:
            self._wire.hang_up(noticed_after)
        self.later(again_after, self.start)

    def stop(self, seconds: float) -> None:
        """By SIGSTOP, for so long."""
        process = self.process
        if process is not None:
            process.is_stopped = True
            self.later(seconds, lambda: setattr(process, "is_stopped", False))

    def break_off(self) -> None:
        """Its connection breaks."""
        if self.process is not None and self._wire is not None:
            self._network.post(self._wire.break_off)

    @property
    def is_well(self) -> bool:
        """Whether it runs, and nothing is to be mended."""
        return self._to_come == 0 and self.process is not None and not self.process.is_stopped

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        self._to_come += 1

        def act() -> None:
            self._to_come -= 1
            action()

        self._network.process.call_later(seconds, act)

    async def _run(self, wire: Wire) -> None:
        await wire.open()
        await self._main(wire)

    def _ended(self, process: Process, task: asyncio.Task[None]) -> None:
        """It ended by itself: it is started again, as a supervisor does."""
        if process is self.process and not task.cancelled():
            self._network.world.note(self.name, f"ended: {task.exception()!r}")
            self.later(0.0, lambda: self._replace(process))

    def _replace(self, process: Process) -> None:
        if process is self.process:
            self.kill(again_after=1.0, noticed_after=0.0)


class Coordinator(Machine):
    """The coordinator; its catalog is on a disk that outlives it."""

    def __init__(self, network: Network, disk: Disk) -> None:
        super().__init__(network, "coordinator", self._serve)
        self._disk = disk
        self.died = disk.lose_user

    async def _serve(self, wire: Wire) -> None:
        clock = SimulatedClock(self._network.world)
        service = CoordinatorService(
            wire,
            None,
            clock,
            SETTINGS,
            connect=self._disk.connect,
            chance=self._network.world.rng.random,
        )
        await service.start()
        await service.wait_ended()


class Worker(Machine):
    """A worker that serves all that there is."""

    def __init__(self, network: Network, name: str, committed: Callable[[], States]) -> None:
        super().__init__(network, name, self._serve)
        self._committed = committed
        self.is_ready = False
        self._told_to_stop: asyncio.Event | None = None

    def drain(self) -> None:
        """By SIGTERM: it leaves in good order, and is started again."""
        if self.process is not None and self._told_to_stop is not None:
            self.process.call_soon(self._told_to_stop.set)

    async def _serve(self, wire: Wire) -> None:
        service = WorkerService(
            wire,
            DEFINITIONS,
            project=PROJECT,
            keys=KEYS,
            slots=2,
            lease_after=app.LEASE_AFTER,
            clock=SimulatedClock(self._network.world),
            user_thread=NoThread(self._committed),
        )
        told_to_stop = self._told_to_stop = asyncio.Event()
        await service.start()
        self.is_ready = True
        await told_to_stop.wait()
        await service.stop()


class Caller(Machine):
    """A program that wants one result, and asks for it again when it was killed."""

    def __init__(self, network: Network, tree: str) -> None:
        super().__init__(network, "caller", self._call)
        self.run = identifiers.keyed_run_id(PROJECT, app.flow.name, "simulation")
        self.answer: messages.Finished | messages.Rejected | None = None
        """What it heard in the end."""
        self._tree = tree
        self._session: Session | None = None

    def cancel(self) -> None:
        """Ask that the run be stopped."""
        if self.process is not None and self._session is not None:
            self.process.call_soon(self._session.cancel, self.run)

    @property
    def result(self) -> str | None:
        """What the run returned."""
        if not isinstance(self.answer, messages.Finished) or self.answer.result is None:
            return None
        return str(payload.unseal(self.answer.result, keys=KEYS, context=self._context("result")))

    async def _call(self, wire: Wire) -> None:
        await wire.declare(topology.REQUESTS)
        self._session = Session(wire, where="the simulation", patience=None)
        await self._session.start()
        pending = self._session.submit(self._submission())
        await pending.until(lambda pending: pending.is_settled)
        assert isinstance(pending.answer, messages.Finished | messages.Rejected)
        self.answer = pending.answer
        await asyncio.get_running_loop().create_future()

    def _submission(self) -> messages.Submission:
        arguments = payload.encode_arguments(("/", self._tree), {}, ("path", "tree"))
        return messages.Submission(
            run=self.run,
            target=messages.Target(
                kind="workflow", name=app.flow.name, fingerprint=app.flow.fingerprint
            ),
            project=PROJECT,
            arguments=payload.seal(arguments, keys=KEYS, context=self._context("arguments")),
        )

    def _context(self, direction: Any) -> payload.Context:
        return payload.Context(
            project=PROJECT, run=self.run, definition=app.flow.name, direction=direction
        )
