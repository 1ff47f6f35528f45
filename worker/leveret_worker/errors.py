"""What can go wrong in a worker, apart from the user's own code."""


class WorkerError(Exception):
    """Root of everything that this package raises."""


class ChildDied(WorkerError):
    """The child process that executed a run died: the message names the signal or the exit code.

    An exception in the user's code is never this: it is the run's own failure.
    """

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """As `subprocess` gives it: negative for a signal. `None`: there never was a process."""


class ChildNotStarted(ChildDied):
    """A child process could not be started; no user code ran. The message has what it printed."""


class PoolStopped(WorkerError):
    """The pool was stopped before the run ended."""


class Terminated(KeyboardInterrupt):
    """Raised in a sync task's code when its run is cancelled, so that `finally` blocks run.

    A `KeyboardInterrupt`, because event loops and libraries let that one through.
    """
