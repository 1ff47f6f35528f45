"""Runs that need the results of others, by the decisions as the catalog keeps them."""

import pytest

from leveret_broker.messages import (
    Accepted,
    Cancel,
    Cancelled,
    Finished,
    Input,
    Refused,
    Rejected,
    Reply,
    Retried,
    Retry,
    RetryPolicy,
    RunOptions,
    ShowRun,
    Submission,
    Tree,
)
from leveret_coordinator import listings, provisions
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.decision import Decision
from leveret_coordinator.facts import Message, needs_of
from leveret_coordinator.reading import Liveness
from leveret_coordinator.records import Orphan, Timer
from tests.coordinator import build

ROOT, A, B, C, D = (build.run_id(number) for number in range(1, 6))
PARKING = RunOptions(retry=RetryPolicy(max=0, initial=1, factor=1, cap=1, jitter=0, then="park"))


class Scene:
    """A catalog with a workflow run, whose children need each other."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    async def apply(self, *messages: Message, now: float = build.NOW) -> Decision:
        return await build.apply(self.catalog, *messages, now=now)

    async def prepare(self) -> None:
        fit = build.spec("fit", kind="task", version="0.1")
        await self.apply(build.register(build.spec("flow"), fit))
        await self.apply(build.submit(build.submission(ROOT)))

    async def submit(self, *submissions: Submission) -> Decision:
        return await self.apply(build.submit(*submissions))

    async def end(self, run: str, *, attempt: int = 1, result: bytes = b"result") -> Decision:
        told = build.outcome(run, attempt=attempt, result=result)
        return await self.apply(build.outcomes(told))

    async def fail(self, run: str, *, attempt: int = 1) -> Decision:
        return await self.apply(build.outcomes(build.outcome(run, "failed", attempt=attempt)))

    async def states(self) -> dict[str, str]:
        tree = await listings.answer(
            ShowRun(session="s", request="r", run=ROOT), self.catalog, alive_since=0
        )
        assert isinstance(tree, Tree)
        return {row.id: row.state for row in tree.runs if row.id != ROOT}

    async def waits_for(self, run: str) -> int:
        [row] = await self.catalog.rows("runs_named", ids=f'["{run}"]')
        number: int = row["waits_for"]
        return number


@pytest.fixture
async def scene(catalog: Catalog) -> Scene:
    scene = Scene(catalog)
    await scene.prepare()
    return scene


def _input(run: str, *inputs: str, round: int = 1) -> Submission:
    return build.submission(
        run, "p:fit:0.1", parent=ROOT, inputs=inputs, is_input=True, acknowledge=True, round=round
    )


def _asked(run: str, *inputs: str, round: int = 1, options: RunOptions | None = None) -> Submission:
    return build.submission(
        run, "p:fit:0.1", parent=ROOT, inputs=inputs, round=round, options=options
    )


def _told(decision: Decision) -> list[Reply]:
    return [answer.reply for answer in decision.answers]


def _published(decision: Decision) -> list[str]:
    return [*(each.run.id for each in decision.invocations), *decision.dispatched]


# -- waiting --------------------------------------------------------------------------------------


async def test_a_run_waits_for_its_inputs_and_is_published_with_the_last(scene: Scene) -> None:
    made = await scene.submit(_input(A), _input(B), _asked(C, A, B))
    assert _published(made) == [A, B]
    assert [type(reply) for reply in _told(made) if isinstance(reply, Accepted | Finished)] == [
        Accepted,
        Accepted,
    ]
    assert await scene.states() == {A: "pending", B: "pending", C: "waiting"}
    assert _published(await scene.end(B)) == []
    assert await scene.waits_for(C) == 1
    assert _published(await scene.end(A)) == [C]
    assert await scene.states() == {A: "succeeded", B: "succeeded", C: "pending"}


async def test_results_go_to_who_needs_them_and_not_to_who_asked_for_the_inputs(
    scene: Scene,
) -> None:
    await scene.submit(_input(A), _input(B), _asked(C, A, B))
    for_a, for_b = await scene.end(A, result=b"a"), await scene.end(B, result=b"b")
    assert _told(for_a) == _told(for_b) == []
    [pending] = await scene.catalog.pending_named([C])
    assert pending.as_message().inputs == (Input(run=A, result=b"a"), Input(run=B, result=b"b"))


async def test_large_results_are_left_for_the_worker_to_ask_for(scene: Scene) -> None:
    large = b"x" * (provisions.MOST_INLINE // 2 + 1)
    await scene.submit(_input(A), _input(B), _asked(C, A, B), _asked(D, A))
    await scene.end(A, result=large)
    await scene.end(B, result=large)
    [both] = await scene.catalog.pending_named([C])
    assert both.inputs == (Input(run=A), Input(run=B))
    [one] = await scene.catalog.pending_named([D])
    assert one.inputs == (Input(run=A, result=large),)


async def test_inputs_that_have_succeeded_already_are_not_waited_for(scene: Scene) -> None:
    await scene.submit(_input(A))
    await scene.end(A)
    assert _published(await scene.submit(_asked(C, A))) == [C]
    [pending] = await scene.catalog.pending_named([C])
    assert pending.inputs == (Input(run=A, result=b"result"),)


async def test_all_may_happen_in_one_batch(scene: Scene) -> None:
    decision = await scene.apply(
        build.submit(_input(A)),
        build.outcomes(build.outcome(A)),
        build.submit(_asked(B, A)),
        build.outcomes(build.outcome(B)),
        build.submit(_asked(C, B, A)),
    )
    assert _published(decision) == [C]
    assert await scene.states() == {A: "succeeded", B: "succeeded", C: "pending"}


async def test_the_same_result_told_twice_counts_once(scene: Scene) -> None:
    await scene.submit(_input(A), _input(B), _asked(C, A, B))
    told = build.outcomes(build.outcome(A))
    await scene.apply(told, told)
    await scene.apply(told)
    assert await scene.waits_for(C) == 1


async def test_a_run_that_is_asked_for_again_goes_on_waiting(scene: Scene) -> None:
    asked = [_input(A), _asked(C, A)]
    await scene.submit(*asked)
    assert _published(await scene.submit(*asked)) == []
    assert await scene.waits_for(C) == 1


async def test_a_retried_or_parked_input_is_waited_for(scene: Scene) -> None:
    retried = RunOptions(retry=RetryPolicy(max=1, initial=9, factor=1, cap=9, jitter=0))
    first = _input(A).model_copy(update={"options": retried})
    second = _input(B).model_copy(update={"options": PARKING})
    await scene.submit(first, second, _asked(C, A, B))
    await scene.fail(A)
    await scene.fail(B)
    assert await scene.states() == {A: "waiting", B: "parked", C: "waiting"}
    await scene.apply(Timer(run=A, kind="retry", due_at=build.NOW + 9))
    await scene.end(A, attempt=2)
    await scene.apply(Retry(session="s", request="r", run=B, resume=True))
    await scene.end(B, attempt=2)
    assert await scene.states() == {A: "succeeded", B: "succeeded", C: "pending"}


async def test_a_diamond_and_a_chain_open_one_after_the_other(scene: Scene) -> None:
    await scene.submit(_input(A), _input(B, A), _input(C, A), _asked(D, B, C))
    assert _published(await scene.end(A)) == [B, C]
    assert _published(await scene.end(B)) == []
    assert _published(await scene.end(C)) == [D]


async def test_what_waits_is_found_by_a_coordinator_that_starts(scene: Scene) -> None:
    await scene.submit(_input(A), _asked(C, A))
    await scene.end(A, result=b"a")
    found = {each.run.id: each async for page in scene.catalog.pending(page=10) for each in page}
    assert found[C].inputs == (Input(run=A, result=b"a"),)


# -- order ----------------------------------------------------------------------------------------


async def test_a_submission_that_comes_before_its_inputs_is_to_be_sent_again(scene: Scene) -> None:
    [told] = _told(await scene.submit(_asked(C, A)))
    assert isinstance(told, Rejected)
    assert (told.run, told.code) == (C, "unready")
    assert await scene.states() == {}
    await scene.submit(_input(A))
    await scene.submit(_asked(C, A))
    assert await scene.states() == {A: "pending", C: "waiting"}


async def test_within_a_batch_inputs_may_come_later(scene: Scene) -> None:
    decision = await scene.apply(build.submit(_asked(C, A)), build.submit(_input(A)))
    assert not any(isinstance(reply, Rejected) for reply in _told(decision))
    assert await scene.states() == {A: "pending", C: "waiting"}


async def test_a_run_of_another_project_is_no_input(scene: Scene) -> None:
    await scene.apply(
        build.register(build.spec("other"), project="q"),
        build.submit(build.submission(D, "q:other:1")),
    )
    [told] = _told(await scene.submit(_asked(C, D)))
    assert isinstance(told, Rejected)
    assert told.code == "invalid"
    assert told.message.endswith("it is not of the project 'p'.")


async def test_for_users_of_one_project_an_input_of_another_is_one_that_never_comes(
    scene: Scene,
) -> None:
    await scene.apply(
        build.register(build.spec("other"), project="q"),
        build.submit(build.submission(D, "q:other:1")),
    )
    refusals: list[Rejected] = []
    for made in (D, B):
        asked = _asked(C, made).model_copy(update={"project": "p", "confined": True})
        [told] = _told(await scene.submit(asked))
        assert isinstance(told, Rejected)
        refusals.append(told)
    there, nowhere = refusals
    assert there.code == nowhere.code == "unready"
    assert there.message.replace(D, B) == nowhere.message


# -- failing --------------------------------------------------------------------------------------


async def test_who_needs_what_failed_fails_and_says_which(scene: Scene) -> None:
    await scene.submit(_input(A), _input(B), _asked(C, A, B))
    [told] = _told(await scene.fail(A))
    assert isinstance(told, Finished)
    assert (told.run, told.state, told.blames) == (C, "failed", A)
    assert told.failure is not None
    assert told.failure.type == "leveret.errors.InputFailed"
    assert told.failure.message == (
        f"run {C} was not executed, because its input {A} of p:fit:0.1 failed: ValueError: no"
    )
    assert await scene.states() == {A: "failed", B: "pending", C: "failed"}
    assert await scene.waits_for(C) == 0
    assert _published(await scene.end(B)) == []


async def test_a_failure_goes_along_the_whole_chain(scene: Scene) -> None:
    await scene.submit(_input(A), _input(B, A), _input(C, B), _asked(D, C))
    [told] = _told(await scene.fail(A))
    assert isinstance(told, Finished)
    assert (told.run, told.blames) == (D, C)
    assert told.failure is not None
    assert told.failure.message.endswith(f"{A} of p:fit:0.1 failed: ValueError: no")
    assert set((await scene.states()).values()) == {"failed"}


async def test_an_input_that_had_failed_fails_the_run_at_once(scene: Scene) -> None:
    await scene.submit(_input(A))
    await scene.fail(A)
    [told] = _told(await scene.submit(_asked(C, A)))
    assert isinstance(told, Finished)
    assert (told.run, told.state, told.blames) == (C, "failed", A)


async def test_an_input_that_was_cancelled_or_lost_fails_the_run(scene: Scene) -> None:
    impatient = RunOptions(lost_retries=0)
    lost = _input(B).model_copy(update={"options": impatient})
    await scene.submit(_input(A), lost, _asked(C, A), _asked(D, B))
    cancelled = _told(await scene.apply(Cancel(session="s", request="c", runs=(A,))))
    [told] = [reply for reply in cancelled if isinstance(reply, Finished)]
    assert told.failure is not None
    assert told.failure.message.endswith(f"its input {A} of p:fit:0.1 was cancelled")
    await scene.apply(build.started(B))
    await scene.apply(Orphan(run=B, attempt=1, worker="w"))
    assert await scene.states() == {A: "cancelled", B: "failed", C: "failed", D: "failed"}


async def test_the_end_of_a_failed_run_still_says_which_input_it_was(scene: Scene) -> None:
    await scene.submit(_input(A), _asked(C, A))
    await scene.fail(A)
    facts = await scene.catalog.load(
        needs_of([build.submit(_asked(C, A))]), alive=Liveness(since=0)
    )
    assert [end.blames for end in facts.ended] == [A]


# -- rounds and retries ---------------------------------------------------------------------------


async def _retry_root(scene: Scene) -> None:
    await scene.apply(build.started(ROOT))
    await scene.fail(ROOT)
    await scene.apply(Retry(session="s", request="again", run=ROOT))


async def test_a_later_round_makes_both_again(scene: Scene) -> None:
    await scene.submit(_input(A), _asked(C, A))
    await scene.fail(A)
    await _retry_root(scene)
    await scene.submit(_input(A, round=2), _asked(C, A, round=2))
    assert await scene.states() == {A: "pending", C: "waiting"}
    assert _published(await scene.end(A, attempt=2)) == [C]


async def test_a_later_round_may_come_before_that_of_its_inputs(scene: Scene) -> None:
    await scene.submit(_input(A), _asked(C, A))
    await scene.fail(A)
    await _retry_root(scene)
    for asked in (_asked(C, A, round=2), _asked(D, A, round=2)):
        [told] = _told(await scene.submit(asked))
        assert isinstance(told, Rejected)
        assert told.code == "unready"
    assert await scene.states() == {A: "failed", C: "failed"}
    await scene.submit(_input(A, round=2), _asked(C, A, round=2), _asked(D, A, round=2))
    assert await scene.states() == {A: "pending", C: "waiting", D: "waiting"}


async def test_an_input_that_fails_again_fails_the_later_round(scene: Scene) -> None:
    await scene.submit(_input(A), _asked(C, A))
    await scene.fail(A)
    await _retry_root(scene)
    await scene.submit(_input(A, round=2))
    await scene.fail(A, attempt=2)
    told = _told(await scene.submit(_asked(C, A, round=2)))
    assert {reply.blames for reply in told if isinstance(reply, Finished)} == {A}


async def test_retries_of_a_run_keep_its_inputs(scene: Scene) -> None:
    await scene.submit(_input(A), _asked(C, A, options=PARKING))
    await scene.end(A, result=b"a")
    await scene.fail(C)
    await scene.apply(Retry(session="s", request="r", run=C))
    [pending] = await scene.catalog.pending_named([C])
    assert (pending.run.attempt, pending.inputs) == (2, (Input(run=A, result=b"a"),))


async def test_retrying_a_run_retries_the_inputs_that_it_failed_for(scene: Scene) -> None:
    await scene.submit(_input(A), _input(B, A), _input(D), _asked(C, B, D))
    await scene.end(D)
    await scene.fail(A)
    decision = await scene.apply(Retry(session="s", request="r", run=C))
    [told] = _told(decision)
    assert isinstance(told, Retried)
    assert _published(decision) == [A]
    assert await scene.states() == {A: "pending", B: "waiting", C: "waiting", D: "succeeded"}
    assert _published(await scene.end(A, attempt=2)) == [B]
    assert _published(await scene.end(B, attempt=2)) == [C]


async def test_what_waits_for_inputs_can_be_moved_but_not_retried(scene: Scene) -> None:
    await scene.submit(_input(A), _asked(C, A))
    [told] = _told(await scene.apply(Retry(session="s", request="r", run=C)))
    assert isinstance(told, Refused)
    assert "can't be retried: it is waiting" in told.message
    await scene.apply(build.register(build.spec("fit", kind="task", version="0.2")))
    await scene.apply(Retry(session="s", request="m", run=C, version="0.2"))
    assert await scene.states() == {A: "pending", C: "waiting"}
    await scene.end(A)
    [pending] = await scene.catalog.pending_named([C])
    assert pending.queue == "p:fit:0.2"


# -- stopping -------------------------------------------------------------------------------------


def _cancel(*runs: str) -> Cancel:
    return Cancel(session="s", request="c", runs=runs)


async def test_stopping_a_run_stops_what_was_made_for_it_alone(scene: Scene) -> None:
    await scene.submit(_input(A), _input(B, A), _input(D), _asked(C, B, D))
    await scene.submit(_asked(D))  # somebody awaits this one
    decision = await scene.apply(_cancel(C))
    assert await scene.states() == {A: "cancelled", B: "cancelled", C: "cancelled", D: "pending"}
    assert Cancelled(request="c", runs=(C, B, A)) in _told(decision)
    assert {stop.run for stop in decision.stops} == {A}


async def test_stopping_a_run_leaves_what_another_one_waits_for(scene: Scene) -> None:
    await scene.submit(_input(A), _asked(B, A), _asked(C, A))
    await scene.apply(_cancel(B))
    assert await scene.states() == {A: "pending", B: "cancelled", C: "waiting"}
    await scene.apply(_cancel(C))
    assert await scene.states() == {A: "cancelled", B: "cancelled", C: "cancelled"}


async def test_what_an_input_has_called_is_stopped_with_it(scene: Scene) -> None:
    first = build.submission(A, parent=ROOT, is_input=True)
    await scene.submit(first, _asked(C, A))
    await scene.submit(build.submission(B, "p:fit:0.1", parent=A))
    await scene.apply(_cancel(C))
    assert await scene.states() == {A: "cancelled", B: "cancelled", C: "cancelled"}


async def test_inputs_of_a_run_that_never_came_are_stopped_if_nobody_needs_them(
    scene: Scene,
) -> None:
    await scene.submit(_input(A), _input(B), _asked(D, B))
    await scene.apply(Cancel(session="s", runs=(C,), unneeded=(A, B)))
    assert await scene.states() == {A: "cancelled", B: "pending", D: "waiting"}


async def test_stopping_the_whole_tree_cancels_all_and_fails_none(scene: Scene) -> None:
    await scene.submit(_input(A), _input(B, A), _asked(C, B))
    await scene.apply(_cancel(ROOT))
    assert set((await scene.states()).values()) == {"cancelled"}


async def test_a_total_timeout_counts_from_the_submission_and_stops_the_inputs(
    scene: Scene,
) -> None:
    impatient = RunOptions(total_timeout=60, queue_timeout=5)
    made = await scene.submit(_input(A), _asked(C, A, options=impatient))
    assert [(timer.run, timer.kind) for timer in made.timers] == [(C, "total")]
    await scene.apply(Timer(run=C, kind="total", due_at=build.NOW + 60))
    assert await scene.states() == {A: "cancelled", C: "failed"}


async def test_a_queue_timeout_counts_from_the_publication(scene: Scene) -> None:
    await scene.submit(_input(A), _asked(C, A, options=RunOptions(queue_timeout=5)))
    opened = await scene.apply(build.outcomes(build.outcome(A)), now=build.NOW + 100)
    [timer] = opened.timers
    assert (timer.run, timer.kind, timer.due_at) == (C, "queue", build.NOW + 105)


# -- cost -----------------------------------------------------------------------------------------


async def test_a_batch_without_inputs_asks_nothing_about_them(scene: Scene) -> None:
    asked: list[str] = []
    catalog = scene.catalog
    rows = catalog.rows

    async def counting(statement: str, **parameters: object) -> list[object]:
        asked.append(statement)
        return await rows(statement, **parameters)

    catalog.rows = counting  # type: ignore[method-assign]
    await scene.submit(build.submission(A, "p:fit:0.1", parent=ROOT))
    await scene.end(A)
    await scene.apply(_cancel(ROOT))
    await catalog.pending_named([A])
    assert not {"dependents_of", "all_dependents_of", "missing_inputs", "input_results"} & {*asked}


async def test_a_run_with_thousands_of_inputs_and_an_input_of_thousands(scene: Scene) -> None:
    many = [build.run_id(number) for number in range(100, 2100)]
    await scene.submit(*(_input(run) for run in many))
    await scene.submit(_input(A, *many))
    for start in range(0, len(many), 200):
        await scene.apply(
            build.outcomes(*(build.outcome(run, result=b"r") for run in many[start : start + 200]))
        )
    [pending] = await scene.catalog.pending_named([A])
    assert len(pending.inputs) == 2000
    others = [build.run_id(number) for number in range(3000, 5000)]
    await scene.submit(*(_asked(run, A) for run in others))
    assert len(_published(await scene.end(A))) == 2000
