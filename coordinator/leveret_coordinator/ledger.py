"""The rows that a batch names, as they are after each of its messages, and what has changed.

A batch may hold a submission and its cancellation, or the same outcome twice: each message is
decided upon as if those before it had been written already.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from leveret_broker.identifiers import Kind
from leveret_broker.messages import (
    AttemptState,
    Claim,
    Finished,
    Heartbeat,
    Outcome,
    Reply,
    Started,
    Verdict,
)
from leveret_coordinator import states
from leveret_coordinator.decision import (
    Answer,
    Decision,
    Judged,
    LateOutcome,
    Stopped,
    StoppedByStranger,
)
from leveret_coordinator.facts import Facts
from leveret_coordinator.records import (
    Attempt,
    ChangedRun,
    Definition,
    End,
    LostAttempt,
    NewCode,
    NewRun,
    PendingRun,
    Run,
    Timer,
    TimerKind,
    Waiter,
    Worker,
)


class Ledger:
    """Made for one batch and thrown away with it.

    `issue` makes a new database id; `chance` a number from 0 to 1, not by itself random.
    """

    def __init__(
        self,
        facts: Facts,
        *,
        now: float,
        issue: Callable[[Kind], str],
        chance: Callable[[], float],
    ) -> None:
        self.now = now
        self.issue = issue
        self.chance = chance
        self.known = facts.known
        self.workers = facts.workers
        self.arguments = facts.arguments
        self._definitions = {row.id: row for row in facts.known.definitions}
        self._served = set(facts.served)
        self._deployed = set(facts.deployed)
        self._accepting = set(facts.accepting)
        self._runs = {run.id: run for run in facts.runs}
        self._below: dict[str, dict[str, None]] = defaultdict(dict)
        for top, run in facts.below:
            self._below[top][run.id] = None
            self._runs[run.id] = run
        self._dependents = self._edges(facts.dependents)
        self._inputs = self._edges(facts.missing)
        self._ended_inputs: deque[str] = deque()
        self._before = dict(self._runs)
        self._waiters: dict[str, dict[str, None]] = defaultdict(dict)
        for waiter in facts.waiters:
            self._waiters[waiter.run][waiter.session] = None
        self._lost = {run: list(attempts) for run, attempts in facts.lost.items()}
        self._foreseen = facts.foreseen
        self._ended = {finished.run: finished for finished in facts.ended}
        self._changed_definitions: dict[str, Definition] = {}
        self._code: dict[tuple[str, str], NewCode] = {}
        self._shipped: dict[str, None] = {}
        self._new_runs: dict[str, NewRun] = {}
        self._new_children: dict[str, list[str]] = {}
        self._new_waiters: list[Waiter] = []
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._ends: dict[str, End] = {}
        self._reopened: dict[str, None] = {}
        self._timers: dict[tuple[str, TimerKind], Timer] = {}
        self._cleared: dict[tuple[str, TimerKind | None], None] = {}
        self._dispatched: dict[str, None] = {}
        self._repeated: dict[str, None] = {}
        self._answers: list[Answer] = []
        self._stops: dict[str, Stopped] = {}
        self._verdicts: list[Judged] = []
        self._suspects: dict[str, None] = {}
        self._seconds: dict[str, list[float]] = {}
        self._reached: dict[str, float] = {}
        self._refused: list[LateOutcome] = []
        self._strangers: list[StoppedByStranger] = []

    def _edges(self, pairs: Iterable[tuple[str, Run]]) -> dict[str, dict[str, None]]:
        edges: dict[str, dict[str, None]] = {}
        for one, other in pairs:
            edges.setdefault(one, {})[other.id] = None
            self._runs[other.id] = other
        return edges

    def note_pace(self, definition: str, seconds: float) -> None:
        """An execution took so long."""
        self._seconds.setdefault(definition, []).append(seconds)

    def note_reached(self, definition: str, published_at: float) -> None:
        """Somebody took from its queue what was published then."""
        self._reached[definition] = max(published_at, self._reached.get(definition, published_at))

    # -- definitions --

    def definition(self, database_id: str) -> Definition:
        return self._definitions[database_id]

    def put_definitions(self, definitions: Iterable[Definition]) -> None:
        for definition in definitions:
            self._definitions[definition.id] = definition
            self._changed_definitions[definition.id] = definition
        self.known = replace(self.known, definitions=tuple(self._definitions.values()))

    def is_served(self, definition: str) -> bool:
        return definition in self._served

    def is_deployed(self, definition: str) -> bool:
        """Whether a live worker serves it with code of its own."""
        return definition in self._deployed

    def is_accepting(self, project: str) -> bool:
        """Whether a live worker of the project accepts code."""
        return project in self._accepting

    def hear(self, heartbeat: Heartbeat) -> None:
        """What a worker serves now."""
        self._served.update(heartbeat.definitions)
        self._deployed.update(set(heartbeat.definitions) - set(heartbeat.shipped))
        if heartbeat.accepts_code:
            self._accepting.add(heartbeat.project)

    def keep_code(self, code: NewCode) -> None:
        self._code[code.project, code.digest] = code

    def tell_shipped(self, project: str) -> None:
        """Tell its workers to ask what was shipped."""
        self._shipped[project] = None

    # -- runs --

    def run(self, run: str) -> Run | None:
        return self._runs.get(run)

    def ended(self, run: str) -> Finished | None:
        """How the run ended, if it has and its outcome was asked for or told in this batch."""
        return self._ended.get(run)

    def insert(self, new: NewRun) -> None:
        self._runs[new.run.id] = new.run
        self._new_runs[new.run.id] = new
        if new.run.parent is not None:
            self._new_children.setdefault(new.run.parent, []).append(new.run.id)
        for made in new.inputs:
            self._inputs.setdefault(new.run.id, {})[made] = None
            self._dependents.setdefault(made, {})[new.run.id] = None

    def change(self, run: Run, event: states.Event | None = None, **fields: Any) -> Run:
        """The run with other values, in the state that follows from an event.

        Raises `NoTransition` for an event that can't happen to it.
        """
        if event is not None:
            state = states.after(run.state, event)
            fields = {"since": self.now, **fields, "state": state}
        changed = self._runs[run.id] = replace(self._runs[run.id], **fields)
        return changed

    def unended_below(self, top: str) -> list[Run]:
        """A run to stop and all below it, those without what has ended."""
        tree = self._below[top]
        tree.setdefault(top)
        unseen = list(tree)
        while unseen:
            made = self._new_children.get(unseen.pop(0), ())
            unseen += [run for run in made if run not in tree]
            tree.update(dict.fromkeys(made))
        runs = (self._runs[run] for run in tree if run in self._runs)
        return [run for run in runs if not states.has_ended(run.state)]

    def end(self, end: End) -> None:
        """Keep how a run ended and tell those who wait."""
        parent = self._runs.get(self._runs[end.run].parent or "")
        if parent is not None and states.has_ended(parent.state):
            end = replace(end, has_parent_ended=True)
        if self._runs[end.run].kind == "step" and not end.has_payload:
            self._reopened[end.run] = None  # what was foreseen of it
        if self._runs[end.run].is_input:
            self._ended_inputs.append(end.run)
        self._ends[end.run] = end
        self._dispatched.pop(end.run, None)
        self._repeated.pop(end.run, None)
        told = self._ended[end.run] = end.as_message()
        for session in self._waiters[end.run]:
            self.answer(session, told)

    def foresee(self, end: End) -> None:
        """Keep how a run will end."""
        self._ends[end.run] = end

    def foreseen(self, run: str) -> bytes | None:
        """The result that a run will end with."""
        end = self._ends.get(run)
        return self._foreseen.get(run) if end is None else end.result

    def reopen(self, run: str) -> None:
        """What it ended with is not its end any more."""
        self._ended.pop(run, None)
        self._ends.pop(run, None)
        self._reopened[run] = None

    def dispatch(self, run: str) -> None:
        """Publish its attempt once this is written."""
        self._dispatched[run] = None

    def repeat(self, run: str) -> None:
        """Publish its attempt once more."""
        self._repeated[run] = None

    # -- inputs --

    def missing(self, run: str) -> list[Run]:
        """Those of its inputs that have not succeeded, as far as they were looked up."""
        inputs = (self._runs[made] for made in self._inputs.get(run, ()))
        return [made for made in inputs if made.state != "succeeded"]

    def dependents(self, run: str) -> list[Run]:
        """What waits for it, as far as it was looked up."""
        dependents = (self._runs[dependent] for dependent in self._dependents.get(run, ()))
        return [dependent for dependent in dependents if dependent.waits_for]

    def is_awaited(self, run: str) -> bool:
        """Whether a session is to hear how it ends."""
        return bool(self._waiters.get(run))

    def take_ended_input(self) -> Run | None:
        """The next of the runs that have ended and may be waited for."""
        return self._runs[self._ended_inputs.popleft()] if self._ended_inputs else None

    # -- attempts --

    def put_attempt(self, attempt: Attempt) -> None:
        before = self._attempts.get((attempt.run, attempt.number))
        if before is not None:
            attempt = replace(
                attempt,
                worker=attempt.worker or before.worker,
                started_at=attempt.started_at or before.started_at,
                leased_at=attempt.leased_at or before.leased_at,
            )
        self._attempts[attempt.run, attempt.number] = attempt

    def close_attempt(self, run: Run, state: AttemptState) -> None:
        """The run's attempt executes no more, whatever is told of it later."""
        told = self._attempts.get((run.id, run.attempt))
        if run.holder is None or (told is not None and told.state != "running"):
            return
        self.put_attempt(
            Attempt(
                run=run.id,
                number=run.attempt,
                state=state,
                worker=run.holder.worker,
                finished_at=self.now,
            )
        )

    def note_loss(self, run: str, lost: LostAttempt) -> None:
        self._lost.setdefault(run, []).append(lost)

    def losses(self, run: str) -> Sequence[LostAttempt]:
        """Its attempts that were lost, as far as they were looked up."""
        return self._lost.get(run, ())

    def worker(self, worker: str) -> Worker | None:
        return self.workers.get(worker)

    # -- timers --

    def set_timer(self, run: str, kind: TimerKind, due_at: float) -> None:
        self._timers[run, kind] = Timer(run=run, kind=kind, due_at=due_at)

    def clear_timers(self, run: str, kind: TimerKind | None = None) -> None:
        """Those of a run, or one of them."""
        self._cleared[run, kind] = None
        for key in [key for key in self._timers if key[0] == run and kind in (None, key[1])]:
            del self._timers[key]

    # -- waiters --

    def wait(self, run: str, session: str) -> None:
        """Note that the session is to hear the end of the run.

        Of a run that has ended, or had, always anew: a confirmation of the last answer, which is
        not yet written, removes the note that the catalog has.
        """
        if session not in self._waiters[run] or run in self._ended or run in self._reopened:
            self._waiters[run][session] = None
            self._new_waiters.append(Waiter(run=run, session=session))

    # -- messages --

    def answer(self, session: str, reply: Reply) -> None:
        self._answers.append(Answer(session=session, reply=reply))

    def stop(self, run: str, attempt: int) -> None:
        """Tell every worker of its project to stop its attempts up to this one."""
        project = self._runs[run].project
        self._stops[run] = Stopped(project=project, run=run, attempt=attempt)

    def judge(self, worker: str, verdict: Verdict, *, is_hasty: bool = False) -> None:
        """Answer a claim. A hasty verdict is held back for a moment."""
        self._verdicts.append(Judged(worker=worker, verdict=verdict, is_hasty=is_hasty))

    def suspect(self, worker: str) -> None:
        self._suspects[worker] = None

    def note_stranger(self, news: Outcome, worker: str) -> None:
        """Somebody else has stopped this attempt."""
        told = StoppedByStranger(run=news.run, attempt=news.attempt, worker=worker)
        self._strangers.append(told)

    def refuse(self, news: Outcome | Started | Claim, worker: str, reason: str) -> None:
        self._refused.append(
            LateOutcome(
                run=news.run,
                attempt=news.attempt,
                worker=worker,
                reason=reason,
                started_at=news.started_at,
            )
        )

    # -- the whole --

    def decision(self) -> Decision:
        """What the batch amounts to, but for what needs no ledger."""
        new_runs = [
            new if self._runs[id] is new.run else replace(new, run=self._runs[id])
            for id, new in self._new_runs.items()
        ]
        return Decision(
            definitions=tuple(self._changed_definitions.values()),
            code=tuple(self._code.values()),
            runs=tuple(new_runs),
            changed=tuple(self._changed_runs()),
            attempts=tuple(self._attempts.values()),
            ends=tuple(end for end in self._ends.values() if end.has_payload),
            reopened=tuple(self._reopened),
            timers=tuple(self._timers.values()),
            cleared=tuple(self._cleared),
            waiters=tuple(self._new_waiters),
            invocations=tuple(
                self._pending(new)
                for new in new_runs
                if new.run.state == "pending" and new.run.id not in self._dispatched
            ),
            dispatched=self._still_pending(self._dispatched),
            repeated=self._still_pending(self._repeated),
            answers=tuple(self._answers),
            stops=tuple(self._stops.values()),
            verdicts=tuple(self._verdicts),
            shipped=tuple(self._shipped),
            paces=tuple((one, sum(taken) / len(taken)) for one, taken in self._seconds.items()),
            reached=tuple(self._reached.items()),
            suspects=tuple(self._suspects),
            refused=tuple(self._refused),
            strangers=tuple(self._strangers),
        )

    def _still_pending(self, runs: Iterable[str]) -> tuple[str, ...]:
        return tuple(run for run in runs if self._runs[run].state == "pending")

    def _changed_runs(self) -> Iterable[ChangedRun]:
        for id, before in self._before.items():
            run = self._runs[id]
            if run is not before and run != before:
                yield ChangedRun(
                    run=run,
                    was_attempt=before.attempt,
                    had_ended=states.has_ended(before.state),
                )

    def _pending(self, new: NewRun) -> PendingRun:
        queue = self.definition(new.run.definition).queue
        return PendingRun(run=new.run, queue=queue, arguments=new.arguments, code=new.code)
