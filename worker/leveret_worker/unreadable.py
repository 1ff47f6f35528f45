"""Payloads that this worker can't read: who runs it should hear of them, not only who calls."""

from leveret.errors import PayloadError
from leveret.failures import type_name
from leveret.signatures import LACKS_KEY
from leveret_broker import logs
from leveret_broker.clock import Clock
from leveret_broker.messages import Outcome
from leveret_worker.execution import Execution

log = logs.get_logger("leveret.worker")

REMEMBERED = 300.0
"""Seconds for which a missing key is held against a worker that has read nothing since."""

_UNREADABLE = type_name(PayloadError)


class Unreadable:
    """Whether this worker's key is that of its callers, as far as its runs tell.

    Which of two processes has the wrong key, neither can know. A worker that can't read the latest
    of what it was given may be the one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reason = ""
        self._told_at = float("-inf")

    @property
    def problem(self) -> str | None:
        """Why the latest payload could not be read, if a key is missing for it."""
        is_old = self._clock.now() - self._told_at > REMEMBERED
        return self._reason if self._reason and not is_old else None

    def note(self, outcome: Outcome, execution: Execution) -> None:
        """How a run ended here."""
        failure = outcome.failure
        if failure is None or failure.type != _UNREADABLE:
            self._reason = ""
            return
        log.warning(
            "a payload could not be read or made",
            run=execution.run,
            queue=execution.queue,
            reason=failure.message,
        )
        if LACKS_KEY in failure.message:
            self._reason, self._told_at = failure.message, self._clock.now()
