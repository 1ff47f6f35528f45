"""How runs look to a person: in the tree, attempt by attempt, as a paragraph."""

import time
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from leveret.cli import attempts, display
from leveret.watch import STYLES, Lines, line, moment, tree
from leveret_broker.messages import AttemptRow, Failure, RunRow, RunState

NOW = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))
RAN = Failure(
    type="ValueError", message="bad\nvery bad", traceback="Traceback …\nValueError: bad\n"
)


def run(state: RunState = "succeeded", **fields: Any) -> RunRow:
    plain = RunRow(
        id="run_1",
        project="vision",
        definition="vision:train:1.0",
        kind="task",
        state=state,
        attempt=1,
        root="run_1",
        parent=None,
        ordinal=0,
        asked_for="train",
        created_at=NOW - 100,
        started_at=NOW - 60,
        finished_at=NOW - 30,
        worker="worker_1",
        host="gpu-1",
        failure=None,
    )
    return plain.model_copy(update=fields)


def attempt(number: int = 1, **fields: Any) -> AttemptRow:
    plain = AttemptRow(
        number=number,
        state="failed",
        worker="worker_1",
        host="gpu-1",
        pid=4711,
        started_at=NOW - 60,
        leased_at=None,
        finished_at=NOW - 30,
        failure=RAN,
    )
    return plain.model_copy(update=fields)


def drawn(*rows: RunRow) -> str:
    console = Console(file=StringIO(), width=200, highlight=False)
    with console.capture() as captured:
        console.print(tree(rows))
    return captured.get()


# -- the tree -------------------------------------------------------------------------------------


def test_every_state_has_a_symbol_of_its_own_unless_it_has_not_begun() -> None:
    symbols = [symbol for state, (symbol, _) in STYLES.items() if state not in ("pending",)]
    assert len(set(symbols)) == len(symbols)
    for state in STYLES:
        assert line(run(state), now=NOW).plain  # type: ignore[arg-type]


def test_a_run_that_waits_says_until_when() -> None:
    row = run("waiting", due_at=NOW + 90, finished_at=None, attempt=2)
    assert line(row, now=NOW).plain == "◷ train:1.0  waiting until 12:01:30, attempt 2"
    tomorrow = moment(NOW + 86400, NOW)
    assert tomorrow == "2026-11-25 12:00:00"


def test_a_parked_run_says_so_and_why() -> None:
    row = run("parked", attempt=3, failure=RAN)
    assert "‖ train:1.0  parked, attempt 3  ValueError: bad" in line(row, now=NOW).plain


def test_a_step_shows_what_it_called_dimly() -> None:
    step = run(kind="step", definition="vision:leveret.step:0", asked_for="read_config")
    text = line(step, now=NOW)
    assert "read_config" in text.plain
    assert "leveret.step" not in text.plain
    start = text.plain.index("read_config")
    assert any(span.style == "dim" and span.start == start for span in text.spans)


def test_many_steps_are_counted_by_what_they_called() -> None:
    steps = [
        run(id=f"run_{n}", parent="run_1", kind="step", asked_for="read" if n % 2 else "write")
        for n in range(2, 22)
    ]
    text = drawn(run(kind="workflow"), *steps)
    assert "read  × 10  ✓ 10 succeeded" in text
    assert "write  × 10  ✓ 10 succeeded" in text


def test_progress_lines_leave_out_what_has_not_ended() -> None:
    console = Console(file=StringIO(), highlight=False)
    with console.capture() as captured:
        Lines(console).show([run("parked"), run("waiting", id="run_2"), run(id="run_3")])
    assert captured.get().splitlines() == ["✓ train:1.0  30.00 s on gpu-1"]


# -- attempts -------------------------------------------------------------------------------------


def test_only_runs_with_a_history_are_told_attempt_by_attempt() -> None:
    fine = attempt(state="succeeded", failure=None)
    assert not attempts.is_told(run())
    assert not attempts.is_told(run(attempts=(fine,)))
    assert attempts.is_told(run("failed", attempts=(attempt(),)))
    assert attempts.is_told(run(attempts=(attempt(), fine)))
    assert not attempts.is_told(run("running", attempts=(attempt(state="running", failure=None),)))


def test_each_attempt_is_a_line_with_its_failure_below() -> None:
    lost = attempt(
        2,
        state="lost",
        host="gpu-2",
        pid=812,
        worker="worker_2",
        leased_at=NOW,
        failure=Failure(type="leveret.errors.WorkerLost", message="killed by SIGKILL (9)"),
    )
    running = attempt(3, state="running", started_at=NOW - 5, finished_at=None, failure=None)
    row = run("running", attempt=3, attempts=(attempt(), lost, running))
    assert list(attempts.lines(row, NOW)) == [
        "run_1 of vision:train:1.0: running, 3 attempts",
        "   1  failed     11:59:00, took 30.00 s, on gpu-1 (pid 4711, worker_1)",
        "      ValueError: bad …",
        "   2  lost       11:59:00, took 30.00 s, leased after 60 s, on gpu-2 (pid 812, worker_2)",
        "      leveret.errors.WorkerLost: killed by SIGKILL (9)",
        "   3  running    11:59:55, for 5.00 s, on gpu-1 (pid 4711, worker_1)",
    ]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"started_at": None}, "   1  cancelled  never started, 11:59:30"),
        ({"finished_at": None}, "   1  cancelled  11:59:00, for 60.00 s"),
        ({"started_at": None, "finished_at": None}, "   1  cancelled"),
        ({"worker": "worker_1"}, "   1  cancelled  11:59:00, took 30.00 s, on worker_1"),
    ],
)
def test_what_is_not_known_of_an_attempt_is_left_out(fields: dict[str, Any], told: str) -> None:
    nowhere = attempt(state="cancelled", host=None, pid=None, worker=None, failure=None)
    row = run("cancelled", attempts=(nowhere.model_copy(update=fields),))
    assert list(attempts.lines(row, NOW))[1] == told


def test_a_traceback_that_repeats_is_shown_once() -> None:
    other = RAN.model_copy(update={"traceback": "another"})
    tried = (attempt(1), attempt(2), attempt(3), attempt(4, failure=other))
    row = run("failed", attempts=tried, failure=other)
    assert list(attempts.tracebacks(row)) == [
        ("run_1 of vision:train:1.0, attempts 1, 2 and 3:", "Traceback …\nValueError: bad"),
        ("run_1 of vision:train:1.0, attempt 4:", "another"),
    ]


def test_a_failure_without_attempts_shows_its_traceback_too() -> None:
    row = run("failed", failure=RAN)
    [(heading, traceback)] = attempts.tracebacks(row)
    assert heading == "run_1 of vision:train:1.0 failed:"
    assert traceback.endswith("ValueError: bad")


# -- documents and paragraphs ---------------------------------------------------------------------


def test_the_moments_of_attempts_are_spelled_out_in_documents() -> None:
    row = run("failed", attempts=(attempt(),), due_at=0.0)
    document = display.nested([row])
    assert document["due_at"] == "1970-01-01T00:00:00.000+00:00"
    [told] = document["attempts"]
    assert told["leased_at"] is None
    assert str(told["started_at"]).startswith("2026-11-2")
    assert told["failure"]["type"] == "ValueError"


def test_a_run_that_waits_or_is_parked_takes_no_time() -> None:
    assert display.took(run("waiting"), NOW) == ""
    assert display.took(run("parked"), NOW) == ""
    assert display.took(run("running", finished_at=None), NOW) == "60.00 s"


def test_a_paragraph_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    display.paragraph("no worker\nserves   it " * 20)
    assert capsys.readouterr().out.count("\n") == 1
