"""What must hold in the end, whatever was done meanwhile. Each check tells what contradicts it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from tests.acceptance.chaos import workload
from tests.acceptance.chaos.evidence import ENDED, Evidence, Row
from tests.acceptance.chaos.ledger import Line

GROWTH = 100.0
"""MiB by which a process may grow from the first to the last third of its life."""
MOST = 400.0
"""MiB that no process may have at any time."""
LONG = 30
"""Samples, one a second, from which on growth is looked at."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    what: str
    run: str | None = None


Check = Callable[[Evidence], Iterator[Violation]]


def violations(evidence: Evidence) -> list[Violation]:
    return [found for check in CHECKS for found in check(evidence)]


# -- every accepted run ends, once, and right -----------------------------------------------------


def accepted_roots_are_kept(evidence: Evidence) -> Iterator[Violation]:
    known: dict[int, str] = {}
    for entry in evidence.journal:
        if entry.run is None:
            continue
        if entry.run not in evidence.rows:
            yield Violation(what=f"root {entry.index} was accepted and is not there", run=entry.run)
        if known.setdefault(entry.index, entry.run) != entry.run:
            yield Violation(what=f"root {entry.index} is two runs, {known[entry.index]} too")
    if not known:
        yield Violation(what="nothing was ever accepted")


def results_are_right(evidence: Evidence) -> Iterator[Violation]:
    ended = {entry.index for entry in evidence.journal if entry.has_ended}
    for entry in evidence.journal:
        if entry.has_ended:
            calls = workload.root(evidence.seed, entry.index)
            right = {"index": entry.index, "value": workload.expected(calls)}
            if entry.value != right:
                got = entry.error or entry.value
                yield Violation(what=f"root {entry.index} is {right}, not {got}", run=entry.run)
        elif entry.run is not None and entry.index not in ended:
            yield Violation(what=f"the end of root {entry.index} was never heard", run=entry.run)


def every_run_has_ended(evidence: Evidence) -> Iterator[Violation]:
    for row in evidence.rows.values():
        should = "failed" if row.name == "hopeless" else "succeeded"
        if row.state != should:
            said = "" if row.state in ENDED else " and not ended"
            yield Violation(what=f"{row.name} is {row.state}{said}", run=row.id)
        yield from _attempts(row)
    for timer in evidence.timers:
        yield Violation(what=f"a timer is left: {timer}")
    for waiter in evidence.waiters:
        about = evidence.rows.get(waiter["run_id"])
        if about is None or about.finished_at is not None:
            told = f"an answer is still owed to {waiter['session']}"
            yield Violation(what=told, run=waiter["run_id"])
    for change in evidence.changed_ends:
        yield Violation(what=change, run=change.split()[0])


def _attempts(row: Row) -> Iterator[Violation]:
    if any(attempt["state"] == "running" for attempt in row.attempts):
        yield Violation(what="an attempt still runs", run=row.id)
    if row.kind == "step" or row.state != "succeeded":
        return
    won = [attempt["number"] for attempt in row.attempts if attempt["state"] == "succeeded"]
    if won != [row.attempt]:
        yield Violation(what=f"attempts {won} succeeded, of {row.attempt}", run=row.id)


def every_call_is_one_run(evidence: Evidence) -> Iterator[Violation]:
    trees: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.rows.values():
        trees[row.root].append(row)
    for index, run in {entry.index: entry.run for entry in evidence.journal if entry.run}.items():
        calls = workload.root(evidence.seed, index)
        should = 1 + workload.size(calls)
        tree = trees.pop(run, [])
        if len(tree) != should:
            yield Violation(what=f"{len(tree)} runs in the tree, not {should}", run=run)
        failing = sum(row.name == "hopeless" for row in tree)
        if failing != workload.hopeless(calls):
            yield Violation(what=f"{failing} runs fail, not {workload.hopeless(calls)}", run=run)
    for run in trees:
        yield Violation(what="a tree that nobody knows", run=run)


# -- nothing is executed that has been ------------------------------------------------------------


def finished_runs_are_not_executed_again(evidence: Evidence) -> Iterator[Violation]:
    """No margin: an execution is begun before it can be recorded as ended, by the same clock.

    When it was begun its worker says, be it in news that were refused, and else its own first line.
    Between the two a worker may be stopped (SIGSTOP) for as long as somebody likes: nothing can
    keep code from going on after that.
    """
    for line in evidence.lines:
        row = evidence.rows.get(line.run)
        if row is None:
            yield Violation(what=f"executed and not in the catalog: {line}", run=line.run)
        elif row.state == "succeeded" and row.finished_at is not None and line.event == "start":
            late = min(line.at, _begun_at(row, line, evidence)) - row.finished_at
            if late > 0:
                told = f"{line.name} was begun {late:.3f} s after its end as attempt {line.attempt}"
                yield Violation(what=told, run=line.run)
            if line.attempt > row.attempt:
                told = f"attempt {line.attempt} was begun, {row.attempt} is the one that ended it"
                yield Violation(what=told, run=line.run)


def _begun_at(row: Row, line: Line, evidence: Evidence) -> float:
    """When the worker began the attempt, as it told; the time of the line if it told nothing."""
    mine = [attempt for attempt in row.attempts if attempt["number"] == line.attempt]
    told = [at for attempt in mine if (at := attempt.get("started_at")) is not None]
    attempt = (line.run, line.attempt)
    told += [one.started_at for one in evidence.refused if (one.run, one.attempt) == attempt]
    return min(told, default=line.at)


def an_attempt_is_executed_once(evidence: Evidence) -> Iterator[Violation]:
    """Their numbers tell executions apart: two with the same one could both be believed."""
    begun = Counter((line.run, line.attempt) for line in evidence.lines if line.event == "start")
    for (run, attempt), count in begun.items():
        if count > 1:
            yield Violation(what=f"attempt {attempt} was begun {count} times", run=run)


def what_succeeded_was_executed(evidence: Evidence) -> Iterator[Violation]:
    ends = {(line.run, line.attempt) for line in evidence.lines if line.event == "end"}
    for row in evidence.rows.values():
        if row.kind != "step" and row.state == "succeeded" and (row.id, row.attempt) not in ends:
            told = f"attempt {row.attempt} of {row.name} succeeded and did not get to its end"
            yield Violation(what=told, run=row.id)


# -- nothing is left ------------------------------------------------------------------------------


def queues_are_empty(evidence: Evidence) -> Iterator[Violation]:
    for name, messages in evidence.left.items():
        if messages:
            yield Violation(what=f"{messages} messages are left in {name}")


def no_process_grew(evidence: Evidence) -> Iterator[Violation]:
    for name, samples in evidence.memory.items():
        if max(samples) > MOST:
            yield Violation(what=f"{name} took {max(samples):.0f} MiB")
        third = len(samples) // 3
        if len(samples) >= LONG:
            first, last = median(samples[:third]), median(samples[-third:])
            if last - first > GROWTH:
                yield Violation(what=f"{name} grew from {first:.0f} to {last:.0f} MiB")


def nothing_else_went_wrong(evidence: Evidence) -> Iterator[Violation]:
    for trouble in evidence.troubles:
        yield Violation(what=trouble)


CHECKS: tuple[Check, ...] = (
    nothing_else_went_wrong,
    accepted_roots_are_kept,
    results_are_right,
    every_run_has_ended,
    every_call_is_one_run,
    finished_runs_are_not_executed_again,
    an_attempt_is_executed_once,
    what_succeeded_was_executed,
    queues_are_empty,
    no_process_grew,
)
