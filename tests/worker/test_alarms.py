"""Calls at given times: in order, once, and only if nobody cancelled them."""

from collections.abc import AsyncGenerator

import pytest

from leveret_worker.alarms import Alarms, Timeline
from tests.worker.clocks import HandClock, settle


@pytest.fixture
async def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def alarms(clock: HandClock) -> AsyncGenerator[Alarms]:
    made = Alarms(clock)
    made.start()
    yield made
    await made.stop()


async def test_they_come_in_the_order_of_their_times(alarms: Alarms, clock: HandClock) -> None:
    rung: list[str] = []
    for name, seconds in (("late", 30), ("soon", 1), ("next", 2), ("soon too", 1)):
        alarms.after(seconds, lambda name=name: rung.append(name))  # type: ignore[misc]
        await settle()
    await clock.let_pass(1)
    assert rung == ["soon", "soon too"]
    await clock.let_pass(10)
    assert rung == ["soon", "soon too", "next"]
    await clock.let_pass(100)
    assert rung == ["soon", "soon too", "next", "late"]


async def test_a_cancelled_one_never_comes(alarms: Alarms, clock: HandClock) -> None:
    rung: list[int] = []
    alarm = alarms.after(1, lambda: rung.append(1))
    alarms.after(1, lambda: rung.append(2))
    alarm.cancel()
    await clock.let_pass(2)
    assert rung == [2]


async def test_one_that_raises_keeps_no_other_from_coming(alarms: Alarms, clock: HandClock) -> None:
    rung: list[int] = []
    alarms.after(1, lambda: rung.append(1 // 0))
    alarms.after(2, lambda: rung.append(2))
    await clock.let_pass(2)
    assert rung == [2]


async def test_one_that_is_set_by_another_comes_too(alarms: Alarms, clock: HandClock) -> None:
    rung: list[float] = []
    begun = clock.now()

    def set_another() -> None:
        alarms.after(0, lambda: rung.append(clock.now() - begun))

    alarms.after(1, set_another)
    await clock.let_pass(1)
    assert rung == [1]


async def test_none_comes_after_the_stop(alarms: Alarms, clock: HandClock) -> None:
    rung: list[int] = []
    alarms.after(1, lambda: rung.append(1))
    await settle()
    await alarms.stop()
    await clock.let_pass(2)
    assert rung == []
    await alarms.stop()


async def test_a_timeline_goes_through_its_steps_until_it_is_cancelled(
    alarms: Alarms, clock: HandClock
) -> None:
    reached: list[tuple[str, float]] = []
    begun = clock.now()

    def reach(name: str) -> None:
        reached.append((name, clock.now() - begun))
        if name == "third":
            timeline.cancel()

    steps = (("third", 7), ("first", 1), ("fourth", 8), ("second", 5))
    timeline = Timeline(alarms, [(at, lambda name=name: reach(name)) for name, at in steps])  # type: ignore[misc]
    await clock.let_pass(100)
    assert reached == [("first", 1), ("second", 5), ("third", 7)]
