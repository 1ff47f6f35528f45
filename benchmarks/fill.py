"""Fills a catalog file with runs that have ended, as if it had served for a month.

    python -m benchmarks.fill catalog.sqlite --runs 1000000 --definitions 500

The rows go through the catalog's own migrations, statements and values, so they change with these.
Every tree is a workflow with a step and eight tasks; every tenth root is a task alone. Some runs
have failed, some after a retry.
"""

import argparse
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from ulid import ULID

from leveret_broker.identifiers import child_run_id, new_id
from leveret_broker.messages import Failure
from leveret_coordinator import migrations, rows, statements
from leveret_coordinator.records import (
    STEP,
    STEP_VERSION,
    Attempt,
    Definition,
    End,
    NewRun,
    Run,
)

MONTH = 30 * 86400.0
TASKS_PER_TREE = 8
AT_ONCE = 20_000
"""Runs in one transaction."""
VERSIONS = 5
"""Of each name."""
FAILURE = Failure(
    type="ValueError",
    message="could not convert string to float: 'n/a'",
    traceback='Traceback (most recent call last):\n  File "app.py", line 7, in fit\n' * 4,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Filling:
    """What to fill a catalog with."""

    runs: int
    definitions: int = 10
    project: str = "default"
    until: float | None = None
    """When the last of them ended, in seconds since the Unix epoch; now by default."""
    over: float = MONTH
    """Seconds from the first to the last."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ended:
    """A run, its attempts and its end, to be written."""

    new: NewRun
    end: End
    attempts: tuple[Attempt, ...] = ()


def fill(path: Path, filling: Filling) -> None:
    """Make the file. Raises `FileExistsError` if there is one."""
    path.touch(exist_ok=False)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        _prepare(connection)
        maker = _Maker(filling)
        _put_definitions(connection, maker)
        ended = islice(maker.ended(), filling.runs)
        while portion := list(islice(ended, AT_ONCE)):
            connection.execute("BEGIN")
            _put_runs(connection, portion)
            connection.execute("COMMIT")
        connection.executescript("PRAGMA synchronous = FULL; PRAGMA journal_mode = WAL;")


def _prepare(connection: sqlite3.Connection) -> None:
    """Without a journal: what is left of a filling that was broken off is of no use anyway."""
    connection.executescript(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;"
    )
    for migration in migrations.load():
        connection.executescript(migration.script)


def _put_definitions(connection: sqlite3.Connection, maker: "_Maker") -> None:
    definitions = [*maker.workflows, *maker.tasks, maker.step]
    _many(connection, "put_definition", [rows.definition_row(each) for each in definitions])
    worker: rows.Row = {
        "worker": maker.worker,
        "project": maker.filling.project,
        "host": "host",
        "pid": 7,
        "slots": 32,
        "busy": 0,
        "started_at": maker.began_at,
        "now": maker.ends_at,
        "accepts_code": 0,
    }
    _many(connection, "put_worker", [worker])


def _put_runs(connection: sqlite3.Connection, ended: Sequence[_Ended]) -> None:
    new = [rows.new_run_row(each.new) for each in ended]
    _many(connection, "insert_runs", new)
    _many(connection, "insert_arguments", new)
    attempts = [rows.attempt_row(attempt) for each in ended for attempt in each.attempts]
    _many(connection, "put_attempts", attempts)
    _many(connection, "put_results", [rows.result_row(each.end) for each in ended])


def _many(connection: sqlite3.Connection, statement: str, parameters: Sequence[rows.Row]) -> None:
    connection.executemany(getattr(statements.load(), statement).sql, parameters)


@dataclass(kw_only=True, slots=True)
class _Call:
    """What a run is of, and where it belongs."""

    definition: Definition
    parent: Run | None = None
    ordinal: int = 0


@dataclass(slots=True)
class _Maker:
    """Makes runs, one tree after the other."""

    filling: Filling
    chance: random.Random = field(init=False)
    ends_at: float = field(init=False)
    began_at: float = field(init=False)
    workflows: list[Definition] = field(init=False)
    tasks: list[Definition] = field(init=False)
    step: Definition = field(init=False)
    worker: str = field(init=False)

    def __post_init__(self) -> None:
        filling = self.filling
        self.chance = random.Random(filling.seed)
        self.ends_at = time.time() if filling.until is None else filling.until
        self.began_at = self.ends_at - filling.over
        tasks = max(1, filling.definitions * 4 // 5)
        workflows = max(1, filling.definitions - tasks)
        self.tasks = [self._task(number) for number in range(tasks)]
        self.workflows = [self._workflow(number) for number in range(workflows)]
        self.step = Definition(
            id=new_id("step"),
            project=filling.project,
            kind="step",
            name=STEP,
            version=STEP_VERSION,
            fingerprint="",
            module="leveret",
            qualname="step",
            description="What `leveret.step` recorded",
            registered_at=self.began_at,
        )
        self.worker = f"{filling.project}:{new_id('worker')}"

    def _task(self, number: int) -> Definition:
        name, minor = f"task_{number // VERSIONS}", number % VERSIONS
        return Definition(
            id=new_id("task"),
            project=self.filling.project,
            kind="task",
            name=name,
            version=f"0.{minor}",
            fingerprint=f"{number:032x}",
            module="app",
            qualname=name,
            description="Filled in",
            registered_at=self.began_at,
        )

    def _workflow(self, number: int) -> Definition:
        name, revision = f"flow_{number // VERSIONS}", number % VERSIONS + 1
        return Definition(
            id=new_id("workflow"),
            project=self.filling.project,
            kind="workflow",
            name=name,
            version=str(revision),
            fingerprint=f"{number:032x}",
            module="app",
            qualname=name,
            description="Filled in",
            registered_at=self.began_at,
        )

    def ended(self) -> Iterator[_Ended]:
        """Runs in the order of acceptance, as many as anybody wants."""
        a_root = 0.9 * (TASKS_PER_TREE + 2) + 0.1
        most = 1.2 * self.filling.runs / a_root + 10  # by chance there may be more than usual
        spacing = self.filling.over / most
        at = self.began_at
        while True:
            at += spacing
            if self.chance.random() < 0.1:
                yield self._run(_Call(definition=self.chance.choice(self.tasks)), at)
            else:
                yield from self._tree(at)

    def _tree(self, at: float) -> Iterator[_Ended]:
        top = self._run(_Call(definition=self.chance.choice(self.workflows)), at)
        yield top
        parent = top.new.run
        yield self._run(_Call(definition=self.step, parent=parent), at)
        for ordinal in range(TASKS_PER_TREE):
            task = self.chance.choice(self.tasks)
            yield self._run(_Call(definition=task, parent=parent, ordinal=ordinal), at)

    def _run(self, call: _Call, at: float) -> _Ended:
        chance, definition, parent = self.chance, call.definition, call.parent
        drawn = 1.0 if definition.kind == "step" else chance.random()
        has_failed, attempts = drawn < 0.02, 2 if drawn < 0.05 else 1
        identity = f"{chance.getrandbits(128):032x}" if parent else ""
        ended_at = at + 0.1 * attempts
        run = Run(
            id=_id(call, identity, at),
            project=definition.project,
            definition=definition.id,
            kind=definition.kind,
            root="" if parent is None else parent.root,
            parent=None if parent is None else parent.id,
            state="failed" if has_failed else "succeeded",
            since=ended_at,
            attempt=attempts,
            round=attempts,
            failures=attempts - 1,
            digest=identity or None,
            started_at=None if definition.kind == "step" else at + 0.01,
            finished_at=ended_at,
            failure=FAILURE if has_failed else None,
        )
        return self._ended(_rooted(run), call, identity, at)

    def _ended(self, run: Run, call: _Call, identity: str, at: float) -> _Ended:
        has_failed = run.state == "failed"
        new = NewRun(
            run=run,
            identity=identity,
            ordinal=call.ordinal,
            asked_for=call.definition.name,
            arguments=b"" if run.kind == "step" else self._payload(),
            created_at=at,
        )
        end = End(
            run=run.id,
            state="failed" if has_failed else "succeeded",
            result=None if has_failed else self._payload(),
            error=self._payload() if has_failed else None,
            failure=run.failure,
        )
        numbers = () if run.kind == "step" else range(1, run.attempt + 1)
        return _Ended(
            new=new, end=end, attempts=tuple(self._attempt(run, number, at) for number in numbers)
        )

    def _attempt(self, run: Run, number: int, at: float) -> Attempt:
        has_failed = number < run.attempt or run.state == "failed"
        return Attempt(
            run=run.id,
            number=number,
            state="failed" if has_failed else "succeeded",
            worker=self.worker,
            started_at=at + 0.01 + 0.1 * (number - 1),
            finished_at=at + 0.1 * number,
            failure=FAILURE if has_failed else None,
        )

    def _payload(self) -> bytes:
        """As long as most are: a few numbers or texts, with header and signature."""
        return self.chance.randbytes(int(80 + self.chance.expovariate(1 / 120)))


def _id(call: _Call, identity: str, at: float) -> str:
    if call.parent is None:
        return f"run_{ULID.from_timestamp(at)}"
    return child_run_id(call.parent.id, call.definition.queue, identity, call.ordinal)


def _rooted(run: Run) -> Run:
    """A root run is its own root."""
    return run if run.root else replace(run, root=run.id)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.fill", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--definitions", type=int, default=10)
    parser.add_argument("--project", default="default")
    given = parser.parse_args()
    began = time.perf_counter()
    filling = Filling(runs=given.runs, definitions=given.definitions, project=given.project)
    fill(given.path, filling)
    size = given.path.stat().st_size
    print(f"{given.runs} runs, {size / 1e6:.0f} MB, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
