"""The pool of child processes in which a worker runs sync tasks.

The rules:

- A child executes one job at a time. It is started when a job needs it, and then kept.
- A child that was told to end never gets another job. It counts until it has exited, so that there
  are never more processes than the pool's size.
- The exit of the process is the sign of its death, never the end of its socket: a process that the
  user's code forked may hold the socket open.
- A job whose child died before it had read the job has not begun, and goes to another child.
"""

import asyncio
import sys
from collections import deque
from dataclasses import dataclass, field, replace
from time import perf_counter

from leveret.keys import Keyring
from leveret.sealing import PayloadOptions
from leveret_broker import logs
from leveret_broker.lifecycle import LoopMailbox
from leveret_worker.children import Child, Exit
from leveret_worker.errors import ChildDied, ChildNotStarted, PoolStopped
from leveret_worker.frames import Order, Setup
from leveret_worker.functions import FunctionRef
from leveret_worker.perform import Ending, Inputs

__all__ = ["Ending", "Job", "ProcessPool"]

TRIES = 3
"""Children that a job is given to before it counts as the reason for their deaths."""

MOST_FUNCTIONS = 500
"""Functions that a child keeps before it is replaced: a function that travels by value is another
one whenever anything that it refers to has changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One attempt at one run of a sync task."""

    run: str
    attempt: int
    project: str
    definition: str
    """Its `project:name:version`."""
    function: FunctionRef
    arguments: bytes
    root: str | None = None
    """The run at the top of the tree; the run itself if nobody called it."""
    round: int = 1
    is_fresh: bool = False
    """See `RunContext.fresh`."""
    inputs: Inputs = field(default_factory=dict[str, bytes])


@dataclass(eq=False, kw_only=True, slots=True)
class _Request:
    """A job that somebody waits for."""

    job: Job
    answer: "asyncio.Future[Ending]"
    worker: "_Worker | None" = None
    """Who executes it now."""
    tries: int = 0
    given_at: float | None = None
    """When a child that was ready got it, by the clock of `perf_counter`."""
    is_unwanted: bool = False
    """Whoever waited for it was cancelled: it is not given to a further child."""


@dataclass(eq=False, kw_only=True, slots=True)
class _Worker:
    """A child, with what the pool knows of it."""

    child: Child
    request: _Request | None = None
    numbers: dict[FunctionRef, int] = field(default_factory=dict[FunctionRef, int])
    """The functions that it was given."""
    is_outdated: bool = False
    """It gets no further job."""
    path: list[str] = field(default_factory=list[str])
    """The `sys.path` that it was given last."""


class ProcessPool:
    """Runs jobs in at most `size` child processes. Belongs to the loop in which it was started."""

    def __init__(
        self,
        *,
        size: int,
        keys: Keyring | None,
        payloads: PayloadOptions | None = None,
        grace: float = 10.0,
        start_timeout: float = 60.0,
    ) -> None:
        """`grace`: seconds between asking a child to end and killing it.

        `start_timeout`: seconds after which a child that has not come up is killed.
        """
        self._size = size
        self._setup = Setup(
            keys=keys,
            payloads=payloads or PayloadOptions(),
            grace=grace,
            logs=logs.format_in_use(),
        )
        self._start_timeout = start_timeout
        self._mailbox: LoopMailbox | None = None
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._waiting: deque[_Request] = deque()

    async def start(self) -> None:
        """Serve from now on; children are started when jobs need them."""
        self._mailbox = LoopMailbox(asyncio.get_running_loop())

    async def stop(self) -> None:
        """End all children, within the grace; what they run raises `PoolStopped` at its `run`."""
        self._mailbox = None
        executing = [worker.request for worker in self._workers if worker.request is not None]
        for request in (*executing, *self._waiting):
            if not request.answer.done():
                request.answer.set_exception(PoolStopped("the pool of child processes was stopped"))
        self._waiting.clear()
        for worker in self._workers:
            worker.child.end()
        await asyncio.gather(*(worker.child.wait_exited() for worker in set(self._workers)))

    async def run(self, job: Job) -> Ending:
        """Execute a job as soon as a child is free, and tell how long that took once one was.

        Raises `ChildDied` if its process died, `ChildNotStarted` if there could be none, and
        `PoolStopped`. Cancelling ends the child, and returns when it has exited: SIGTERM raises
        `Terminated` in the user's code, SIGKILL follows after the grace. A result that the child
        gave in the meantime is returned even so.
        """
        if self._mailbox is None:
            raise PoolStopped("the pool of child processes is not running")
        request = _Request(job=job, answer=asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._dispatch()
        try:
            await asyncio.wait({request.answer})
        except asyncio.CancelledError:
            await self._end(request)
            if request.answer.cancelled() or request.answer.exception() is not None:
                raise
        return request.answer.result()

    def renew(self) -> None:
        """Give no further job to the children that there are: code that they loaded has changed."""
        idle, self._idle = self._idle, []
        for worker in self._workers:
            worker.is_outdated = True
        for worker in idle:
            worker.child.end()

    async def _end(self, request: _Request) -> None:
        request.is_unwanted = True
        worker = request.worker
        if worker is not None:
            worker.child.end()
            await worker.child.wait_exited()
        request.answer.cancel()

    def _dispatch(self) -> None:
        while self._waiting:
            if self._waiting[0].answer.done():  # cancelled while it waited
                self._waiting.popleft()
            elif self._idle:
                self._waiting[0].given_at = perf_counter()
                self._assign(self._waiting.popleft(), self._idle.pop())
            elif self._mailbox is not None and len(self._workers) < self._size:
                self._assign_to_new(self._waiting.popleft(), self._mailbox)
            else:
                return

    def _assign_to_new(self, request: _Request, mailbox: LoopMailbox) -> None:
        try:
            child = Child(self._setup, mailbox=mailbox, start_timeout=self._start_timeout)
        except OSError as error:
            failure = ChildNotStarted(f"no child process could be started: {error}")
            failure.__cause__ = error
            request.answer.set_exception(failure)
            return
        worker = _Worker(child=child)
        child.on_ending = lambda ending: self._on_ending(worker, ending)
        child.on_exit = lambda exit_: self._on_exit(worker, exit_)
        self._workers.add(worker)
        self._assign(request, worker)

    def _assign(self, request: _Request, worker: _Worker) -> None:
        request.worker, worker.request = worker, request
        request.tries += 1
        worker.child.send(_order(request.job, worker))

    def _on_ending(self, worker: _Worker, ending: Ending) -> None:
        request, worker.request = worker.request, None
        if request is None:
            return
        request.worker = None
        if not request.answer.done():
            if request.given_at is not None:
                ending = replace(ending, seconds=perf_counter() - request.given_at)
            request.answer.set_result(ending)
        if worker.is_outdated or len(worker.numbers) >= MOST_FUNCTIONS:
            worker.child.end()
        if not worker.child.is_ending:
            self._idle.append(worker)
            self._dispatch()

    def _on_exit(self, worker: _Worker, exit_: Exit) -> None:
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        request, worker.request = worker.request, None
        if request is not None:
            request.worker = None
            self._after_death(request, exit_)
        self._dispatch()

    def _after_death(self, request: _Request, exit_: Exit) -> None:
        if request.answer.done() or request.is_unwanted:
            return
        if exit_.was_ready and exit_.read_nothing and request.tries < TRIES:
            request.given_at = None
            self._waiting.appendleft(request)
            return
        request.answer.set_exception(
            ChildDied(f"the process that executed it {exit_}", exit_code=exit_.code)
            if exit_.was_ready
            else ChildNotStarted(f"its child process {exit_}", exit_code=exit_.code)
        )


def _order(job: Job, worker: _Worker) -> Order:
    number = worker.numbers.get(job.function)
    is_new = number is None
    if number is None:
        number = worker.numbers[job.function] = len(worker.numbers)
    path = None
    if worker.path != sys.path:
        path = worker.path = list(sys.path)
    return Order(
        run=job.run,
        attempt=job.attempt,
        root=job.root or job.run,
        project=job.project,
        definition=job.definition,
        arguments=job.arguments,
        number=number,
        function=job.function if is_new else None,
        path=path,
        round=job.round,
        is_fresh=job.is_fresh,
        inputs=job.inputs,
    )
