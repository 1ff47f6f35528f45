"""Steps: what a workflow does itself, recorded once and answered from the record afterwards."""

import asyncio
import datetime as dt
import itertools
import math
import random
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, cast

import pytest

import leveret
from leveret import define
from leveret.context import RunContext, entering
from leveret.failures import RemoteTraceback
from leveret_broker import messages
from tests.sdk.keeper import RUN, Keeper, keeping, unsealed


class Unripe(Exception):
    def __init__(self, days: int) -> None:
        super().__init__(f"wait {days} more days")
        self.days = days


@define.task
async def a_task(a: int) -> int:
    return a


class Counter:
    """A function that counts how often it was called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def plain(self, value: Any) -> Any:
        self.calls.append(value)
        return value

    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return self.plain(value)

    def fails(self, days: int) -> int:
        self.calls.append(days)
        raise Unripe(days)


@pytest.fixture
async def keeper() -> AsyncGenerator[Keeper]:
    async with keeping() as made:
        yield made


async def executed(
    run: RunContext, code: Callable[[], Awaitable[Any]], timeout: float = 5.0
) -> Any:
    """What the code returns as the workflow run's."""
    with entering(run):
        async with asyncio.timeout(timeout):
            return await code()


# -- outside of a workflow run --------------------------------------------------------------------


async def test_outside_of_runs_a_step_is_just_done() -> None:
    counter = Counter()
    assert await leveret.step(counter.plain, 1) == 1
    assert await leveret.step(counter.later, value=2) == 2
    with pytest.raises(Unripe):
        await leveret.step(counter.fails, 3)
    await leveret.sleep(0)
    assert counter.calls == [1, 2, 3]


async def test_inside_a_task_nothing_is_recorded(keeper: Keeper) -> None:
    run = keeper.workflow_run()
    run.kind = "task"
    with entering(run):
        assert await leveret.step(math.sqrt, 4.0) == 2.0
        await leveret.sleep(dt.timedelta(0))
        assert (await leveret.now()).tzinfo is dt.UTC
    assert keeper.submissions == []


async def test_what_is_not_deterministic_has_its_own_steps() -> None:
    before = dt.datetime.now(dt.UTC)
    assert before <= await leveret.now() <= dt.datetime.now(dt.UTC)
    assert (await leveret.uuid()).version == 4
    assert await leveret.uuid() != await leveret.uuid()
    assert 0.0 <= await leveret.random() < 1.0


# -- recording ------------------------------------------------------------------------------------


async def test_a_step_is_submitted_with_its_result(keeper: Keeper) -> None:
    counter = Counter()
    run = keeper.workflow_run(fresh=True, round=2)
    assert await executed(run, lambda: leveret.step(counter.plain, {"a": (1, 2)})) == {"a": (1, 2)}
    (submission,) = keeper.submissions
    assert submission.target == messages.Target(kind="step", name="leveret.step")
    assert (submission.parent, submission.root, submission.round) == (RUN, RUN, 2)
    assert (submission.project, submission.key, submission.ordinal) == ("p", None, 0)
    assert submission.identity == submission.digest
    assert submission.run.startswith(RUN[:14])
    assert submission.recorded is not None
    assert submission.recorded.name == f"{__name__}.Counter.plain"
    assert unsealed(keeper.records[submission.run]) == {"a": (1, 2)}


async def test_a_fresh_run_asks_for_nothing(keeper: Keeper) -> None:
    await executed(keeper.workflow_run(fresh=True), leveret.random)
    assert keeper.attached == []
    await executed(keeper.workflow_run(fresh=False), leveret.random)
    assert len(keeper.attached) == 1


async def test_an_execution_that_may_not_be_the_first_asks_and_then_does_it(
    keeper: Keeper,
) -> None:
    counter = Counter()
    run = keeper.workflow_run()
    assert await executed(run, lambda: leveret.step(counter.later, 1)) == 1
    assert keeper.attached == [keeper.submissions[0].run]
    assert counter.calls == [1]


async def test_a_recorded_step_is_not_done_again(keeper: Keeper) -> None:
    counter = Counter()

    async def workflow() -> list[Any]:
        return [
            await leveret.step(counter.plain, 1),
            await leveret.step(counter.later, 2),
            await leveret.now(),
            await leveret.uuid(),
            await leveret.random(),
        ]

    first = await executed(keeper.workflow_run(fresh=True), workflow)
    second = await executed(keeper.workflow_run(), workflow)
    assert first == second
    assert counter.calls == [1, 2]
    assert len(keeper.submissions) == 5


async def test_an_exception_is_recorded_and_raised_again_as_its_own_type(keeper: Keeper) -> None:
    counter = Counter()

    async def workflow() -> None:
        await leveret.step(counter.fails, 3)

    for fresh in (True, False):
        with pytest.raises(Unripe, match="wait 3 more days") as raised:
            await executed(keeper.workflow_run(fresh=fresh), workflow)
        assert raised.value.days == 3
        assert isinstance(raised.value.__cause__, RemoteTraceback)
        assert "in fails" in str(raised.value.__cause__)
    assert counter.calls == [3]
    recorded = keeper.submissions[0].recorded
    assert recorded is not None
    assert recorded.failure is not None
    assert recorded.failure.kinds[0] == f"{__name__}.Unripe"


async def test_the_first_record_wins(keeper: Keeper) -> None:
    answers = itertools.count()

    async def workflow() -> int:
        return await leveret.step(lambda: next(answers))

    runs = [keeper.workflow_run(fresh=True) for _ in range(3)]
    found = await asyncio.gather(*[executed(run, workflow) for run in runs])
    assert found == [0, 0, 0]
    assert next(answers) == 3


async def test_a_step_that_is_made_within_a_gather_has_its_own_record(keeper: Keeper) -> None:
    answers = itertools.count()

    async def workflow() -> list[int]:
        steps = [leveret.step(lambda: next(answers)) for _ in range(50)]
        return list(await asyncio.gather(*steps))

    first = await executed(keeper.workflow_run(fresh=True), workflow)
    assert sorted(first) == list(range(50))
    assert await executed(keeper.workflow_run(), workflow) == first


async def test_equal_steps_are_counted_when_they_are_made(keeper: Keeper) -> None:
    answers = itertools.count()

    async def workflow(backwards: bool) -> list[int]:
        steps = [leveret.step(lambda: next(answers)) for _ in range(3)]
        order = reversed(range(3)) if backwards else range(3)
        found = {index: await steps[index] for index in order}
        return [found[index] for index in range(3)]

    first = await executed(keeper.workflow_run(fresh=True), lambda: workflow(True))
    assert first == [2, 1, 0]
    assert await executed(keeper.workflow_run(), lambda: workflow(False)) == first


async def test_a_result_that_cant_travel_is_a_recorded_failure(keeper: Keeper) -> None:
    async def workflow() -> None:
        await leveret.step(threading.Lock)

    for fresh in (True, False):
        with pytest.raises(leveret.PayloadError, match=r"the result of the step \S+lock.* can't"):
            await executed(keeper.workflow_run(fresh=fresh), workflow)
    assert len(keeper.submissions) == 1


async def test_a_cancelled_step_records_nothing(keeper: Keeper) -> None:
    begun = asyncio.Event()

    async def hangs() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def workflow() -> None:
        task = asyncio.ensure_future(leveret.step(hangs))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await executed(keeper.workflow_run(fresh=True), workflow)
    assert keeper.submissions == []
    assert keeper.cancelled == []


async def test_what_ends_a_program_is_not_recorded(keeper: Keeper) -> None:
    class Ends(BaseException):
        pass

    def leaves() -> None:
        raise Ends

    async def workflow() -> None:
        await leveret.step(leaves)

    with pytest.raises(Ends):
        await executed(keeper.workflow_run(fresh=True), workflow)
    assert keeper.submissions == []


async def test_a_second_answer_to_a_question_is_none_to_the_record(keeper: Keeper) -> None:
    keeper.doubles = True

    async def workflow() -> list[float]:
        return [await leveret.random() for _ in range(20)]

    found = await executed(keeper.workflow_run(), workflow)
    assert len(set(found)) == 20


async def test_a_step_of_a_run_that_was_given_back_is_not_done(keeper: Keeper) -> None:
    counter = Counter()
    run = keeper.workflow_run(fresh=True)
    run.abandoned = True
    with pytest.raises(asyncio.CancelledError, match="given back"):
        await executed(run, lambda: leveret.step(counter.plain, 1))
    assert counter.calls == []


# -- rounds ---------------------------------------------------------------------------------------


async def test_a_step_that_failed_is_done_again_in_a_later_round_only(keeper: Keeper) -> None:
    counter = Counter()

    async def workflow() -> int:
        return await leveret.step(counter.fails, 3)

    for round in (1, 1, 2, 2):
        with pytest.raises(Unripe):
            await executed(keeper.workflow_run(round=round), workflow)
    assert counter.calls == [3, 3]
    assert [one.round for one in keeper.submissions] == [1, 2]


async def test_an_end_of_an_earlier_round_that_comes_late_is_not_taken_for_the_new_one(
    keeper: Keeper,
) -> None:
    attempts = itertools.count(1)

    def fails_once() -> int:
        attempt = next(attempts)
        if attempt == 1:
            raise Unripe(attempt)
        return attempt

    async def workflow() -> int:
        return await leveret.step(fails_once)

    with pytest.raises(Unripe):
        await executed(keeper.workflow_run(), workflow)
    keeper.doubles = True
    assert await executed(keeper.workflow_run(round=2), workflow) == 2
    assert next(attempts) == 3


async def test_a_step_that_succeeded_is_kept_in_every_round(keeper: Keeper) -> None:
    first = await executed(keeper.workflow_run(), leveret.uuid)
    assert await executed(keeper.workflow_run(round=7), leveret.uuid) == first


# -- what makes two steps the same ----------------------------------------------------------------


async def test_nested_functions_are_told_apart_by_what_they_took_along(keeper: Keeper) -> None:
    def read(path: str) -> str:
        return f"what {path} holds"

    async def workflow(paths: list[str]) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        for path in paths:

            def read_it(which: str = path) -> str:
                return read(which)

            found.add((path, await leveret.step(read_it)))
            found.add((path, await leveret.step(lambda: read(path))))  # noqa: B023
            found.add((path, await leveret.step(partial(read, path))))
        return found

    await executed(keeper.workflow_run(fresh=True), lambda: workflow(["a", "b", "c"]))
    again = await executed(keeper.workflow_run(), lambda: workflow(["c", "a", "b"]))
    assert again == {(path, read(path)) for path in "abc"}
    assert len(keeper.submissions) == 9


async def test_the_state_of_a_methods_object_does_not_count(keeper: Keeper) -> None:
    generator = random.Random()

    async def workflow() -> list[float]:
        return [await leveret.step(generator.randint, 1, 10**9), await leveret.step(random.random)]

    first = await executed(keeper.workflow_run(fresh=True), workflow)
    random.random()
    assert await executed(keeper.workflow_run(), workflow) == first


async def test_arguments_that_nothing_identifies_need_a_key(keeper: Keeper) -> None:
    counter, lock = Counter(), threading.Lock()
    counter.plain(lock)

    def is_locked(lock: Any, name: str) -> bool:
        return bool(lock.locked())

    with entering(keeper.workflow_run(fresh=True)):
        with pytest.raises(leveret.PayloadError, match=r"leveret\.step\.options\(key="):
            await leveret.step(is_locked, lock, "a")
        assert await leveret.step.options(key="the lock")(is_locked, lock, "a") is False


async def test_a_key_names_one_step_of_the_run(keeper: Keeper) -> None:
    counter = Counter()

    async def workflow() -> list[int]:
        step = leveret.step.options(key="once")
        together = await asyncio.gather(step(counter.later, 1), step(counter.later, 1))
        return [*together, await step(counter.later, 1)]

    assert await executed(keeper.workflow_run(fresh=True), workflow) == [1, 1, 1]
    assert counter.calls == [1]
    (submission,) = keeper.submissions
    assert (submission.key, submission.identity, submission.ordinal) == ("once", "key:once", 0)


async def test_a_key_with_other_arguments_is_refused_naming_both(keeper: Keeper) -> None:
    counter = Counter()
    step = leveret.step.options(key="k1")
    with entering(keeper.workflow_run(fresh=True)):
        await step(counter.plain, 1)
        with pytest.raises(leveret.KeyConflictError, match=r"'k1'.*\(1\).*\(2\)"):
            await step(counter.plain, 2)
        assert await step(counter.later, 2) == 2, "another function's key is another key"


def test_a_key_that_can_name_nothing_is_refused() -> None:
    with pytest.raises(leveret.DefinitionError, match="printable"):
        leveret.step.options(key="")


# -- steps in steps -------------------------------------------------------------------------------


async def test_a_step_within_a_step_is_refused(keeper: Keeper) -> None:
    async def outer() -> float:
        return await leveret.random()

    async def sleeps() -> None:
        await leveret.sleep(1)

    functions: list[Callable[[], Coroutine[Any, Any, Any]]] = [outer, sleeps]
    for function in functions:
        with pytest.raises(leveret.NestedCallError, match=r"made inside the step \S+test_steps"):
            await executed(keeper.workflow_run(fresh=True), partial(leveret.step, function))
        with pytest.raises(leveret.NestedCallError):
            await leveret.step(function)


async def test_a_call_within_a_step_is_refused(keeper: Keeper) -> None:
    async def calls() -> int:
        return await a_task(1)

    with pytest.raises(leveret.NestedCallError, match=r"a_task\.fn\(\.\.\.\)"):
        await executed(keeper.workflow_run(fresh=True), lambda: leveret.step(calls))


# -- sleeping -------------------------------------------------------------------------------------


async def test_a_sleep_is_recorded_when_it_begins_and_ends_when_it_is_due(keeper: Keeper) -> None:
    async def workflow() -> str:
        await leveret.sleep(dt.timedelta(hours=1))
        return "awake"

    sleeping = asyncio.create_task(executed(keeper.workflow_run(fresh=True), workflow))
    await keeper.until(lambda keeper: bool(keeper.sleeping))
    (submission,) = keeper.submissions
    assert submission.recorded is not None
    assert (submission.recorded.name, submission.recorded.delay) == ("leveret.sleep", 3600.0)
    assert not sleeping.done()
    keeper.wake()
    assert await sleeping == "awake"
    assert await executed(keeper.workflow_run(), workflow) == "awake"
    assert unsealed(keeper.records[submission.run]) is None


async def test_cancelling_who_sleeps_cancels_the_sleep(keeper: Keeper) -> None:
    async def workflow() -> None:
        await leveret.sleep(1000)

    sleeping = asyncio.create_task(executed(keeper.workflow_run(fresh=True), workflow))
    await keeper.until(lambda keeper: bool(keeper.sleeping))
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    await keeper.until(lambda keeper: keeper.cancelled == [keeper.submissions[0].run])
    assert keeper.sleeping == {}


async def test_a_sleep_of_a_run_that_was_given_back_goes_on(keeper: Keeper) -> None:
    run = keeper.workflow_run(fresh=True)

    async def workflow() -> None:
        await leveret.sleep(1000)

    sleeping = asyncio.create_task(executed(run, workflow))
    await keeper.until(lambda keeper: bool(keeper.sleeping))
    run.abandoned = True
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    await executed(keeper.workflow_run(), leveret.random)
    assert keeper.cancelled == []
    assert len(keeper.sleeping) == 1


async def test_a_sleep_that_somebody_cancelled_says_so(keeper: Keeper) -> None:
    async def workflow() -> None:
        await leveret.sleep(1000)

    sleeping = asyncio.create_task(executed(keeper.workflow_run(fresh=True), workflow))
    await keeper.until(lambda keeper: bool(keeper.sleeping))
    assert keeper.session is not None
    keeper.session.cancel(keeper.submissions[0].run)
    with pytest.raises(leveret.RunCancelled, match=r"the step leveret\.sleep"):
        await sleeping


@pytest.mark.parametrize(
    "seconds", [-1, -0.001, math.nan, math.inf, 10**400, True, "1", None, dt.timedelta(seconds=-1)]
)
def test_a_sleep_that_can_have_no_length_is_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match="a sleep takes"):
        cast(Any, leveret.sleep)(seconds)
