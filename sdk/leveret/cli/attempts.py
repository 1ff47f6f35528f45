"""How a run's attempts ended, one after the other, for a person."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from leveret.watch import moment
from leveret_broker.messages import AttemptRow, RunRow

UNEVENTFUL = ("running", "succeeded")


def is_told(row: RunRow) -> bool:
    """Whether there is more to tell than the tree does."""
    return len(row.attempts) > 1 or any(each.state not in UNEVENTFUL for each in row.attempts)


def lines(row: RunRow, now: float) -> Iterator[str]:
    """A heading for the run, a line an attempt, and below that how it failed."""
    count = len(row.attempts)
    yield f"{row.id} of {row.definition}: {row.state}, {count} attempt{'s' * (count != 1)}"
    for attempt in row.attempts:
        yield f"  {attempt.number:>2}  {attempt.state:9}  {_where_and_when(attempt, now)}".rstrip()
        if attempt.failure is not None:
            yield f"      {in_a_line(attempt)}"


def in_a_line(attempt: AttemptRow) -> str:
    """Type and message of its failure, without the lines that follow the first."""
    assert attempt.failure is not None
    text = f"{attempt.failure.type}: {attempt.failure.message}".rstrip(": ")
    first, _, more = text.partition("\n")
    return f"{first} …" if more else first


def tracebacks(row: RunRow) -> Iterator[tuple[str, str]]:
    """A heading and a traceback for all attempts in a row that ended with the same."""
    failed = [each for each in row.attempts if each.failure and each.failure.traceback]
    for traceback, attempts in groupby(failed, key=_traceback):
        told = _numbered([each.number for each in attempts])
        yield f"{row.id} of {row.definition}, {told}:", traceback
    if not row.attempts and row.failure is not None and row.failure.traceback:
        yield f"{row.id} of {row.definition} {row.state}:", row.failure.traceback.rstrip()


def _where_and_when(attempt: AttemptRow, now: float) -> str:
    parts: list[str] = []
    if attempt.started_at is not None:
        end = attempt.finished_at
        took = (now if end is None else end) - attempt.started_at
        since = f"{moment(attempt.started_at, now)}, {'for' if end is None else 'took'}"
        parts.append(f"{since} {took:.2f} s")
        if attempt.leased_at is not None:
            parts.append(f"leased after {attempt.leased_at - attempt.started_at:.0f} s")
    elif attempt.finished_at is not None:
        parts.append(f"never started, {moment(attempt.finished_at, now)}")
    process = ", ".join(
        ([f"pid {attempt.pid}"] if attempt.pid is not None else [])
        + ([attempt.worker] if attempt.worker else [])
    )
    if attempt.host:
        parts.append(f"on {attempt.host}" + (f" ({process})" if process else ""))
    elif process:
        parts.append(f"on {process}")
    return ", ".join(parts)


def _traceback(attempt: AttemptRow) -> str:
    return attempt.failure.traceback.rstrip() if attempt.failure is not None else ""


def _numbered(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"attempt {numbers[0]}"
    return f"attempts {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
