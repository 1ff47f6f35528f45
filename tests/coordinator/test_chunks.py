"""Runs that take next to nothing share messages; others don't."""

from pathlib import Path

import pytest

from leveret_broker import codec
from leveret_broker.memory import MemoryTransport
from leveret_broker.messages import Accepted, Invocations, Outcome
from leveret_broker.transport import Delivery
from leveret_coordinator.chunks import LONGEST, MOST_TOGETHER, Chunks
from tests.coordinator import build, peers
from tests.coordinator.faults import RefusingTransport

TASK = "p:work:1"


def measured(seconds: float) -> Chunks:
    chunks = Chunks()
    chunks.note([("d", seconds)])
    return chunks


def test_nothing_shares_a_message_before_it_is_known_how_long_it_takes() -> None:
    assert Chunks().size("d", 1000) == 1


@pytest.mark.parametrize(
    ("seconds", "waiting", "size"),
    [
        (0.00001, 5000, MOST_TOGETHER),
        (0.0, 5000, MOST_TOGETHER),
        (0.0001, 5000, MOST_TOGETHER),
        (0.001, 5000, LONGEST / 0.001),
        (0.0001, 24, 20),  # what is negligible goes at once, the rest is spread
        (0.005, 8, 2),
        (0.005, 5000, LONGEST / 0.005),
        (0.05, 5000, 1),
        (10.0, 5000, 1),
    ],
)
def test_a_message_holds_a_bounded_time_of_work(seconds: float, waiting: int, size: int) -> None:
    assert measured(seconds).size("d", waiting) == size


def test_what_takes_longer_counts_at_once_and_what_takes_less_by_and_by() -> None:
    chunks = measured(0.00001)
    chunks.note([("d", 10.0)])
    assert chunks.size("d", 5000) == 1
    for _ in range(4):
        chunks.note([("d", 0.00001)])
    assert chunks.size("d", 5000) == 1
    for _ in range(20):
        chunks.note([("d", 0.00001)])
    assert chunks.size("d", 5000) == MOST_TOGETHER


def _told(run: str, seconds: float = 0.00001) -> Outcome:
    return build.outcome(run).model_copy(update={"seconds": seconds})


async def _measure(caller: peers.Caller, seconds: float = 0.00001) -> None:
    """Have one execution of the task told."""
    first = build.run_id(1)
    await caller.request(build.submit(build.submission(first, TASK)))
    await caller.tell(build.outcomes(_told(first, seconds)))
    await caller.until_finished(first)


def _sizes(deliveries: list[Delivery]) -> list[int]:
    return [len(codec.decode(each.body, Invocations).runs) for each in deliveries]


async def _open(caller: peers.Caller) -> None:
    await caller.ask(build.register(build.spec("work", kind="task", version="1"), session="s"))
    await caller.consume(TASK)


@pytest.mark.parametrize(("seconds", "most"), [(0.00001, 40), (1.0, 1)])
async def test_runs_share_messages_if_they_take_next_to_nothing(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path, seconds: float, most: int
) -> None:
    runs = [build.run_id(number) for number in range(2, 42)]
    async with peers.coordinator(transport, tmp_path / "catalog", peers.QUICK):
        await _open(caller)
        await _measure(caller, seconds)
        await caller.request(build.submit(*(build.submission(run, TASK) for run in runs)))
        await caller.until(lambda: sum(_sizes(caller.deliveries[TASK])) == 41)
        assert max(_sizes(caller.deliveries[TASK])) == most
        await caller.tell(build.outcomes(*(_told(run) for run in runs)))
        await caller.until_finished(*runs)


@pytest.mark.parametrize(
    "told",
    [
        build.outcome(build.run_id(1), "failed").model_copy(update={"seconds": 0.00001}),
        build.outcome(build.run_id(1)).model_copy(update={"seconds": -1.0}),
    ],
    ids=["failed at once", "negative"],
)
async def test_only_what_did_all_of_its_work_tells_how_long_that_takes(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path, told: Outcome
) -> None:
    runs = [build.run_id(number) for number in range(2, 42)]
    async with peers.coordinator(transport, tmp_path / "catalog", peers.QUICK):
        await _open(caller)
        await caller.request(build.submit(build.submission(told.run, TASK)))
        await caller.tell(build.outcomes(told))
        await caller.until_finished(told.run)
        await caller.request(build.submit(*(build.submission(run, TASK) for run in runs)))
        await caller.until(lambda: sum(_sizes(caller.deliveries[TASK])) == 41)
    assert set(_sizes(caller.deliveries[TASK])) == {1}


async def test_of_a_message_that_the_broker_refuses_each_run_goes_alone(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    small, large = build.run_id(2), build.run_id(3)
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        await _open(caller)
        await _measure(caller)
        refusing.largest = 2000
        await caller.request(
            build.submit(
                build.submission(small, TASK),
                build.submission(large, TASK, arguments=bytes(3000)),
            )
        )
        await caller.until_finished(large)
        assert await peers.state_of(caller, large) == "failed"
        await caller.tell(build.outcomes(_told(small)))
        await caller.until_finished(small)
        assert await peers.state_of(caller, small) == "succeeded"
    assert _sizes(caller.deliveries[TASK]) == [1, 1]
    assert len(refusing.refused) == 2


async def test_what_may_have_been_handed_out_before_goes_alone(
    transport: MemoryTransport, caller: peers.Caller, tmp_path: Path
) -> None:
    """Each of it is claimed, and one that kills its worker must not take others along."""
    runs = [build.run_id(number) for number in range(2, 12)]
    refusing = RefusingTransport(transport)
    async with peers.coordinator(refusing, tmp_path / "catalog", peers.QUICK):
        await _open(caller)
        await _measure(caller)
        refusing.full = {TASK}
        asked = [build.submission(run, TASK, acknowledge=True) for run in runs]
        await caller.request(build.submit(*asked))
        await caller.until(lambda: any(isinstance(each, Accepted) for each in caller.replies))
        refusing.full = set()
        await caller.until(lambda: sum(_sizes(caller.deliveries[TASK])) == 11)
    assert set(_sizes(caller.deliveries[TASK])) == {1}
