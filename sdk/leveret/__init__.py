"""Plain async Python that runs in one process, or on many machines over RabbitMQ.

Decorate functions with `@define.task` and `@define.workflow`, call them, and await the calls.
"""

from typing import TYPE_CHECKING, Any

from leveret import define
from leveret.calls import Call
from leveret.concurrency import gather, map
from leveret.definitions import Task, Workflow
from leveret.errors import (
    AppError,
    CoordinatorUnreachable,
    DefinitionError,
    IdentificationError,
    InputFailed,
    KeyConflictError,
    KeyFileWarning,
    LeveretError,
    MissingModuleError,
    NestedCallError,
    NotDeployedError,
    NoWorkerWarning,
    PayloadError,
    RemoteError,
    RunCancelled,
    RunStateError,
    RunTimeout,
    SettingError,
    StateError,
    WorkerLost,
)
from leveret.inputs import result_of
from leveret.retries import Retry

if TYPE_CHECKING:
    from leveret.client import Client, connect, local
    from leveret.runs import Run
    from leveret.steps import now, random, sleep, step, uuid
    from leveret.watch import watch

__version__ = "0.1.0"

__all__ = [
    # define and call
    "Call",
    "Retry",
    "Task",
    "Workflow",
    "define",
    "gather",
    "map",
    "result_of",
    "watch",
    # what a workflow does itself
    "now",
    "random",
    "sleep",
    "step",
    "uuid",
    # where it runs
    "Client",
    "Run",
    "connect",
    "local",
    # errors
    "AppError",
    "CoordinatorUnreachable",
    "DefinitionError",
    "IdentificationError",
    "InputFailed",
    "KeyConflictError",
    "LeveretError",
    "MissingModuleError",
    "NestedCallError",
    "KeyFileWarning",
    "NoWorkerWarning",
    "NotDeployedError",
    "PayloadError",
    "RemoteError",
    "RunCancelled",
    "RunStateError",
    "RunTimeout",
    "SettingError",
    "StateError",
    "WorkerLost",
]

_LATER = {
    "Client": "leveret.client",
    "connect": "leveret.client",
    "local": "leveret.client",
    "Run": "leveret.runs",
    **dict.fromkeys(("now", "random", "sleep", "step", "uuid"), "leveret.steps"),
    "watch": "leveret.watch",
}


def __getattr__(name: str) -> Any:
    """Import what needs more than the standard library only when it is used."""
    if name not in _LATER:
        raise AttributeError(f"module 'leveret' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
