"""Random histories of retries, claims, losses, timers and people: what always holds."""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from leveret_broker.messages import (
    AttemptEnd,
    Cancel,
    Claim,
    Failure,
    Goodbye,
    Outcomes,
    Recorded,
    Retry,
    RetryPolicy,
    RunOptions,
    Submission,
    Submit,
    Target,
)
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.database import in_a_thread
from leveret_coordinator.decide import decide
from leveret_coordinator.decision import Decision
from leveret_coordinator.facts import Message, needs_of
from leveret_coordinator.reading import Liveness
from leveret_coordinator.records import (
    STEP,
    Confirmed,
    NewRun,
    Orphan,
    PublishedAttempt,
    RefusedAttempt,
    Run,
    Vanished,
)
from leveret_coordinator.statements import Connection
from tests.coordinator import build

RUNS = [build.run_id(number) for number in range(1, 9)]
PARENTS = [None, RUNS[0], RUNS[0], RUNS[1], RUNS[3], None, RUNS[5], RUNS[5]]
STEPS = {RUNS[2], RUNS[7]}
WORKERS = ("w1", "w2", "w3")
ENDS: tuple[AttemptEnd, ...] = (
    "succeeded",
    "failed",
    "failed",
    "timed-out",
    "lost",
    "returned",
    "stopped",
)
OPTIONS = (
    RunOptions(),
    RunOptions(lost_retries=0),
    RunOptions(retry=RetryPolicy(max=2, initial=0, factor=1, cap=0, jitter=0)),
    RunOptions(retry=RetryPolicy(max=1, initial=5, factor=2, cap=60, jitter=1, then="park")),
    RunOptions(
        retry=RetryPolicy(max=9, initial=9, factor=2, cap=60, jitter=0.5),
        total_timeout=90,
        queue_timeout=20,
    ),
)


class _History:
    """A catalog, and messages made up as it goes."""

    def __init__(self, catalog: Catalog, connection: Connection, rng: random.Random) -> None:
        self.catalog = catalog
        self.rng = rng
        self.now = build.NOW
        self._connection = connection
        self._sent: list[Message] = []

    async def select(self, sql: str) -> list[Any]:
        found = await self._connection.run(lambda connection: connection.execute(sql).fetchall())
        return [tuple(row) for row in found]

    async def runs(self) -> dict[str, Run]:
        needs = needs_of([Cancel(session="s", runs=tuple(RUNS))])
        facts = await self.catalog.load(needs, alive=self._alive)
        return {run.id: run for run in facts.runs}

    @property
    def _alive(self) -> Liveness:
        return Liveness(since=self.now - 20)

    async def step(self) -> Decision:
        """A batch of messages; some have been there before."""
        self.now += self.rng.choice((0.0, 0.5, 3.0, 12.0))
        messages = [await self._message() for _ in range(self.rng.randint(1, 4))]
        if self._sent and self.rng.random() < 0.3:
            messages.append(self.rng.choice(self._sent))
        self._sent += messages
        return await self.apply(messages)

    async def apply(self, messages: Sequence[Message]) -> Decision:
        facts = await self.catalog.load(needs_of(messages), alive=self._alive)
        decision = decide(
            messages, facts, now=self.now, version="0", issue=build.issue, chance=self.rng.random
        )
        await self.catalog.write(decision, self._confirmed(await self.runs()), now=self.now)
        return decision

    def _confirmed(self, runs: dict[str, Run]) -> Confirmed:
        pending = [run for run in runs.values() if run.state == "pending"]
        told = [run for run in pending if self.rng.random() < 0.5]
        return Confirmed(
            published=tuple(PublishedAttempt(run=r.id, attempt=r.attempt) for r in told)
        )

    async def _message(self) -> Message:
        runs = await self.runs()
        missing = [run for run in RUNS if run not in runs]
        if missing and self.rng.random() < 0.5:
            return self._submit(missing[0], runs)
        run = runs.get(self.rng.choice(RUNS))
        if run is None:
            return build.heartbeat(worker=self.rng.choice(WORKERS))
        return await self._about(run, runs)

    async def _about(self, run: Run, runs: dict[str, Run]) -> Message:
        attempt = max(1, run.attempt + self.rng.choice((0, 0, 0, 0, -1, 1)))
        worker = self.rng.choice(WORKERS)
        held_by = run.holder.worker if run.holder else worker
        match self.rng.randrange(14):
            case 0 | 1 | 2:
                return build.started(
                    run.id, attempt=attempt, worker=worker, leased=attempt % 2 == 0
                )
            case 3 | 4 | 5:
                return self._outcome(run.id, attempt, self.rng.choice((worker, held_by)))
            case 6 | 7:
                return self._claim(run.id, attempt, worker)
            case 8:
                return Orphan(run=run.id, attempt=attempt, worker=held_by)
            case 9:
                return Vanished(run=run.id, attempt=attempt)
            case 10:
                due = await self.catalog.timers_due(now=self.now + 30, most=100)
                return self.rng.choice(due) if due else build.heartbeat(worker=worker)
            case 11:
                return self._by_a_person(run)
            case 12:
                return self.rng.choice((Goodbye(worker=worker), build.heartbeat(worker=worker)))
            case _:
                return self._submit(run.id, runs)

    def _submit(self, run: str, runs: dict[str, Run]) -> Message:
        parent = PARENTS[RUNS.index(run)]
        round = runs[parent].round if parent in runs else 1
        session = self.rng.choice(("s1", "s2"))
        if run not in STEPS:
            options = self.rng.choice(OPTIONS)
            asked = build.submission(run, "p:flow:1", parent=parent, options=options, round=round)
            return build.submit(asked, session=session)
        recorded = self.rng.choice(
            (
                Recorded(name="roll", result=b"4"),
                Recorded(name="roll", error=b"e", failure=build.FAILURE),
                Recorded(name="sleep", result=b"none", delay=15.0),
            )
        )
        target = Target(kind="step", name=STEP)
        step = Submission(
            run=run,
            target=target,
            project="p",
            arguments=b"",
            parent=parent,
            round=round,
            recorded=recorded,
        )
        return Submit(session=session, submissions=(step,))

    def _outcome(self, run: str, attempt: int, worker: str) -> Message:
        end = self.rng.choice(ENDS)
        return build.outcomes(build.outcome(run, end, attempt=attempt), worker=worker)

    def _claim(self, run: str, attempt: int, worker: str) -> Message:
        executing = self.rng.random() < 0.3
        claim = Claim(
            run=run,
            attempt=attempt,
            handed_out=self.rng.random() < 0.6,
            executing=executing,
            started_at=self.now - 1 if executing else None,
        )
        return Outcomes(worker=worker, claims=(claim,))

    def _by_a_person(self, run: Run) -> Message:
        return self.rng.choice(
            (
                Cancel(session="s", request="c", runs=(run.id,)),
                Retry(session="s", request="r", run=run.id),
                Retry(session="s", request="r", run=run.id, resume=True),
                Retry(session="s", request="r", run=run.id, version="1"),
                RefusedAttempt(run=run.id, attempt=run.attempt, reason="too large"),
            )
        )


@asynccontextmanager
async def _history(seed: int) -> AsyncGenerator[_History, None]:
    opened: list[Connection] = []

    async def connect(name: str) -> Connection:
        opened.append(await in_a_thread(name))
        return opened[0]

    catalog = await Catalog.open(None, connect)
    history = _History(catalog, opened[0], random.Random(seed))
    await history.apply([build.register(build.spec("flow"))])
    try:
        yield history
    finally:
        await catalog.close()


def _as_kept(run: Run) -> Run:
    """The catalog keeps no traceback and no bases of a failure with the run."""
    failure = run.failure and Failure(type=run.failure.type, message=run.failure.message)
    return replace(run, failure=failure)


ENDED = "runs.finished_at IS NOT NULL"
WRONG = {
    "an attempt that executes is the latest of a run that executes": """
        SELECT runs.id FROM attempts JOIN runs USING (seq)
        WHERE attempts.state = 'running'
            AND (runs.state != 'running' OR attempts.number != runs.attempt)""",
    "a run that executes has a worker that answers for it": """
        SELECT id FROM runs WHERE state = 'running' AND NOT EXISTS (
            SELECT 1 FROM attempts
            WHERE attempts.seq = runs.seq AND number = runs.attempt AND state = 'running'
                AND worker IS NOT NULL)""",
    "nothing is due for a run that has ended": f"""
        SELECT id FROM timers JOIN runs USING (seq) WHERE {ENDED}""",
    "a retry or a sleep is due for every run that waits, and for no other": """
        SELECT id FROM runs WHERE (state = 'waiting') != EXISTS (
            SELECT 1 FROM timers WHERE timers.seq = runs.seq AND kind IN ('retry', 'sleep'))""",
    "a time in the queue is due only for what may be in a queue": """
        SELECT id FROM timers JOIN runs USING (seq)
        WHERE timers.kind = 'queue' AND state = 'running'""",
    "no attempt is later than the run's": """
        SELECT id FROM attempts JOIN runs USING (seq) WHERE number > attempt""",
    "results are kept of what has ended, and of sleeps": f"""
        SELECT id FROM results JOIN runs USING (seq)
        WHERE NOT ({ENDED}) AND NOT (kind = 'step' AND state = 'waiting')""",
    "what succeeded has its result": """
        SELECT id FROM runs LEFT JOIN results USING (seq)
        WHERE state = 'succeeded' AND result IS NULL""",
    "what was cancelled has none": """
        SELECT id FROM results JOIN runs USING (seq)
        WHERE state = 'cancelled'""",
    "steps are executed by nobody": """
        SELECT id FROM runs WHERE kind = 'step'
            AND (state IN ('pending', 'queued', 'running', 'parked')
                OR EXISTS (SELECT 1 FROM attempts WHERE attempts.seq = runs.seq))""",
    "references are whole": "PRAGMA foreign_key_check",
}


@pytest.mark.parametrize("seed", range(24))
async def test_whatever_happens_the_catalog_is_as_decided_and_makes_sense(seed: int) -> None:
    async with _history(seed) as history:
        before: dict[str, Run] = {}
        for _ in range(50):
            decision = await history.step()
            after = await history.runs()
            _check_written(decision, after)
            _check_growth(before, after, decision)
            for truth, query in WRONG.items():
                assert await history.select(query) == [], truth
            before = after


def _check_written(decision: Decision, after: dict[str, Run]) -> None:
    """What is read is what was decided, but for confirmations that were written with it."""
    decided: list[NewRun | Any] = [*decision.runs, *decision.changed]
    for each in decided:
        run: Run = _as_kept(each.run)
        kept = after[run.id]
        if kept.state == "queued":
            run = replace(run, state="queued", since=kept.since)
        assert kept == run


def _check_growth(before: dict[str, Run], after: dict[str, Run], decision: Decision) -> None:
    for id, was in before.items():
        run = after[id]
        assert run.attempt >= was.attempt, "attempts grow"
        assert run.round >= was.round, "rounds grow"
        if was.state == "succeeded":
            assert run == replace(was, losses=run.losses), "what succeeded stays as it is"
        if was.finished_at is not None and run != replace(was, losses=run.losses):
            assert id in decision.reopened, "what has ended is left by being opened again"
        if run.attempt > was.attempt or run.state in ("succeeded", "failed", "cancelled"):
            continue
        assert run.round == was.round or run.state == "waiting"


@pytest.mark.parametrize("seed", range(40, 48))
async def test_every_history_can_be_brought_to_an_end(seed: int) -> None:
    async with _history(seed) as history:
        for _ in range(40):
            await history.step()
        for _ in range(30):
            unended = [run for run in (await history.runs()).values() if run.finished_at is None]
            if not unended:
                break
            history.now += 60
            await history.apply(await _closing(history, unended))
        assert all(run.finished_at is not None for run in (await history.runs()).values())
        assert await history.select("SELECT count(*) FROM timers") == [(0,)]
        assert await history.select("SELECT count(*) FROM attempts WHERE state = 'running'") == [
            (0,)
        ]


async def _closing(history: _History, unended: Sequence[Run]) -> list[Message]:
    """What a worker and a person do when nothing goes wrong any more."""
    due = await history.catalog.timers_due(now=history.now, most=100)
    parked = [run.id for run in unended if run.state == "parked"]
    return [
        *due,
        *(Retry(session="s", request="r", run=run, resume=True) for run in parked),
        *(build.outcomes(build.outcome(run.id, attempt=run.attempt)) for run in unended),
    ]
