"""What has to be claimed before it starts, and what the answers do."""

from collections.abc import AsyncGenerator

import pytest

from leveret_worker.claims import CLAIM_AFTER_WAITING, REPEAT_EVERY
from tests.worker.bench import GENERATION, Bench, flow
from tests.worker.clocks import settle


@pytest.fixture
async def unjoined() -> AsyncGenerator[Bench]:
    """A worker that no coordinator has let in yet."""
    made = Bench()
    await made.open()
    made.membership.renew()
    yield made
    await made.close()


async def claims(bench: Bench) -> list[tuple[str, int, bool]]:
    return [(claim.run, claim.attempt, claim.handed_out) for claim in await bench.claimed()]


# -- what needs one -------------------------------------------------------------------------------


async def test_what_is_new_starts_at_once(bench: Bench) -> None:
    await bench.deliver("a")
    assert bench.runner.begun == ["a"]
    assert await claims(bench) == []


async def test_what_may_have_been_published_before_is_claimed(bench: Bench) -> None:
    await bench.deliver("a", again=True)
    assert bench.runner.begun == []
    assert await claims(bench) == [("a", 1, True)]


async def test_what_was_handed_out_before_is_claimed(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    bench.executor.give_back_waiting()
    await bench.until_accepted(4)
    bench.runner.end("a")
    assert bench.runner.begun == ["a", "b"]
    assert await claims(bench) == [("c", 1, True)]


async def test_what_is_of_an_older_generation_is_claimed(bench: Bench) -> None:
    await bench.deliver("a", generation=GENERATION - 1)
    await bench.deliver("b", generation=GENERATION + 1)
    assert bench.runner.begun == ["b"]
    assert await claims(bench) == [("a", 1, False)]


async def test_before_the_coordinator_has_answered_everything_is_claimed(unjoined: Bench) -> None:
    await unjoined.deliver("a", generation=GENERATION + 5)
    assert unjoined.runner.begun == []
    assert await claims(unjoined) == [("a", 1, False)]


@pytest.mark.parametrize(
    ("seconds", "is_claimed"), [(CLAIM_AFTER_WAITING, False), (CLAIM_AFTER_WAITING + 1, True)]
)
async def test_what_has_waited_long_is_claimed(
    bench: Bench, seconds: float, is_claimed: bool
) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    await bench.clock.let_pass(seconds)
    bench.runner.end("a")
    assert await claims(bench) == ([("c", 1, False)] if is_claimed else [])


async def test_what_waited_while_the_process_was_stopped_is_claimed(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    bench.clock.jump(5)
    bench.runner.end("a")  # in the first turn after the pause
    assert bench.runner.begun == ["a", "b"]
    assert await claims(bench) == [("c", 1, False)]
    assert bench.resumed == [5]


async def test_a_pause_that_is_noticed_by_the_way_counts_as_well(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    bench.clock.jump(5)
    await settle()
    bench.runner.end("a")
    assert bench.runner.begun == ["a", "b"]
    assert bench.resumed == [5]


async def test_a_loop_that_was_busy_for_a_moment_was_not_stopped(bench: Bench) -> None:
    bench.clock.jump(3)
    await settle()
    await bench.clock.let_pass(60)
    assert bench.resumed == []


# -- while there is no verdict --------------------------------------------------------------------


async def test_claiming_holds_the_slot(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run, again=True)
    assert bench.executor.busy == 2
    assert await claims(bench) == [("a", 1, True), ("b", 1, True)]
    bench.grant("a", None)
    assert [run for run, *_ in await claims(bench)] == ["a", "b", "c"]


async def test_many_claims_share_a_message(bench: Bench) -> None:
    await bench.deliver(*(f"run_{i}" for i in range(50)), definition=flow, again=True)
    assert len(await claims(bench)) == 50
    assert len(bench.told) == 1


async def test_a_claim_without_a_verdict_is_made_again(bench: Bench) -> None:
    await bench.deliver("a", again=True)
    await bench.clock.let_pass(REPEAT_EVERY)
    assert await claims(bench) == [("a", 1, True)] * 2
    await bench.clock.let_pass(REPEAT_EVERY)
    assert await claims(bench) == [("a", 1, True)] * 3
    bench.grant("a", 1)
    await bench.clock.let_pass(10 * REPEAT_EVERY)
    assert await claims(bench) == [("a", 1, True)] * 3


async def test_a_claim_says_the_same_however_often_it_is_made(bench: Bench) -> None:
    """Another answer to the second would take away what the first one granted."""
    await bench.deliver("a", generation=GENERATION - 1)
    await bench.deliver("a", again=True)
    await bench.clock.let_pass(REPEAT_EVERY)
    assert await claims(bench) == [("a", 1, False)] * 2


async def test_what_claims_is_not_stopped_because_its_verdict_may_be_a_later_attempt(
    bench: Bench,
) -> None:
    await bench.deliver("a", again=True)
    bench.stop("a", attempt=1)
    bench.grant("a", 2)
    assert bench.runner.begun == ["a"]
    bench.runner.end("a")
    (outcome,) = await bench.outcomes()
    assert outcome.attempt == 2


async def test_what_waits_and_claims_goes_back_when_the_worker_leaves(bench: Bench) -> None:
    await bench.deliver("a", again=True)
    await bench.deliver("b")
    bench.executor.give_back_claiming()
    assert bench.executor.busy == 1
    assert await bench.left_in_the_queue() == 2


# -- verdicts -------------------------------------------------------------------------------------


async def test_a_granted_claim_starts(bench: Bench) -> None:
    await bench.deliver("a", again=True)
    bench.grant("a", 1)
    assert bench.runner.begun == ["a"]
    assert bench.runner.executions[0].is_claimed
    bench.runner.end("a")
    assert await bench.ends() == {"a": "succeeded"}
    assert await bench.left_in_the_queue() == 0


async def test_a_claim_is_executed_as_the_attempt_that_was_granted(bench: Bench) -> None:
    await bench.deliver("a", again=True)
    bench.grant("a", 2)
    assert bench.runner.executions[0].number == 2
    bench.runner.end("a")
    (outcome,) = await bench.outcomes()
    assert (outcome.run, outcome.attempt, outcome.state) == ("a", 2, "succeeded")


async def test_a_refused_claim_is_settled_and_forgotten(bench: Bench) -> None:
    await bench.deliver("a", again=True)
    bench.grant("a", None)
    assert bench.runner.begun == []
    assert bench.executor.busy == 0
    assert bench.executor.held("p:work:0") == 0
    assert await bench.left_in_the_queue() == 0


async def test_a_claim_granted_as_an_attempt_that_is_here_already_is_settled(bench: Bench) -> None:
    await bench.deliver("a", attempt=2)
    await bench.deliver("a", again=True)
    bench.grant("a", 2)
    assert bench.runner.begun == ["a"]
    bench.runner.end("a")
    assert await bench.reported() == ["a"]
    assert bench.executor.busy == 0
    assert await bench.left_in_the_queue() == 0


async def test_a_claim_granted_as_an_attempt_that_was_stopped_meanwhile_is_returned(
    bench: Bench,
) -> None:
    """If somebody else has stopped it, the coordinator has it executed as the next one."""
    await bench.deliver("a", again=True)
    bench.stop("a", attempt=2)
    bench.grant("a", 2)
    assert bench.runner.begun == []
    (outcome,) = await bench.outcomes()
    assert (outcome.run, outcome.attempt, outcome.state) == ("a", 2, "returned")
    assert await bench.left_in_the_queue() == 0


async def test_a_verdict_that_comes_twice_starts_once(bench: Bench) -> None:
    await bench.deliver("a", again=True)
    bench.grant("a", 2)
    bench.grant("a", 2)
    assert bench.runner.begun == ["a"]
    bench.runner.end("a")
    await bench.reporter.flush()
    bench.grant("a", 2)
    assert await bench.ends() == {"a": "succeeded"}
    assert bench.runner.begun == ["a"]


async def test_a_late_refusal_of_what_is_not_here_is_ignored(bench: Bench) -> None:
    bench.grant("a", None)
    assert await bench.reported() == []


async def test_a_late_grant_of_what_went_back_is_returned(bench: Bench) -> None:
    await bench.deliver("a", again=True)
    bench.executor.give_back_claiming()
    bench.grant("a", 2)
    (outcome,) = await bench.outcomes()
    assert (outcome.run, outcome.attempt, outcome.state) == ("a", 2, "returned")


async def test_a_grant_of_what_was_never_claimed_returns_nothing(bench: Bench) -> None:
    """A stranger could have runs of other workers executed again and again."""
    bench.grant("a", 1)
    await bench.deliver("b")
    bench.grant("b", 2)
    assert await bench.reported() == []


async def test_a_claim_is_granted_as_it_is_or_as_the_next_attempt_and_never_as_another(
    bench: Bench,
) -> None:
    await bench.deliver("a", again=True)
    for granted in (0, 3, 7):
        bench.grant("a", granted)
    assert bench.runner.begun == []
    bench.executor.give_back_claiming()
    for granted in (2, 3, 4):
        bench.grant("a", granted)
    (outcome,) = await bench.outcomes()
    assert (outcome.attempt, outcome.state) == (2, "returned")


async def test_a_verdict_that_refuses_what_executes_stops_it(bench: Bench) -> None:
    await bench.deliver("a")
    bench.grant("a", None)
    assert bench.runner.stopped == ["a"]
    bench.runner.end("a")
    assert await bench.ends() == {"a": "stopped"}
    assert await bench.left_in_the_queue() == 0


async def test_a_verdict_that_grants_what_executes_changes_nothing(bench: Bench) -> None:
    await bench.deliver("a")
    bench.grant("a", 1)
    assert bench.runner.stopped == []
    bench.runner.end("a")
    assert await bench.ends() == {"a": "succeeded"}


# -- other attempts -------------------------------------------------------------------------------


async def test_a_later_attempt_ends_the_one_before(bench: Bench) -> None:
    await bench.deliver("a")
    await bench.deliver("a", attempt=2)
    assert bench.runner.stopped == ["a"]
    assert [one.number for one in bench.runner.executions] == [1, 2]
    bench.runner.end("a")
    (outcome,) = await bench.outcomes()
    assert outcome.attempt == 2


async def test_a_stopped_attempt_does_not_keep_a_later_one_from_starting(bench: Bench) -> None:
    bench.stop("a", attempt=2)
    await bench.deliver("a", attempt=1)
    await bench.deliver("a", attempt=2)
    assert bench.runner.begun == []
    await bench.deliver("a", attempt=3)
    assert bench.runner.begun == ["a"]


async def test_a_stop_of_an_earlier_attempt_forgets_none_of_a_later_stop(bench: Bench) -> None:
    bench.stop("a", attempt=3)
    bench.stop("a", attempt=1)
    await bench.deliver("a", attempt=3)
    assert bench.runner.begun == []


async def test_what_was_stopped_for_ever_starts_if_the_coordinator_grants_it(bench: Bench) -> None:
    """Only what nobody need be asked about is left out unasked: the stop may be a stranger's."""
    bench.stop("a", attempt=2**40)
    await bench.deliver("a")
    assert await claims(bench) == []
    await bench.deliver("a", again=True)
    assert bench.runner.begun == []
    assert await claims(bench) == [("a", 1, True)]
    bench.grant("a", 2)
    assert bench.runner.begun == ["a"]
    bench.stop("a", attempt=2**40)
    bench.runner.end_stopped("a")
    assert await bench.ends() == {"a": "stopped"}
    await bench.deliver("a", attempt=3, claim=True)
    bench.grant("a", 3, attempt=3)
    bench.runner.end("a")
    assert await bench.ends() == {"a": "succeeded"}


async def test_a_refusal_of_what_was_stopped_is_a_refusal(bench: Bench) -> None:
    bench.stop("a", attempt=1)
    await bench.deliver("a", again=True)
    bench.grant("a", None)
    assert bench.runner.begun == []
    assert await bench.reported() == []
    assert await bench.left_in_the_queue() == 0


async def test_a_stop_leaves_later_attempts_alone(bench: Bench) -> None:
    await bench.deliver("a", attempt=2)
    bench.stop("a", attempt=1)
    assert bench.runner.stopped == []
