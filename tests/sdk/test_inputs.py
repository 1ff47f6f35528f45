"""Calls as arguments of calls: what they ask for, what makes them the same, what can't be."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest

import leveret
from leveret import define, payload, result_of
from leveret.calls import Call
from leveret.connection import Connection
from leveret.context import RunContext, entering
from leveret_broker import messages
from tests.sdk.keeper import Keeper, keeping


@define.task
async def make(number: int = 0) -> int:
    return number


@define.task
async def use(values: Any, *others: Any, **named: Any) -> int:
    return len(values)


@define.task
async def count(values: list[int]) -> int:
    return len(values)


@dataclass
class Holder:
    value: Any


def in_workflow(attempt: int = 1) -> RunContext:
    return RunContext(
        run="run_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        attempt=attempt,
        project="p",
        kind="workflow",
        definition="p:w:1",
        root="run_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    )


def _ids(run: RunContext, made: "Callable[[], Call[Any]]") -> list[str | None]:
    with entering(run):
        outer = made()
    outer.close()
    return [outer.run_id, *(each.run_id for each in outer.inputs)]


# -- where calls may stand ------------------------------------------------------------------------


def test_a_call_may_stand_wherever_the_encoder_looks() -> None:
    inner = make(1)
    for value in (inner, [inner], (1, inner), {"a": inner}, {"a": [({inner},)]}):
        outer = use(value)
        assert outer.inputs == (inner,)
        outer.close()


def test_a_call_that_stands_twice_is_one_input() -> None:
    inner, other = make(1), make(1)
    outer = use([inner, other], inner, named=inner)
    assert outer.inputs == (inner, other)
    outer.close()


def test_inside_a_pickle_a_call_is_refused_with_its_place() -> None:
    inner = make(1)
    hidden: Any = type("Hidden", (), {})()
    hidden.value = inner
    with pytest.raises(leveret.PayloadError, match=r"'values'.*it holds a call.*at \[0\]\['a'\]"):
        use([{"a": hidden}])
    inner.close()


def test_a_result_can_hold_no_call() -> None:
    inner = make(1)
    for value in (inner, [inner]):
        with pytest.raises(leveret.PayloadError, match="not awaited: await it first"):
            payload.encode(value)
    inner.close()


def test_an_argument_is_awaited_by_nobody_and_does_not_warn(
    recwarn: pytest.WarningsRecorder,
) -> None:
    outer = use(make(1))
    outer.close()
    del outer
    assert not recwarn.list


def test_who_has_the_argument_and_is_not_awaited_warns() -> None:
    with pytest.warns(RuntimeWarning, match="the call of <task use:0> was never awaited"):
        use(make(1))


def test_calls_of_different_runs_do_not_mix() -> None:
    with entering(in_workflow()):
        inner = make(1)
    with pytest.raises(leveret.PayloadError, match="one was made in attempt 1 of run_01ARZ"):
        use(inner)
    with entering(in_workflow()), pytest.raises(leveret.PayloadError, match="can't be an argument"):
        use(inner)
    inner.close()


def test_result_of_is_the_call_itself() -> None:
    inner = make(1)
    outer = count([result_of(inner)])
    assert outer.inputs == (inner,)
    outer.close()
    with pytest.raises(TypeError, match="3 is no call"):
        result_of(cast(Any, 3))


# -- what makes calls the same --------------------------------------------------------------------


def test_equal_calls_with_equal_inputs_have_the_same_ids_in_every_execution() -> None:
    def made() -> Call[Any]:
        return use([make(1), make(1), make(2)], {"b": make(1), "a": make(3)})

    first, second = _ids(in_workflow(1), made), _ids(in_workflow(2), made)
    assert first == second
    assert len(set(first)) == 6


def test_calls_with_other_inputs_are_others() -> None:
    with entering(in_workflow()):
        one, other = make(1), make(1)
        calls = [use(one), use(other), use(one), use([one, other]), use([other, one])]
    assert len({call.identity for call in calls}) == 4
    assert calls[0].identity == calls[2].identity
    for call in calls:
        call.close()


def test_the_order_of_dicts_and_sets_of_calls_does_not_count() -> None:
    with entering(in_workflow()):
        one, other = make(1), make(2)
        calls = [use({"a": one, "b": other}), use({"b": other, "a": one})]
        sets = [use({one, other}), use({other, one})]
    assert calls[0].identity == calls[1].identity
    assert sets[0].identity == sets[1].identity
    for call in (*calls, *sets):
        call.close()


def test_a_keyed_root_call_has_the_same_digest_for_equal_inputs() -> None:
    keyed = use.options(key="k")
    calls = [
        keyed([make(1), make(1)], {"b": 1, "a": make(2)}),
        keyed([make(1), make(1)], {"a": make(2), "b": 1}),
        keyed([make(1), make(2)], {"b": 1, "a": make(2)}),
        keyed([make(1), make.options(key="n")(1)], {"b": 1, "a": make(2)}),
    ]
    same = make(1)
    calls.append(keyed([same, same], {"b": 1, "a": make(2)}))
    digests = [call.digest for call in calls]
    assert digests[0] == digests[1] is not None
    assert len(set(digests)) == 4
    for call in calls:
        call.close()


def test_a_digest_sees_what_inputs_of_inputs_are_given() -> None:
    keyed = use.options(key="k")
    calls = [keyed(use({"b": make(1), "a": 0})), keyed(use({"a": 0, "b": make(1)}))]
    calls.append(keyed(use({"b": make(2), "a": 0})))
    assert calls[0].digest == calls[1].digest != calls[2].digest
    for call in calls:
        call.close()


def test_a_chain_may_be_long() -> None:
    with entering(in_workflow()):
        call = use(0)
        for _ in range(3000):
            call = use(call)
    call.close()
    root = use.options(key="k")(use(0))
    for _ in range(3000):
        root = use.options(key="k")(root)
    assert root.digest is not None
    root.close()


# -- what is asked for ----------------------------------------------------------------------------


async def _submitted(call: "Call[Any]") -> list[messages.Submission]:
    """What starting a call submits."""
    async with keeping() as keeper:
        keeper.silent = True
        assert keeper.session is not None
        await call.start(Connection(keeper.session, project="p", keys=None))
        await keeper.until(lambda keeper: len(keeper.submissions) == 1 + len(call.inputs))
        return keeper.submissions


async def test_inputs_are_submitted_before_the_call_and_named_by_it() -> None:
    outer = use([make(1), make(2)])
    first, second, last = await _submitted(outer)
    assert last.inputs == (first.run, second.run)
    assert [each.is_input for each in (first, second, last)] == [True, True, False]
    assert all(each.acknowledge for each in (first, second, last))


async def test_the_arguments_say_which_results_belong_where() -> None:
    outer = use({"a": make(1), "b": [make(2)]})
    first, second, last = await _submitted(outer)
    context = payload.Context(project="p", run=last.run, definition="use", direction="arguments")
    args, _ = payload.unseal_arguments(
        last.arguments, keys=None, context=context, result=lambda run: f"result of {run}"
    )
    assert args == [{"a": f"result of {first.run}", "b": [f"result of {second.run}"]}]
    unsealed = payload.verify_sealed(last.arguments, keys=None, context=context)
    assert unsealed.inputs() == ((first.run, "make"), (second.run, "make"))


async def test_inputs_of_a_keyed_root_call_have_derived_ids() -> None:
    def made() -> Call[Any]:
        return use.options(key="k")([make(1), make(1), make.options(key="n")(1)])

    first, second = await _submitted(made()), await _submitted(made())
    assert [each.run for each in first] == [each.run for each in second]
    assert len({each.run for each in first}) == 4
    plain = [await _submitted(use([make(1)])) for _ in range(2)]
    assert plain[0][0].run != plain[1][0].run


def test_arguments_with_an_input_where_none_can_be_are_refused() -> None:
    outer = use(make(1))
    encoded = payload.with_inputs(outer.arguments, [payload.Source("run_1", "make")])
    outer.close()
    context = payload.Context(project="p", run="r", definition="use", direction="result")
    sealed = payload.seal(encoded, keys=None, context=context)
    with pytest.raises(leveret.PayloadError, match="an input where none can be"):
        payload.unseal(sealed, keys=None, context=context)


# -- what the coordinator answers -----------------------------------------------------------------


@asynccontextmanager
async def _asked(*inputs: Call[Any]) -> AsyncGenerator[tuple[Keeper, Call[Any], list[str]]]:
    """A call that was submitted, and nobody has answered; the ids of its inputs and of itself."""
    async with keeping() as keeper:
        keeper.silent = True
        assert keeper.session is not None
        outer = use(list(inputs))
        await outer.start(Connection(keeper.session, project="p", keys=None))
        await keeper.until(lambda keeper: len(keeper.submissions) == 1 + len(inputs))
        yield keeper, outer, [each.run for each in keeper.submissions]


def _accepted(run: str) -> messages.Accepted:
    record = messages.DefinitionRecord(
        id="task_1", project="p", kind="task", name="make", version="0", queue="p:make:0"
    )
    return messages.Accepted(run=run, definition=record)


def _rejected(run: str, code: messages.RefusalCode) -> messages.Rejected:
    return messages.Rejected(run=run, code=code, message="no such thing")


async def test_a_submission_that_overtook_its_inputs_is_sent_again_behind_them() -> None:
    async with _asked(make(1), make(2)) as (keeper, _, (first, second, outer)):
        keeper.tell(_accepted(first), _rejected(outer, "unready"))
        await keeper.until(lambda keeper: len(keeper.submissions) >= 5)
        assert [each.run for each in keeper.submissions[3:]] == [second, outer]


async def test_what_was_stopped_meanwhile_is_not_sent_again() -> None:
    async with _asked(make(1)) as (keeper, call, (first, outer)):
        call.request_cancel()
        keeper.tell(_rejected(outer, "unready"))
        run = await call.start()
        with pytest.raises(leveret.RunCancelled):
            await run.result()
        cancels = [each for each in keeper.requests if isinstance(each, messages.Cancel)]
        assert {run for each in cancels for run in each.runs} == {outer}
        assert {run for each in cancels for run in each.unneeded} == {first}
        assert len(keeper.submissions) == 2


async def test_an_input_that_is_refused_refuses_what_needs_it() -> None:
    async with _asked(make(1)) as (keeper, call, (first, _)):
        keeper.tell(_rejected(first, "not-deployed"))
        run = await call.start()
        with pytest.raises(leveret.NotDeployedError, match=f"its input {first} was refused"):
            await run.result()


async def test_who_awaits_an_input_attaches_to_it_once_it_is_accepted() -> None:
    inner = make(1)
    async with _asked(inner) as (keeper, call, (first, _)):
        keeper.tell(_accepted(first))
        run = await call.start()
        assert keeper.session is not None
        keeper.tell(_accepted(run.id))
        await run.accepted()  # it was told after the input's acceptance
        awaited = await inner.start(Connection(keeper.session, project="p", keys=None))
        await keeper.until(lambda keeper: keeper.attached == [first])
        assert awaited.id == first
        assert len(keeper.submissions) == 2


async def test_who_awaits_an_input_before_asks_for_its_end_in_its_place() -> None:
    inner = make(1)
    async with _asked(inner) as (keeper, _, (first, _)):
        assert keeper.session is not None
        await inner.start(Connection(keeper.session, project="p", keys=None))
        await keeper.until(lambda keeper: len(keeper.submissions) == 3)
        last = keeper.submissions[2]
        assert (last.run, last.is_input) == (first, False)


async def test_a_call_that_nobody_can_run_is_told_by_its_input_as_well() -> None:
    async with _asked(make(1)) as (keeper, call, (first, _)):
        keeper.tell(_accepted(first), messages.Unserved(run=first, queue="p:make:0"))
        run = await call.start()
        keeper.tell(messages.Finished(run=run.id, state="cancelled"))
        with pytest.warns(leveret.NoWorkerWarning, match="no worker serves p:make:0"):
            await run.ended()
