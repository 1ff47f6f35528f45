"""Where the running code stands: in which run, if any, and what its calls go through."""

import asyncio
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from leveret import identity

if TYPE_CHECKING:
    from leveret.connection import Connection


@dataclass(kw_only=True, slots=True)
class RunContext:
    """The run that the current code executes."""

    run: str
    attempt: int
    project: str
    kind: Literal["task", "workflow"]
    definition: str
    """Its `project:name:version`."""
    root: str
    """The run at the top of the tree; the run itself if nobody called it."""
    connection: "Connection | None" = None
    """What a workflow's calls go through. Tasks have none: only workflows call."""
    round: int = 1
    """Grows with every retry: children that failed in an earlier one are executed again."""
    fresh: bool = False
    """Nothing that it calls can be recorded yet: this is its first attempt, and the only one."""
    is_shipped: bool = False
    """Its code came from the caller, so that this host may lack what it imports."""
    abandoned: bool = False
    """This worker gave the run back: its calls stay as they are, for whoever executes it next."""
    _ordinals: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    _keys: dict[tuple[str, str], tuple[str | None, str]] = field(
        default_factory=dict[tuple[str, str], tuple[str | None, str]]
    )
    """The hash of the arguments that each key was used with, and how they look."""
    _stopped: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    """Runs that this attempt has stopped, or that somebody waits for it to stop."""
    _turns: dict[str, asyncio.Lock] = field(default_factory=dict[str, asyncio.Lock])

    @property
    def definition_name(self) -> str:
        """The definition without project and version."""
        return self.definition.split(":")[1]

    def next_ordinal(self, callee: str, identity: str) -> int:
        """How many equal calls this run has made before; counts this one."""
        ordinal = self._ordinals[callee, identity]
        self._ordinals[callee, identity] += 1
        return ordinal

    def note_stopped(self, run: str) -> None:
        """This attempt's own code has stopped what it had called."""
        self._stopped.setdefault(run, asyncio.Event()).set()

    async def until_stopped(self, run: str) -> None:
        """Return when this attempt has stopped a run that it called, as an earlier one had."""
        await self._stopped.setdefault(run, asyncio.Event()).wait()

    def turn(self, step: str) -> asyncio.Lock:
        """Held while the step of this id is done."""
        return self._turns.setdefault(step, asyncio.Lock())

    def use_key(self, key: str, callee: str, digest: str | None, shown: str) -> None:
        """Remember what a key means. Raises `KeyConflictError` if it means another call here."""
        before, seen = self._keys.setdefault((callee, key), (digest, shown))
        if before != digest and None not in (before, digest):
            raise identity.conflict(key, callee, seen, shown)


_run: ContextVar[RunContext | None] = ContextVar("leveret_run", default=None)
_step: ContextVar[str | None] = ContextVar("leveret_step", default=None)
_connection: ContextVar["Connection | None"] = ContextVar("leveret_connection", default=None)


def current_run() -> RunContext | None:
    """The run that the calling code belongs to, `None` outside of runs."""
    return _run.get()


def log_fields() -> Mapping[str, object]:
    """What a line that is logged here says of the run that it belongs to, if any."""
    run = _run.get()
    if run is None:
        return {}
    return {
        "run": run.run,
        "attempt": run.attempt,
        "project": run.project,
        "definition": run.definition,
    }


def current_step() -> str | None:
    """What the step calls that the calling code belongs to, `None` outside of steps."""
    return _step.get()


def current_connection() -> "Connection | None":
    """The connection of the innermost `connect` or `local` block around the calling code."""
    return _connection.get()


@contextmanager
def entering(run: RunContext) -> Generator[None, None, None]:
    """Make the code within belong to a run."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


@contextmanager
def stepping(name: str) -> Generator[None, None, None]:
    """Make the code within belong to a step of the run."""
    token = _step.set(name)
    try:
        yield
    finally:
        _step.reset(token)


@contextmanager
def connected(connection: "Connection") -> Generator[None, None, None]:
    """Send calls within through a connection, unless they are made inside a run."""
    token = _connection.set(connection)
    try:
        yield
    finally:
        _connection.reset(token)
