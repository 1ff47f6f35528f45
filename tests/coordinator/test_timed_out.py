"""A workflow that took too long: what it called goes with it, in the same decision."""

from leveret_broker.messages import RetryPolicy, RunOptions
from leveret_coordinator.catalog import Catalog
from tests.coordinator import build

ROOT, CHILD, DONE = (build.run_id(number) for number in range(1, 4))
RETRIED = RunOptions(retry=RetryPolicy(max=1, initial=0, factor=1, cap=0, jitter=0), timeout=5)


async def _running(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(
        catalog,
        build.submit(
            build.submission(ROOT, options=RETRIED),
            build.submission(CHILD, parent=ROOT),
            build.submission(DONE, parent=ROOT),
        ),
    )
    await build.apply(catalog, build.outcomes(build.outcome(DONE)))


async def test_the_children_of_a_workflow_that_took_too_long_are_stopped_with_it(
    catalog: Catalog,
) -> None:
    await _running(catalog)
    decision = await build.apply(catalog, build.outcomes(build.outcome(ROOT, "timed-out")))
    states = {changed.run.id: changed.run.state for changed in decision.changed}
    assert states == {ROOT: "pending", CHILD: "cancelled"}
    assert [stop.run for stop in decision.stops] == [CHILD]


async def test_its_next_attempt_opens_them_again_and_keeps_what_had_succeeded(
    catalog: Catalog,
) -> None:
    await _running(catalog)
    await build.apply(catalog, build.outcomes(build.outcome(ROOT, "timed-out")))
    again = build.submit(
        build.submission(CHILD, parent=ROOT, round=2), build.submission(DONE, parent=ROOT, round=2)
    )
    decision = await build.apply(catalog, again)
    assert [(changed.run.id, changed.run.attempt) for changed in decision.changed] == [(CHILD, 2)]
    assert [answer.reply.type for answer in decision.answers if answer.session == "s"][-1:] == [
        "finished"
    ]
