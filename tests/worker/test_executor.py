"""Who may start, what a delivery is settled with, and what a second delivery is."""

import asyncio

from leveret_broker import messages
from tests.worker.bench import QUEUE, Bench, crunch, flow
from tests.worker.clocks import settle


async def test_no_more_execute_than_there_are_slots(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    assert bench.runner.begun == ["a", "b"]
    bench.runner.end("b")
    assert bench.runner.begun == ["a", "b", "c"]
    assert bench.executor.busy == 2


async def test_sync_tasks_wait_for_a_process_and_let_others_pass(bench: Bench) -> None:
    await bench.deliver("a", definition=crunch)
    await bench.deliver("b", definition=crunch)
    await bench.deliver("c")
    assert bench.runner.begun == ["a", "c"]
    bench.runner.end("c")
    bench.runner.end("a")
    assert bench.runner.begun == ["a", "c", "b"]


async def test_workflows_need_no_slot(bench: Bench) -> None:
    for run in ("a", "b", "c", "d"):
        await bench.deliver(run, definition=flow)
    assert bench.runner.begun == ["a", "b", "c", "d"]
    assert bench.executor.busy == 0


async def test_a_delivery_is_kept_until_all_its_outcomes_are_confirmed(bench: Bench) -> None:
    await bench.deliver("a", "b")
    bench.runner.end("a")
    await bench.reporter.flush()
    assert await bench.left_in_the_queue() == 1


async def test_a_delivery_is_acknowledged_when_all_its_outcomes_are_confirmed(
    bench: Bench,
) -> None:
    await bench.deliver("a", "b")
    bench.runner.end("a")
    bench.runner.end("b")
    assert await bench.reported() == ["a", "b"]
    assert await bench.left_in_the_queue() == 0


async def test_an_outcome_that_the_broker_does_not_take_keeps_its_delivery(bench: Bench) -> None:
    await bench.deliver("a")
    bench.broker.block()
    bench.runner.end("a")
    for _ in range(20):
        await asyncio.sleep(0)
    assert await bench.left_in_the_queue() == 1


async def test_a_run_that_is_delivered_again_is_not_executed_again(bench: Bench) -> None:
    await bench.deliver("a")
    bench.broker.drop_connections()
    await bench.until_accepted(2)
    assert bench.runner.begun == ["a"]
    bench.runner.end("a")
    assert await bench.reported() == ["a"]
    assert await bench.left_in_the_queue() == 0


async def test_a_run_that_is_delivered_again_is_kept_until_its_outcome_is_confirmed(
    bench: Bench,
) -> None:
    await bench.deliver("a")
    bench.broker.drop_connections()
    await bench.until_accepted(2)
    assert await bench.left_in_the_queue() == 1


async def test_a_run_that_ended_but_is_not_confirmed_is_not_executed_again(bench: Bench) -> None:
    await bench.deliver("a")
    bench.broker.block()
    bench.runner.end("a")
    bench.broker.drop_connections()
    await bench.until_accepted(2)
    bench.broker.unblock()
    assert await bench.reported() == ["a"]
    assert bench.runner.begun == ["a"]
    assert await bench.left_in_the_queue() == 0


async def test_a_cancelled_run_is_stopped_and_tells_that_without_its_result(bench: Bench) -> None:
    await bench.deliver("a")
    bench.stop("a")
    assert bench.runner.stopped == ["a"]
    bench.runner.end("a")
    (outcome,) = await bench.outcomes()
    assert (outcome.run, outcome.attempt, outcome.state) == ("a", 1, "stopped")
    assert (outcome.result, outcome.error) == (None, None)
    assert await bench.left_in_the_queue() == 0


async def test_a_cancelled_run_that_waits_never_starts(bench: Bench) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    bench.stop("c", "d")
    bench.runner.end("a")
    await bench.deliver("d")
    assert bench.runner.begun == ["a", "b"]
    bench.runner.end("b")
    assert await bench.reported() == ["a", "b"]
    assert await bench.left_in_the_queue() == 0


async def test_what_waits_goes_back_and_what_executes_is_reported_as_returned(
    bench: Bench,
) -> None:
    for run in ("a", "b", "c"):
        await bench.deliver(run)
    bench.executor.give_back_waiting()
    bench.executor.give_back_executing()
    assert bench.runner.stopped == ["a", "b"]
    bench.runner.end_stopped("a")
    bench.runner.fail("b")
    assert await bench.ends() == {"a": "returned", "b": "returned"}
    assert await bench.left_in_the_queue() == 1


async def test_giving_back_workflows_leaves_tasks_to_their_end(bench: Bench) -> None:
    await bench.deliver("a", definition=flow)
    await bench.deliver("b")
    bench.executor.give_back_executing(workflows_only=True)
    assert bench.runner.stopped == ["a"]


async def test_idle_means_that_nothing_executes(bench: Bench) -> None:
    await bench.deliver("a")
    idle = asyncio.ensure_future(bench.executor.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    bench.runner.end("a")
    await asyncio.wait_for(idle, 5)


async def test_a_confirmed_run_that_is_delivered_again_is_not_executed_again(bench: Bench) -> None:
    await bench.deliver("a")
    bench.runner.end("a")
    await bench.reporter.flush()
    await bench.deliver("a")
    assert bench.runner.begun == ["a"]
    assert await bench.left_in_the_queue() == 0


async def test_an_execution_without_an_outcome_is_reported_as_returned(bench: Bench) -> None:
    await bench.deliver("a")
    bench.runner.end_stopped("a")
    assert await bench.ends() == {"a": "returned"}
    assert await bench.left_in_the_queue() == 0


async def test_what_is_held_of_a_queue_is_counted_until_it_is_confirmed(bench: Bench) -> None:
    await bench.deliver("a")
    await bench.deliver("b")
    assert bench.executor.held(QUEUE) == 2
    bench.runner.end("a")
    await bench.reporter.flush()
    assert bench.executor.held(QUEUE) == 1


async def test_a_result_that_the_broker_refuses_fails_its_run_only(bench: Bench) -> None:
    await bench.deliver("a", "b")
    bench.runner.end("a", size=20_000)
    bench.runner.end("b")
    large, small = await bench.outcomes()
    assert (large.run, large.state, small.run, small.state) == ("a", "failed", "b", "succeeded")
    assert large.failure is not None
    assert large.failure.type == "leveret.errors.PayloadError"
    assert "20000 bytes" in large.failure.message
    assert await bench.left_in_the_queue() == 0


async def test_an_attempt_that_comes_behind_a_later_one_is_not_executed(bench: Bench) -> None:
    await bench.deliver("run_1", attempt=2)
    bench.runner.end("run_1")
    await bench.outcomes()
    await bench.deliver("run_1", attempt=1)
    await settle()
    assert bench.runner.begun == ["run_1"]


async def test_stops_that_are_too_many_to_be_remembered_are_told(bench: Bench) -> None:
    stops = [messages.Stop(run=f"run_{number}", attempt=1) for number in range(10_001)]
    assert not bench.executor.stop(stops[:-1])
    assert bench.executor.stop(stops[-1:]), "so that the worker joins again, and claims"
