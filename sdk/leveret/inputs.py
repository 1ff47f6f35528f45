"""Calls as arguments of other calls: each stands for its result, which its caller never sees.

Rules:

- A call and its inputs are made by the same code: in one workflow run, or outside of all.
- Awaiting a call submits its inputs before it, each once, whatever else they are arguments of.
- Chains may be long, so nothing here calls itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from leveret import values
from leveret.encoding import Source
from leveret.errors import PayloadError
from leveret.values import Mark
from leveret_broker import identifiers

if TYPE_CHECKING:
    from leveret.calls import Call
    from leveret.connection import Connection
    from leveret.context import RunContext

R = TypeVar("R")


def result_of(call: "Call[R]") -> R:
    """The call itself, which a type checker takes for its result: to pass it on as an argument.

    It is still a call. Raises `TypeError` for anything else.
    """
    if not values.is_call(call):
        raise TypeError(f"{call!r} is no call")
    return cast(R, call)


def adopt(inputs: "Sequence[Call[Any]]", caller: "RunContext | None", what: object) -> None:
    """The calls are inputs of another from now on. Raises `PayloadError` if they can't be."""
    for each in inputs:
        if each.caller is not caller:
            raise PayloadError(
                f"{each!r} can't be an argument of {what!r}: one was made {_where(each.caller)}, "
                f"the other {_where(caller)}. Make both in the same place, or await the first"
            )
    for each in inputs:
        each.become_input()


def _where(caller: "RunContext | None") -> str:
    return (
        "outside of all runs" if caller is None else f"in attempt {caller.attempt} of {caller.run}"
    )


def in_order(calls: "Iterable[Call[Any]]") -> "list[Call[Any]]":
    """The calls and all that they need, each behind what it needs; without what is submitted."""
    found: dict[int, Call[Any]] = {}
    unseen = [(call, False) for call in reversed(list(calls))]
    while unseen:
        call, is_complete = unseen.pop()
        if is_complete:
            found.setdefault(id(call), call)
        elif id(call) not in found and not call.is_submitted:
            unseen.append((call, True))
            unseen += [(each, False) for each in reversed(call.inputs)]
    return list(found.values())


async def submit(calls: "Sequence[Call[Any]]", connection: "Connection") -> None:
    """Submit what is not submitted yet, as inputs. Raises what their submission raises."""
    for each in in_order(calls):
        await each.submit_as_input(connection)
    for each in calls:
        each.check_connection(connection)


def sources(calls: "Sequence[Call[Any]]") -> list[Source]:
    """What calls that have their runs' ids are the results of."""
    return [Source(each.run_id, each.definition.name) for each in calls if each.run_id is not None]


def name(outer: str, project: str, inputs: "Sequence[Call[Any]]") -> None:
    """Give inputs of a root run that has a key, and theirs, ids that are derived from it.

    Whoever asks for the run by its key asks for the same inputs.
    """
    unseen: list[tuple[str, Sequence[Call[Any]]]] = [(outer, inputs)]
    while unseen:
        parent, calls = unseen.pop()
        numbers: defaultdict[tuple[str, str], int] = defaultdict(int)
        for each in calls:
            if each.is_submitted or each.run_id is not None:
                continue
            callee, content = each.definition.callee, each.content
            if each.definition.key is not None:
                each.run_id = identifiers.keyed_run_id(project, callee, each.definition.key)
            elif content is not None:
                number = numbers[callee, content.text]
                numbers[callee, content.text] += 1
                each.run_id = identifiers.child_run_id(
                    parent, f"{project}:{callee}", content.text, number
                )
            if each.run_id is not None:
                unseen.append((each.run_id, each.inputs))


class Contents:
    """What stands for calls where arguments are identified.

    In a workflow run it is the id of the run, which is derived. Outside of one it is what is
    called, and with what: that is the same in any process.
    """

    def __init__(self) -> None:
        self.are_stable = True
        self._numbers: dict[tuple[str, str], dict[int, int]] = {}

    def __call__(self, call: "Call[Any]") -> list[object]:
        if call.caller is not None and call.run_id is not None:
            return values.marked(Mark.INPUT, call.run_id)
        callee, content = call.definition.callee, call.content
        if content is None:  # it was submitted: its arguments are gone
            self.are_stable = False
            return values.marked(Mark.INPUT, callee, call.run_id)
        self.are_stable &= content.is_stable
        equal = self._numbers.setdefault((callee, content.text), {})
        number = equal.setdefault(id(call), len(equal))
        return values.marked(Mark.INPUT, callee, call.definition.key, content.text, number)
