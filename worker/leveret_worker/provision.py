"""Results that are too large to come with an invocation: got before the execution begins.

The worker attaches to the runs that they are the results of, some at a time: nothing of them passes
through the process that made the call. The execution holds its slot meanwhile.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from leveret.errors import PayloadError
from leveret.sealing import Sealer
from leveret.session import Session
from leveret_broker.messages import Finished, Input
from leveret_worker.execution import Execution
from leveret_worker.perform import Ending, failed
from leveret_worker.runners import context_of

if TYPE_CHECKING:
    from leveret_worker.executor import Runner

AT_ONCE = 20
"""Results that are asked for in one message."""


class Providing:
    """A place where user code runs, behind what gets its arguments together."""

    def __init__(self, runner: "Runner", session: Session, sealer: Sealer) -> None:
        self._runner = runner
        self._session = session
        self._sealer = sealer

    def begin(self, execution: Execution, ended: Callable[[Ending | None], None]) -> None:
        """See `executor.Runner`."""
        if all(each.result is not None for each in execution.invocation.inputs):
            self._runner.begin(execution, ended)
            return

        def provided(task: asyncio.Task[None]) -> None:
            if task.cancelled() or not execution.is_wanted:
                ended(None)
            elif error := task.exception():
                ended(failed(error, run=context_of(execution), sealer=self._sealer))
            else:
                self._runner.begin(execution, ended)

        task = asyncio.get_running_loop().create_task(self._provide(execution))
        execution.stop = lambda: _discard(task.cancel())
        task.add_done_callback(provided)

    async def _provide(self, execution: Execution) -> None:
        invocation = execution.invocation
        inputs: list[Input] = []
        for start in range(0, len(invocation.inputs), AT_ONCE):
            portion = invocation.inputs[start : start + AT_ONCE]
            asked = [(each, self._session.attach(each.run)) for each in portion]
            for each, pending in asked:
                await pending.until(lambda pending: pending.is_settled)
                inputs.append(_provided(each, pending.answer, pending.error))
        update = {"inputs": tuple(inputs)}
        execution.invocation = invocation.model_copy(update=update)


def _provided(wanted: Input, answer: object, error: Exception | None) -> Input:
    if error is not None:
        raise error
    if isinstance(answer, Finished) and answer.result is not None:
        return Input(run=wanted.run, result=answer.result)
    told = answer.failure if isinstance(answer, Finished) else None
    raise PayloadError(
        f"the result of the input {wanted.run} could not be had: {told.message if told else answer}"
    )


def _discard(_: object) -> None:
    """Makes a callback of a function whose result says nothing."""
