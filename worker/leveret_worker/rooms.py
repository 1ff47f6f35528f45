"""Who may start: slots for tasks, processes for the sync ones, and the line that waits for them."""

from collections import deque

from leveret_worker.execution import Execution


class Rooms:
    """Counts what is taken."""

    def __init__(self, *, slots: int, processes: int) -> None:
        self._slots = slots
        self._processes = processes
        self._busy_slots = 0
        self._busy_processes = 0

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self._busy_slots

    def limit(self, *, process: bool) -> int:
        """How many tasks of a kind can execute at once."""
        return min(self._slots, self._processes) if process else self._slots

    def take(self, execution: Execution) -> bool:
        """Whether there is room for it; if so, it is taken."""
        if not execution.needs_slot:
            return True
        in_process = execution.place == "process"
        if self._busy_slots >= self._slots or (
            in_process and self._busy_processes >= self._processes
        ):
            return False
        self._busy_slots += 1
        self._busy_processes += in_process
        return True

    def leave(self, execution: Execution) -> None:
        """Free what it had taken."""
        if execution.needs_slot:
            self._busy_slots -= 1
            self._busy_processes -= execution.place == "process"


class Line:
    """What waits for room. Those that need no process don't wait behind those that do."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._lines: dict[bool, deque[Execution]] = {False: deque(), True: deque()}

    def add(self, execution: Execution) -> None:
        self._lines[execution.place == "process"].append(execution)

    def remove(self, execution: Execution) -> None:
        self._lines[execution.place == "process"].remove(execution)

    def next(self) -> Execution | None:
        """The first for which there is room, which is taken; `None` if all have to wait."""
        lines = [line for line in self._lines.values() if line]
        for line in sorted(lines, key=lambda line: line[0].arrived_at):
            if self._rooms.take(line[0]):
                return line.popleft()
        return None

    def clear(self) -> list[Execution]:
        """Remove all, and return them."""
        waiting = [execution for line in self._lines.values() for execution in line]
        for line in self._lines.values():
            line.clear()
        return waiting
