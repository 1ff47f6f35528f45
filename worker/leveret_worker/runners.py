"""The three places where user code runs: an event loop of its own, threads, child processes."""

import asyncio
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from leveret.connection import Connection
from leveret.context import RunContext
from leveret.errors import WorkerLost
from leveret.failures import describe
from leveret.keys import Keyring
from leveret.sealing import Sealer
from leveret_broker import logs
from leveret_broker.lifecycle import IoThread, LoopMailbox
from leveret_broker.messages import CodeRef
from leveret_worker.code import Loaded, SealedCode, Shelf, Shipped
from leveret_worker.errors import ChildDied, PoolStopped
from leveret_worker.execution import Execution
from leveret_worker.executor import Runner
from leveret_worker.functions import FunctionRef, refer
from leveret_worker.perform import Ending, failed, failed_soon, perform, perform_async
from leveret_worker.processes import Job, ProcessPool

log = logs.get_logger("leveret.worker")

Ended = Callable[[Ending | None], None]


def context_of(execution: Execution, connection: Connection | None = None) -> RunContext:
    """What the code of an execution knows of its run."""
    return RunContext(
        run=execution.run,
        attempt=execution.number,
        project=execution.project,
        kind=execution.definition.kind,
        definition=execution.queue,
        root=execution.invocation.root,
        connection=connection,
        round=execution.invocation.round,
        fresh=is_fresh(execution),
        is_shipped=isinstance(execution.definition, Shipped),
    )


def is_fresh(execution: Execution) -> bool:
    """Whether nobody can have executed any of the run before."""
    return execution.number == 1 and not execution.is_claimed


class FetchingRunner:
    """Another runner, for which shipped code is fetched before it begins."""

    def __init__(self, inner: Runner, shelf: Shelf, sealer: Sealer) -> None:
        self._inner = inner
        self._shelf = shelf
        self._sealer = sealer

    def begin(self, execution: Execution, ended: Ended) -> None:
        """See `executor.Runner`."""
        ref = execution.code_ref
        if ref is None or execution.code is not None:
            self._inner.begin(execution, ended)
            return
        task = asyncio.get_running_loop().create_task(self._shelf.get(ref.digest))
        execution.stop = lambda: _discard(task.cancel())

        def fetched(task: asyncio.Task[bytes]) -> None:
            if task.cancelled() or execution.state == "stopping":
                ended(None)
            elif (error := task.exception()) is not None:
                ended(failed(error, run=context_of(execution), sealer=self._sealer))
            else:
                execution.code = _sealed(execution, ref, task.result())
                self._inner.begin(execution, ended)

        task.add_done_callback(fetched)


def _sealed(execution: Execution, ref: CodeRef, body: bytes) -> SealedCode:
    definition = execution.definition
    return SealedCode(
        project=execution.project,
        kind=definition.kind,
        name=definition.name,
        digest=ref.digest,
        index=ref.index,
        place=ref.place,
        body=body,
    )


class AsyncRunner:
    """Async tasks and workflows, on one event loop apart from the connection's."""

    def __init__(
        self, thread: IoThread, home: LoopMailbox, connection: Connection, loaded: Loaded
    ) -> None:
        self._thread = thread
        self._home = home
        self._connection = connection
        self._loaded = loaded

    def begin(self, execution: Execution, ended: Ended) -> None:
        """See `executor.Runner`."""
        is_workflow = execution.definition.kind == "workflow"
        context = context_of(execution, self._connection if is_workflow else None)
        arguments, inputs = execution.invocation.arguments, execution.inputs
        sealer = self._connection.sealer
        begun: list[asyncio.Task[Ending]] = []

        async def run() -> Ending:
            began = perf_counter()
            try:
                return await attempt()
            finally:
                execution.seconds = perf_counter() - began

        async def attempt() -> Ending:
            try:
                fn = await self._function(execution)
            except Exception as error:
                return await failed_soon(error, run=context, sealer=sealer)
            try:
                return await perform_async(fn, arguments, run=context, sealer=sealer, inputs=inputs)
            except asyncio.CancelledError as error:
                # A failure only if its own code cancelled it: see `outcome_of`.
                return failed(error, run=context, sealer=sealer)

        def done(task: asyncio.Task[Ending]) -> None:
            ending = None if task.cancelled() else task.result()
            self._home.post(lambda: ended(ending))

        def start() -> None:
            task = self._thread.loop.create_task(run(), name=execution.run)
            task.add_done_callback(done)
            begun.append(task)

        def stop() -> None:
            # Another attempt may go on with what it has called, else the coordinator stops that.
            context.abandoned = True
            for task in begun:
                task.cancel()

        execution.stop = lambda: _discard(self._thread.post(stop))
        self._thread.post(start)

    async def _function(self, execution: Execution) -> Callable[..., Any]:
        if execution.code is None:
            return _function(execution, self._loaded, self._connection.keys)
        # What it imports may take long to load, and is no reason for others to wait.
        return await asyncio.to_thread(_function, execution, self._loaded, self._connection.keys)


class ThreadRunner:
    """Sync tasks with `runs_in="thread"`, each on a thread of its own.

    A thread can't be stopped: it runs to its end, or to that of the process, since no process waits
    for it.
    """

    def __init__(self, home: LoopMailbox, sealer: Sealer, loaded: Loaded) -> None:
        self._home = home
        self._sealer = sealer
        self._loaded = loaded

    def begin(self, execution: Execution, ended: Ended) -> None:
        """See `executor.Runner`."""
        context = context_of(execution)
        arguments, inputs = execution.invocation.arguments, execution.inputs

        def run() -> None:
            began = perf_counter()
            try:
                fn = _function(execution, self._loaded, self._sealer.keys)
            except Exception as error:
                ending = failed(error, run=context, sealer=self._sealer)
            else:
                ending = perform(fn, arguments, run=context, sealer=self._sealer, inputs=inputs)
            execution.seconds = perf_counter() - began
            self._home.post(lambda: ended(ending))

        try:
            threading.Thread(target=run, name=f"leveret-{execution.run}", daemon=True).start()
        except RuntimeError as error:  # the system has no more
            ending = lost(execution, f"no thread could be started for it: {error}")
            self._home.post(lambda: ended(ending))


class ProcessRunner:
    """Sync tasks in child processes: true parallelism, and a crash costs one run."""

    def __init__(self, pool: ProcessPool, sealer: Sealer) -> None:
        self._pool = pool
        self._sealer = sealer

    def begin(self, execution: Execution, ended: Ended) -> None:
        """See `executor.Runner`."""
        task = asyncio.get_running_loop().create_task(self._run(execution), name=execution.run)
        execution.stop = lambda: _discard(task.cancel())

        def done(task: asyncio.Task[Ending | None]) -> None:
            ending = None if task.cancelled() else task.result()
            execution.seconds = None if ending is None else ending.seconds
            ended(ending)

        task.add_done_callback(done)

    async def _run(self, execution: Execution) -> Ending | None:
        try:
            return await self._pool.run(
                Job(
                    run=execution.run,
                    attempt=execution.number,
                    project=execution.project,
                    definition=execution.queue,
                    function=_reference(execution),
                    arguments=execution.invocation.arguments,
                    root=execution.invocation.root,
                    round=execution.invocation.round,
                    is_fresh=is_fresh(execution),
                    inputs=execution.inputs,
                )
            )
        except ChildDied as error:
            return lost(execution, error)
        except PoolStopped:
            return None
        except Exception as error:
            return await failed_soon(error, run=context_of(execution), sealer=self._sealer)


def _function(execution: Execution, loaded: Loaded, keys: Keyring | None) -> Callable[..., Any]:
    """What executes it; loaded now, if it was shipped. Raises what `Loaded.function` raises."""
    if isinstance(execution.definition, Shipped):
        assert execution.code is not None, "it was fetched"
        return loaded.function(execution.code, keys)
    return execution.definition.fn


def _reference(execution: Execution) -> FunctionRef:
    if isinstance(execution.definition, Shipped):
        assert execution.code is not None, "it was fetched"
        return FunctionRef.to_shipped(execution.code)
    return refer(execution.definition.fn)


def lost(execution: Execution, reason: object) -> Ending:
    """The ending of an attempt that says nothing about the user's code."""
    log.info("attempt lost", run=execution.run, attempt=execution.number, reason=str(reason))
    return Ending(failure=describe(WorkerLost(str(reason))), is_lost=True)


def _discard(_: object) -> None:
    """Makes a callback of a function whose result says nothing."""
