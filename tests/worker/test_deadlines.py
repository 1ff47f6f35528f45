"""What is done about an execution as time passes: announced, leased, timed out, left to itself."""

from leveret_worker.executor import ANNOUNCE_AFTER
from tests.worker.bench import QUEUE, Bench, compute, crunch, flow


async def started(bench: Bench) -> list[tuple[str, bool]]:
    return [(one.run, one.leased) for one in await bench.started()]


# -- announcing -----------------------------------------------------------------------------------


async def test_what_ends_soon_is_not_announced(bench: Bench) -> None:
    await bench.deliver("a")
    await bench.clock.let_pass(ANNOUNCE_AFTER / 2)
    bench.runner.end("a")
    await bench.clock.let_pass(100)
    assert await started(bench) == []


async def test_what_executes_for_a_moment_is_announced(bench: Bench) -> None:
    await bench.deliver("a")
    await bench.clock.let_pass(ANNOUNCE_AFTER)
    assert await started(bench) == [("a", False)]


async def test_what_somebody_waits_for_is_announced_at_once(bench: Bench) -> None:
    await bench.deliver("a", announce=True)
    assert await started(bench) == [("a", False)]


# -- leases ---------------------------------------------------------------------------------------


async def test_a_long_execution_is_leased_and_its_delivery_acknowledged(bench: Bench) -> None:
    await bench.deliver("a")
    await bench.clock.let_pass(59)
    assert await started(bench) == [("a", False)]
    assert bench.executor.held(QUEUE) == 1
    await bench.clock.let_pass(1)
    assert await started(bench) == [("a", False), ("a", True)]
    assert bench.executor.held(QUEUE) == 0
    assert bench.executor.busy == 1
    assert await bench.left_in_the_queue() == 0


async def test_a_lease_is_not_acknowledged_before_it_is_confirmed(bench: Bench) -> None:
    await bench.deliver("a")
    bench.broker.block()
    await bench.clock.let_pass(100)
    assert bench.executor.held(QUEUE) == 1
    assert await bench.left_in_the_queue() == 1


async def test_a_lease_ends_like_any_other_execution(bench: Bench) -> None:
    await bench.deliver("a")
    await bench.clock.let_pass(100)
    assert await started(bench) == [("a", False), ("a", True)]
    bench.runner.end("a")
    assert await bench.ends() == {"a": "succeeded"}
    assert bench.executor.held(QUEUE) == 0
    assert bench.executor.busy == 0


async def test_a_delivery_is_kept_for_those_of_its_runs_that_are_not_leased(bench: Bench) -> None:
    await bench.deliver("a", "b", "c")
    await bench.clock.let_pass(100)
    await bench.reporter.flush()
    assert bench.executor.held(QUEUE) == 1
    assert await bench.left_in_the_queue() == 1


async def test_another_delivery_of_a_lease_is_acknowledged_at_once(bench: Bench) -> None:
    await bench.deliver("a")
    await bench.clock.let_pass(100)
    await bench.reporter.flush()
    await bench.deliver("a", again=True)
    assert bench.runner.begun == ["a"]
    assert await bench.left_in_the_queue() == 0


async def test_what_ended_before_its_lease_was_confirmed_keeps_its_delivery(bench: Bench) -> None:
    await bench.deliver("a")
    bench.broker.block()
    await bench.clock.let_pass(60)
    bench.runner.end("a")
    assert await bench.left_in_the_queue() == 1


# -- time limits ----------------------------------------------------------------------------------


async def test_what_takes_too_long_is_stopped_and_says_which_limit_it_was(bench: Bench) -> None:
    await bench.deliver("a", timeout=5, attempt=3)
    await bench.clock.let_pass(4)
    assert bench.runner.stopped == []
    await bench.clock.let_pass(1)
    assert bench.runner.stopped == ["a"]
    bench.runner.end_stopped("a")
    (outcome,) = await bench.outcomes()
    assert outcome.state == "timed-out"
    assert outcome.failure is not None
    assert outcome.failure.type == "leveret.errors.RunTimeout"
    assert outcome.failure.message == (
        "run a of p:work:0 was stopped in attempt 3, by its timeout of 5 s for one attempt"
    )
    assert outcome.finished_at - outcome.started_at == 5
    assert await bench.left_in_the_queue() == 0


async def test_what_ends_in_time_is_not_stopped(bench: Bench) -> None:
    await bench.deliver("a", timeout=5)
    await bench.clock.let_pass(4)
    bench.runner.end("a")
    await bench.clock.let_pass(100)
    assert bench.runner.stopped == []
    assert await bench.ends() == {"a": "succeeded"}


async def test_a_lease_has_a_time_limit_too(bench: Bench) -> None:
    await bench.deliver("a", timeout=100)
    await bench.clock.let_pass(100)
    assert bench.runner.stopped == ["a"]
    bench.runner.end_stopped("a")
    assert await bench.ends() == {"a": "timed-out"}


async def test_a_result_that_came_while_it_was_stopped_counts(bench: Bench) -> None:
    await bench.deliver("a", timeout=5)
    await bench.clock.let_pass(5)
    bench.runner.end("a")
    assert await bench.ends() == {"a": "succeeded"}


async def test_an_error_that_came_while_it_was_stopped_does_not_count(bench: Bench) -> None:
    await bench.deliver("a", timeout=5)
    await bench.clock.let_pass(5)
    bench.runner.fail("a")
    assert await bench.ends() == {"a": "timed-out"}


async def test_a_run_cancelled_while_it_times_out_is_reported_as_stopped(bench: Bench) -> None:
    await bench.deliver("a", timeout=5)
    await bench.clock.let_pass(5)
    bench.stop("a")
    assert bench.runner.stopped == ["a"]  # once
    bench.runner.end_stopped("a")
    assert await bench.ends() == {"a": "stopped"}


async def test_a_lease_that_is_confirmed_while_it_is_stopped_changes_nothing(
    bench: Bench,
) -> None:
    await bench.deliver("a", timeout=61)
    bench.broker.block()
    await bench.clock.let_pass(61)
    bench.broker.unblock()
    assert await started(bench) == [("a", False), ("a", True)]
    bench.stop("a")
    assert bench.runner.stopped == ["a"]
    bench.runner.end_stopped("a")
    assert await bench.ends() == {"a": "stopped"}
    assert await bench.left_in_the_queue() == 0


async def test_waiting_for_a_slot_takes_nothing_from_the_time_limit(bench: Bench) -> None:
    await bench.deliver("a", "b")
    await bench.deliver("c", timeout=5)
    await bench.clock.let_pass(8)
    bench.runner.end("a")
    assert bench.runner.begun == ["a", "b", "c"]
    await bench.clock.let_pass(4)
    assert bench.runner.stopped == []


# -- what does not end ----------------------------------------------------------------------------


async def test_async_code_that_does_not_end_is_left_to_itself_after_the_grace(
    bench: Bench,
) -> None:
    await bench.deliver("a", timeout=5)
    await bench.clock.let_pass(5 + 9)
    assert bench.executor.busy == 1
    assert await bench.reported() == []
    await bench.clock.let_pass(1)
    assert bench.executor.busy == 0
    assert await bench.ends() == {"a": "timed-out"}
    bench.runner.end("a")
    assert await bench.ends() == {"a": "timed-out"}
    assert await bench.left_in_the_queue() == 0


async def test_what_is_left_to_itself_makes_room(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    bench.stop("a")
    await bench.clock.let_pass(9)
    assert bench.runner.begun == ["a", "b"]
    await bench.clock.let_pass(1)
    assert bench.runner.begun == ["a", "b", "c"]
    bench.runner.end("a")
    assert bench.executor.busy == 2


async def test_a_cancelled_run_that_is_left_to_itself_is_settled_and_reported_as_stopped(
    bench: Bench,
) -> None:
    await bench.deliver("a")
    bench.stop("a")
    await bench.clock.let_pass(10)
    assert await bench.ends() == {"a": "stopped"}
    assert bench.executor.held(QUEUE) == 0
    assert await bench.left_in_the_queue() == 0


async def test_a_workflow_that_is_left_to_itself_is_returned(bench: Bench) -> None:
    await bench.deliver("a", definition=flow)
    bench.executor.give_back_executing(workflows_only=True)
    await bench.clock.let_pass(10)
    assert await bench.ends() == {"a": "returned"}


async def test_a_process_holds_its_slot_until_it_has_ended(bench: Bench) -> None:
    await bench.deliver("a", definition=crunch, timeout=5)
    await bench.clock.let_pass(1000)
    assert bench.runner.stopped == ["a"]
    assert bench.executor.busy == 1
    assert await bench.reported() == []
    bench.runner.end_stopped("a")
    assert await bench.ends() == {"a": "timed-out"}
    assert bench.executor.busy == 0


async def test_a_thread_is_left_to_itself_at_once(bench: Bench) -> None:
    await bench.deliver("a", definition=compute, timeout=5)
    await bench.clock.let_pass(5)
    assert await bench.ends() == {"a": "timed-out"}
    assert bench.executor.busy == 0
    bench.runner.end("a")
    assert await bench.ends() == {"a": "timed-out"}


async def test_what_is_left_to_itself_does_not_keep_a_worker_from_leaving(bench: Bench) -> None:
    await bench.deliver("a")
    await bench.deliver("b", definition=compute)
    bench.executor.give_back_executing()
    await bench.clock.let_pass(10)
    await bench.executor.idle()
    assert await bench.ends() == {"a": "returned", "b": "returned"}


# -- deaths ---------------------------------------------------------------------------------------


async def test_the_death_of_a_process_is_no_failure_of_the_run(bench: Bench) -> None:
    await bench.deliver("a", "b")
    bench.runner.fail("a", is_lost=True)
    bench.runner.fail("b")
    assert await bench.ends() == {"a": "lost", "b": "failed"}


async def test_a_process_that_died_of_its_time_limit_has_timed_out(bench: Bench) -> None:
    await bench.deliver("a", definition=crunch, timeout=5)
    await bench.clock.let_pass(5)
    bench.runner.fail("a", is_lost=True)
    assert await bench.ends() == {"a": "timed-out"}


# -- giving back ----------------------------------------------------------------------------------


async def test_a_result_that_came_while_it_was_given_back_counts(bench: Bench) -> None:
    await bench.deliver("a")
    bench.executor.give_back_executing()
    bench.runner.end("a")
    assert await bench.ends() == {"a": "succeeded"}


async def test_what_is_returned_is_acknowledged_only_once_that_is_confirmed(bench: Bench) -> None:
    await bench.deliver("a")
    bench.executor.give_back_executing()
    bench.broker.block()
    bench.runner.end_stopped("a")
    assert await bench.left_in_the_queue() == 1


async def test_a_message_goes_back_only_when_nothing_of_it_executes(bench: Bench) -> None:
    await bench.deliver("a", "b", "c")
    bench.executor.give_back_waiting()
    bench.runner.end("a")
    await bench.reporter.flush()
    assert bench.accepted == 1
    bench.runner.end("b")
    await bench.until_accepted(2)
    assert [claim.run for claim in await bench.claimed()] == ["c"]


async def test_a_message_of_which_much_is_known_is_claimed_for_the_rest_only(bench: Bench) -> None:
    await bench.deliver("a", "b", "c")
    bench.broker.drop_connections()
    bench.executor.give_back_waiting()
    await bench.until_accepted(2)
    bench.runner.end("a")
    assert [claim.run for claim in await bench.claimed()] == ["c"]
