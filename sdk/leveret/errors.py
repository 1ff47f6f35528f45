"""Every error that a program may catch, under one root.

An exception that a task or workflow raised is none of these: it is raised again at the `await` as
its own type, and only what can't be carried becomes a `RemoteError`.
"""


class LeveretError(Exception):
    """Root of all errors of leveret."""


class DefinitionError(LeveretError, ValueError):
    """A task or workflow can't be defined like this; raised at the definition, never later."""


class IdentificationError(LeveretError, LookupError):
    """An identifier is malformed, unknown or ambiguous, or contradicts the known project."""


class NotDeployedError(LeveretError):
    """The cluster has no such code: no worker has ever registered this definition there."""


class NestedCallError(LeveretError, RuntimeError):
    """A call was awaited inside a task, or made inside a step.

    Only workflows call; a task uses `definition.fn`, and a step is one plain function.
    """


class KeyConflictError(LeveretError, ValueError):
    """A key names a run already, and that run has other arguments.

    The same key with the same arguments means the same run and is no error.
    """


class PayloadError(LeveretError):
    """Arguments or a result can't travel: not encodable, unsigned, damaged, of other versions."""


class MissingModuleError(LeveretError, ModuleNotFoundError):
    """Shipped code needs a module that the worker's host doesn't have. The message names both.

    A module that the function imports when it is called is missed by Python's own
    `ModuleNotFoundError`, with a note.
    """


class RemoteError(LeveretError):
    """A run failed with an exception that can't be carried to this process.

    When the exception's own type can be carried, that type is raised instead.
    """

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name
        """The exception's qualified name where it was raised."""
        self.message = message
        self.traceback = traceback
        """The formatted traceback from there."""


class RunCancelled(LeveretError):
    """The run was cancelled by somebody else. Who cancels the await gets `CancelledError`."""


class RunTimeout(LeveretError, TimeoutError):
    """A run took longer than it may; the message says which time was over.

    `timeout` is that of one attempt, `total_timeout` that of all of them with the waits between,
    `queue_timeout` the wait until a worker takes it. Leaving `asyncio.timeout` raises the builtin
    `TimeoutError` instead.
    """


class WorkerLost(LeveretError):
    """The processes that executed the run died or went silent, as often as `lost_retries` allows.

    The message names each lost attempt's host, time and cause, such as a signal or an exit code.
    An exception that the code itself raised is raised as its own type instead.
    """


class InputFailed(LeveretError):
    """A call that was given as an argument did not succeed, so the run was not executed.

    The message names the run of that call and what it failed with; `__cause__` is its own error.
    """


class RunStateError(LeveretError):
    """The run is in a state in which this can't be done: it has not ended, or is not parked."""


class CoordinatorUnreachable(LeveretError, ConnectionError):
    """No coordinator answered in time. The message names the broker's URL, never its password."""


class AppError(LeveretError):
    """A module or file with definitions can't be loaded, or its definitions contradict."""


class SettingError(LeveretError, ValueError):
    """A setting or an option is out of range or malformed. The message names it."""


class StateError(LeveretError):
    """The catalog or the folder of `state=` can't be used: in use, too new, or something else."""


class KeyFileWarning(UserWarning):
    """The file with the keys can be read by others on this machine."""


class NoWorkerWarning(UserWarning):
    """A run was accepted, and no worker serves its definition: it waits until one does."""
