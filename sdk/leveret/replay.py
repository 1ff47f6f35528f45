"""What a workflow's code is told of a call that was stopped, so that it goes the same way again.

Two kinds of ends are told by cancelling the code, not by an answer:

- The call was stopped by this run's own code, in an earlier attempt: a timeout around the await, or
  the failure of another call. What stopped it then stops it again; then all who await it are told.
- The run itself has ended, and the call with it: the code is about to be cancelled.
"""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leveret.context import RunContext
    from leveret_broker.messages import Finished


CANCELLED_WITHIN = 60.0
"""Seconds that a worker has to hear that the run was stopped, else it is told by the call's end."""


async def wait_if_stopped_otherwise(end: "Finished | None", caller: "RunContext | None") -> None:
    """Return at once, unless the end of a call of this run is told by cancelling who awaits it."""
    if end is None or caller is None or caller.kind != "workflow" or end.state != "cancelled":
        return
    if end.stopped_by is not None and end.stopped_by < caller.attempt:
        await caller.until_stopped(end.run)
    elif end.has_parent_ended:  # what an ended run has left behind is cancelled by nobody
        await asyncio.sleep(CANCELLED_WITHIN)
