"""Await a call and see how far it is: a live tree on a terminal, a line a run elsewhere."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TextIO, TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from leveret.calls import Call
from leveret.errors import CoordinatorUnreachable
from leveret.runs import Run
from leveret_broker.messages import RunRow

R = TypeVar("R")

LOOK_EVERY = 0.2
"""Seconds between two looks at the catalog, at least; a look takes a tenth of the time at most."""
MOST_SIBLINGS = 8
"""Runs of one definition and one parent that are shown one by one; more are counted."""
ENDED = ("succeeded", "failed", "cancelled")
STYLES = {
    "pending": ("·", "dim"),
    "queued": ("·", "dim"),
    "running": ("▸", "yellow"),
    "waiting": ("◷", "cyan"),
    "parked": ("‖", "bold red"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("-", "magenta"),
}


async def watch(call: Call[R], *, to: TextIO | None = None) -> R:
    """Await a call and return its result, showing the runs below it while it is under way.

    Progress goes to standard error, or to the file `to`. Raises what awaiting the call raises.
    """
    console = Console(file=to if to is not None else sys.stderr, highlight=False)
    run = await call.start(acknowledge=True)
    await run.accepted()
    try:
        return await watch_run(run, console)
    except asyncio.CancelledError:
        call.request_cancel()
        raise


async def watch_run(run: Run[R], console: Console) -> R:
    """The same for a run that was started already. Who stops watching doesn't stop it."""
    # Its end, not its result: a SystemExit that the run raised would leave the loop by that task.
    ended = asyncio.ensure_future(run.ended())
    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, transient=False) as live:
                await _follow(run, ended, lambda rows: live.update(tree(rows), refresh=True))
        else:
            await _follow(run, ended, Lines(console).show)
        return await run.result()
    finally:
        ended.cancel()


async def _follow(
    run: Run[R], ended: asyncio.Future[None], show: Callable[[Sequence[RunRow]], None]
) -> None:
    while True:
        is_last, began = ended.done(), time.monotonic()
        with suppress(CoordinatorUnreachable):  # it may be back before the run has ended
            show(await run.show())
        if is_last:
            return
        pause = max(LOOK_EVERY, 9 * (time.monotonic() - began))
        await asyncio.wait([ended], timeout=pause)


class Lines:
    """One line for each run as it ends, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: set[str] = set()

    def show(self, rows: Sequence[RunRow]) -> None:
        depths = _depths(rows)
        ended = [row for row in rows if row.state in ENDED and row.id not in self._shown]
        for row in sorted(ended, key=lambda row: row.finished_at or 0):
            self._shown.add(row.id)
            text = line(row, now=time.time(), indent="  " * depths[row.id])
            self._console.print(text, soft_wrap=True)


def line(row: RunRow, *, now: float, indent: str = "") -> Text:
    """`✓ train_model:0.0.1  1.24 s on host`; a step shows what it called, dimly."""
    symbol, style = STYLES[row.state]
    is_step = row.kind == "step"
    text = Text.assemble(indent, (symbol, style), " ", (name(row), "dim" if is_step else ""))
    text.append(f"  {doing(row, now)}", style="dim")
    if row.failure is not None:
        text.append(f"  {row.failure.type}: {row.failure.message}".rstrip(": "), style="red")
    return text


def tree(rows: Sequence[RunRow]) -> Tree:
    """Runs as they called each other; many of a kind as one counted line."""
    now = time.time()
    children: dict[str | None, list[RunRow]] = {}
    for row in rows:
        children.setdefault(row.parent, []).append(row)
    top = Tree(line(rows[0], now=now), guide_style="dim")
    _grow(top, rows[0].id, children, now)
    return top


def _grow(branch: Tree, parent: str, children: dict[str | None, list[RunRow]], now: float) -> None:
    kinds: dict[str, list[RunRow]] = {}
    for row in children.get(parent, ()):
        kinds.setdefault(name(row), []).append(row)
    for called, rows in kinds.items():
        if len(rows) > MOST_SIBLINGS:
            branch.add(_counted(called, rows))
            continue
        for row in rows:
            _grow(branch.add(line(row, now=now)), row.id, children, now)


def _counted(called: str, rows: Sequence[RunRow]) -> Text:
    text = Text(f"{called}  × {len(rows)}", style="dim" if rows[0].kind == "step" else "")
    for state, (symbol, style) in STYLES.items():
        if count := sum(row.state == state for row in rows):
            text.append(f"  {symbol} {count} {state}", style=style)
    return text


def name(row: RunRow) -> str:
    """What was called: a step's rows all have one definition."""
    return row.asked_for if row.kind == "step" else row.definition.partition(":")[2]


def doing(row: RunRow, now: float) -> str:
    """Where it is, or how long it took."""
    match row.state:
        case "waiting" if row.waits_for:
            inputs = "input" if row.waits_for == 1 else "inputs"
            text = f"waiting for {row.waits_for} {inputs}"
        case "waiting":
            text = "waiting" if row.due_at is None else f"waiting until {moment(row.due_at, now)}"
        case "parked":
            text = "parked"
        case state if row.started_at is None:
            text = state
        case _:
            where = f" on {row.host}" if row.host else ""
            text = f"{(row.finished_at or now) - row.started_at:.2f} s{where}"
    return text if row.attempt <= 1 else f"{text}, attempt {row.attempt}"


def moment(seconds: float, now: float) -> str:
    """Local time to the second, with the date if that is not today's."""
    then, today = (datetime.fromtimestamp(each).astimezone() for each in (seconds, now))
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def _depths(rows: Sequence[RunRow]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for row in rows:
        depths[row.id] = depths.get(row.parent or "", -1) + 1
    return depths
