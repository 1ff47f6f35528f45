"""The catalog's rows: kept, read in pages, written all or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest

from leveret_broker.messages import Attach, Cancel, Finished, ShowRun, Tree
from leveret_coordinator import listings
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.decision import Answer, Decision
from leveret_coordinator.errors import CatalogConflict
from leveret_coordinator.facts import needs_of
from leveret_coordinator.reading import Liveness
from leveret_coordinator.records import (
    Attempt,
    ChangedRun,
    Confirmed,
    End,
    PendingRun,
    RefusedAttempt,
    Waiter,
)
from tests.coordinator import build
from tests.coordinator.deciding import ended

ROOT, CHILD, OTHER = (build.run_id(number) for number in range(1, 4))
ALL = Liveness(since=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "catalog.sqlite"


async def _filled(path: Path | None) -> Catalog:
    catalog = await Catalog.open(path)
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    return catalog


async def _pending(catalog: Catalog, page: int = 10) -> list[PendingRun]:
    return [pending async for runs in catalog.pending(page=page) for pending in runs]


async def _unanswered(catalog: Catalog, page: int = 10) -> list[Answer]:
    return [answer async for answers in catalog.unanswered(page=page) for answer in answers]


async def _show(catalog: Catalog, run: str) -> Tree:
    question = ShowRun(session="s", request="r", run=run)
    tree = await listings.answer(question, catalog, alive_since=0)
    assert isinstance(tree, Tree)
    return tree


# -- kept -----------------------------------------------------------------------------------------


async def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    catalog = await _filled(path)
    await build.apply(catalog, build.submit(build.submission(CHILD, "flow", parent=ROOT)))
    await build.apply(catalog, build.started(ROOT))
    await build.apply(catalog, build.outcomes(build.outcome(CHILD, "failed")))
    before = await _show(catalog, ROOT)
    await catalog.close()

    catalog = await Catalog.open(path)
    assert await _show(catalog, ROOT) == before
    assert [(row.id, row.state) for row in before.runs] == [(ROOT, "running"), (CHILD, "failed")]
    assert await catalog.queues() == ["p:flow:1"]
    failure = before.runs[1].failure
    assert failure is not None
    assert (failure.type, failure.message, failure.traceback) == ("ValueError", "no", "tb")
    await catalog.close()


async def test_the_outbox_survives_a_restart(path: Path) -> None:
    catalog = await _filled(path)
    await build.apply(catalog, build.submit(build.submission(OTHER)))
    await build.apply(catalog, build.outcomes(build.outcome(OTHER)))
    await catalog.close()

    catalog = await Catalog.open(path)
    [pending] = await _pending(catalog)
    assert (pending.run.id, pending.queue, pending.arguments) == (ROOT, "p:flow:1", b"arguments")
    told = Finished(run=OTHER, state="succeeded", result=b"result")
    assert await _unanswered(catalog) == [Answer(session="s", reply=told)]
    await catalog.close()


@pytest.mark.parametrize("page", [1, 2, 3, 100])
async def test_the_outbox_is_read_in_pages_without_gaps_confirmed_or_not(
    catalog: Catalog, page: int
) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    runs = [build.run_id(number) for number in range(9, 0, -1)]
    for position, run in enumerate(runs):  # two moments, and within each the order of acceptance
        now = build.NOW + position // 5
        await build.apply(catalog, build.submit(build.submission(run)), now=now)
    assert [pending.run.id for pending in await _pending(catalog, page)] == runs
    ended = build.outcomes(*map(build.outcome, runs))
    await build.apply(
        catalog, *(Attach(session=f"s{n}", runs=tuple(runs)) for n in range(3)), ended
    )
    answers = await _unanswered(catalog, page)
    assert len(answers) == len({(answer.session, str(answer.reply)) for answer in answers}) == 36


async def test_a_late_confirmation_of_another_attempt_changes_nothing(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    await catalog.confirm(Confirmed(published=(build.published(ROOT, 2),)), now=build.NOW)
    assert [pending.run.id for pending in await _pending(catalog)] == [ROOT]
    await catalog.confirm(Confirmed(published=(build.published(ROOT, 1),)), now=build.NOW)
    assert await _pending(catalog) == []


async def test_what_is_confirmed_leaves_the_outbox(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT), build.submission(OTHER)))
    await build.apply(catalog, build.outcomes(build.outcome(OTHER)))
    await catalog.confirm(
        Confirmed(
            published=(build.published(ROOT), build.published(OTHER)),
            settled=(Waiter(run=OTHER, session="s"),),
        ),
        now=build.NOW,
    )
    assert await _pending(catalog) == []
    assert await _unanswered(catalog) == []
    states = {row.id: row.state for row in [*(await _show(catalog, ROOT)).runs]}
    assert states == {ROOT: "queued"}
    assert (await _show(catalog, OTHER)).runs[0].state == "succeeded"


async def test_a_broker_that_lost_everything_leaves_all_that_has_not_ended_pending(
    catalog: Catalog,
) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(*map(build.submission, (ROOT, CHILD, OTHER))))
    await catalog.confirm(
        Confirmed(published=tuple(map(build.published, (ROOT, CHILD, OTHER)))), now=build.NOW
    )
    await build.apply(catalog, build.started(ROOT))
    await build.apply(catalog, build.outcomes(build.outcome(OTHER)))
    before = await _show(catalog, ROOT)
    await catalog.forget_published(now=build.NOW + 5)
    left = await _pending(catalog)
    assert [(pending.run.id, pending.run.attempt) for pending in left] == [(ROOT, 2), (CHILD, 2)]
    [attempt] = before.runs[0].attempts
    assert attempt.state == "running"
    [row] = (await _show(catalog, ROOT)).runs
    assert [(each.number, each.state) for each in row.attempts] == [(1, "returned")]
    late = await build.apply(catalog, build.outcomes(build.outcome(ROOT)))
    assert [refused.reason for refused in late.refused] == ["the attempt is 2"]


# -- written all or not at all --------------------------------------------------------------------


async def _ending(catalog: Catalog, run: str, *, attempt: int = 1) -> Decision:
    """A decision that ends a run, made upon a row that may be an old one."""
    [row] = (await catalog.load(needs_of([Attach(session="s", runs=(run,))]), alive=ALL)).runs
    after = replace(row, state="failed", finished_at=1.0)
    return Decision(
        changed=(ChangedRun(run=after, was_attempt=attempt, had_ended=False),),
        attempts=(Attempt(run=run, number=attempt, state="failed", worker="w"),),
        ends=(End(run=run, state="failed", error=b"mine"),),
    )


async def test_a_second_end_of_a_run_is_refused_with_all_that_came_with_it(
    catalog: Catalog,
) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT), build.submission(OTHER)))
    await build.apply(catalog, build.outcomes(build.outcome(ROOT)))
    ends = [await _ending(catalog, run) for run in (OTHER, ROOT)]
    both = Decision(
        changed=tuple(change for end in ends for change in end.changed),
        attempts=tuple(attempt for end in ends for attempt in end.attempts),
        ends=tuple(payload for end in ends for payload in end.ends),
    )
    with pytest.raises(CatalogConflict, match="1 of 2 rows"):
        await catalog.write(both, Confirmed(), now=build.NOW)
    assert (await _show(catalog, ROOT)).runs[0].state == "succeeded"
    [other] = (await _show(catalog, OTHER)).runs
    assert (other.state, other.attempts) == ("pending", ())


async def test_the_end_of_another_attempt_is_refused(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    with pytest.raises(CatalogConflict):
        await catalog.write(await _ending(catalog, ROOT, attempt=2), Confirmed(), now=build.NOW)


async def test_a_run_is_opened_again_only_if_it_has_ended(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    [end] = (await _ending(catalog, ROOT)).changed
    reopened = replace(end, run=replace(end.run, state="pending", finished_at=None), had_ended=True)
    with pytest.raises(CatalogConflict):
        await catalog.write(Decision(changed=(reopened,)), Confirmed(), now=build.NOW)


async def test_an_attempt_that_is_over_stays_as_it_ended(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    await build.apply(catalog, build.outcomes(build.outcome(ROOT, "returned")))
    before = await _show(catalog, ROOT)
    late = Attempt(run=ROOT, number=1, state="running", worker="other", started_at=1.0)
    await catalog.write(Decision(attempts=(late,)), Confirmed(), now=build.NOW)
    assert await _show(catalog, ROOT) == before


async def test_who_asks_anew_while_the_last_answer_is_confirmed_is_remembered(
    catalog: Catalog,
) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    await build.apply(catalog, build.outcomes(build.outcome(ROOT)))
    waiting = Waiter(run=ROOT, session="s")
    await catalog.write(Decision(waiters=(waiting,)), Confirmed(settled=(waiting,)), now=build.NOW)
    assert [answer.session for answer in await _unanswered(catalog)] == ["s"]


async def test_a_run_is_inserted_once(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    decision = await build.apply(catalog, build.submit(build.submission(ROOT)))
    with pytest.raises(CatalogConflict):
        await catalog.write(decision, Confirmed(), now=build.NOW)


async def test_cancelling_finds_the_whole_tree_however_deep(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    runs = [build.run_id(number) for number in range(1, 40)]
    for position, run in enumerate(runs):
        parent = runs[(position - 1) // 2] if position else None
        asked = build.submission(run, "p:flow:1", parent=parent)
        await build.apply(catalog, build.submit(asked))
    await build.apply(catalog, build.submit(build.submission(build.run_id(100))))
    # A run that has ended hides nothing that is still under way below it.
    await build.apply(catalog, build.outcomes(build.outcome(runs[1])))
    decision = await build.apply(catalog, Cancel(session="s", runs=(runs[0],)))
    assert {stop.run for stop in decision.stops} == set(runs) - {runs[1]}
    assert {run for run, _ in ended(decision)} == set(runs) - {runs[1]}
    assert (await _show(catalog, build.run_id(100))).runs[0].state == "pending"
    facts = await catalog.load(needs_of([Cancel(session="s", runs=(runs[0],))]), alive=ALL)
    assert {run.id for _, run in facts.below} == {runs[0]}, "what has ended is not loaded"
    assert {waiter.run for waiter in facts.waiters} <= {runs[0]}, "others have ended"


async def test_a_run_made_below_one_that_has_ended_is_cancelled_with_the_one_above(
    catalog: Catalog,
) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    await build.apply(catalog, build.submit(build.submission(CHILD, parent=ROOT)))
    await build.apply(catalog, build.outcomes(build.outcome(CHILD)))
    below = build.submit(build.submission(OTHER, parent=CHILD))
    decision = await build.apply(catalog, below, Cancel(session="s", runs=(ROOT,)))
    assert ended(decision) == [(ROOT, "cancelled"), (OTHER, "cancelled")]
    assert decision.invocations == ()


async def test_a_run_that_can_not_be_published_fails_in_the_catalog(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("flow")))
    await build.apply(catalog, build.submit(build.submission(ROOT)))
    await build.apply(catalog, RefusedAttempt(run=ROOT, attempt=1, reason="over the limit"))
    [row] = (await _show(catalog, ROOT)).runs
    assert (row.state, row.worker) == ("failed", None)
    assert row.failure is not None
    assert row.failure.type == "leveret.errors.PayloadError"
    assert await _pending(catalog) == []
