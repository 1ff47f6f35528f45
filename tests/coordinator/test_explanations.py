"""`leveret why RUN`: each cause in its exact words."""

from collections.abc import AsyncIterator

import pytest

from leveret_broker import topology
from leveret_broker.memory import MemoryBroker
from leveret_broker.messages import (
    Cancel,
    Explain,
    Explanation,
    Failure,
    Recorded,
    Refused,
    Reply,
    RetryPolicy,
    RunOptions,
    Submission,
    Submit,
    Target,
)
from leveret_broker.transport import Outgoing, Transport
from leveret_coordinator import explanations
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.records import STEP, Confirmed
from tests.coordinator import build, peers

R1, R2, R3, R4 = (build.run_id(number) for number in range(1, 5))
AT = "13:46:40 UTC"
"""`build.NOW`, at which everything happens."""
PARKING = RunOptions(
    retry=RetryPolicy(max=1, initial=600, factor=1, cap=600, jitter=0, then="park")
)


class _Scene:
    def __init__(self, catalog: Catalog, transport: Transport) -> None:
        self.catalog = catalog
        self.transport = transport
        self.ids: dict[str, str] = {}

    async def prepare(self) -> None:
        fit = build.spec("fit", kind="task", version="0.1")
        await build.apply(self.catalog, build.register(build.spec("flow"), fit))
        found = await self.catalog.definitions(names=["flow", "fit"])
        self.ids = {definition.name: definition.id for definition in found}

    async def submit(
        self, run: str, target: str = "p:fit:0.1", *, parent: str | None = None
    ) -> None:
        asked = build.submission(run, target, parent=parent, options=PARKING)
        await build.apply(self.catalog, build.submit(asked))

    async def queue(
        self, run: str, target: str = "p:fit:0.1", *, parent: str | None = None
    ) -> None:
        await self.submit(run, target, parent=parent)
        published = Confirmed(published=(build.published(run),))
        await self.catalog.confirm(published, now=build.NOW)
        await self.transport.declare(topology.DEAD, topology.work_queue(target))
        await self.transport.publish(Outgoing(body=b"x", queue=target))

    async def serve(self, *names: str, worker: str = "w", busy: int = 1) -> None:
        beat = build.heartbeat(*(self.ids[name] for name in names), worker=worker)
        await build.apply(self.catalog, beat.model_copy(update={"busy": busy}))

    async def ask(self, run: str = R1, *, later: float = 0.0, project: str | None = None) -> Reply:
        return await explanations.answer(
            Explain(session="s", request="why", run=run, project=project),
            self.catalog,
            self.transport,
            now=build.NOW + later,
            alive_since=build.NOW + later - 20,
        )

    async def why(self, run: str = R1, *, later: float = 0.0) -> str:
        told = await self.ask(run, later=later)
        assert isinstance(told, Explanation)
        assert (told.request, told.run) == ("why", run)
        return told.text


@pytest.fixture
async def scene(catalog: Catalog, broker: MemoryBroker) -> AsyncIterator[_Scene]:
    async with peers.connected(broker) as transport:
        scene = _Scene(catalog, transport)
        await scene.prepare()
        yield scene


# -- queued ---------------------------------------------------------------------------------------


async def test_a_run_that_no_worker_has_ever_served(scene: _Scene) -> None:
    await scene.queue(R1)
    assert await scene.why() == (
        f"Run {R1} of p:fit:0.1 waits in its queue, and no worker has served p:fit:0.1 in the "
        "last day."
    )


@pytest.mark.parametrize(
    ("later", "ago"),
    [(45, "45 s"), (12 * 60, "12 min"), (3 * 3600, "3 h"), (3 * 86400, "3 days")],
)
async def test_a_run_whose_worker_was_last_seen_some_time_ago(
    scene: _Scene, later: float, ago: str
) -> None:
    await scene.queue(R1)
    await scene.serve("fit")
    assert await scene.why(later=later) == (
        f"Run {R1} of p:fit:0.1 waits in its queue, and no worker serves p:fit:0.1, last seen on "
        f"host (process 7) {ago} ago."
    )


async def test_a_run_for_which_the_one_worker_has_no_slot_left(scene: _Scene) -> None:
    await scene.queue(R1)
    await scene.serve("fit", "flow", busy=4)
    for run in (R2, R3):
        await scene.queue(run)
        await build.apply(scene.catalog, build.started(run))
    assert await scene.why(later=5) == (
        f"Run {R1} of p:fit:0.1 waits in its queue since {AT} (5 s ago), with 3 invocations that "
        "no worker has taken yet. The slots of the one worker that serves it are taken by 2 runs "
        "of p:fit:0.1."
    )


async def test_a_run_for_which_no_worker_has_a_slot_left(scene: _Scene) -> None:
    await scene.queue(R1)
    for worker in ("w1", "w2"):
        await scene.serve("fit", worker=worker, busy=4)
    await scene.queue(R2)
    await build.apply(scene.catalog, build.started(R2, worker="w2"))
    assert await scene.why(later=5) == (
        f"Run {R1} of p:fit:0.1 waits in its queue since {AT} (5 s ago), with 2 invocations that "
        "no worker has taken yet. The slots of all 2 workers that serve it are taken by 1 run of "
        "p:fit:0.1."
    )


async def test_a_run_that_a_worker_with_free_slots_could_take(scene: _Scene) -> None:
    await scene.queue(R1)
    await scene.serve("fit")
    text = await scene.why(later=5)
    assert text == (
        f"Run {R1} of p:fit:0.1 waits in its queue since {AT} (5 s ago), with 1 invocation that "
        "no worker has taken yet. 1 worker could take it: host (process 7) (1 of 4 slots taken). "
        "`leveret workers` shows more."
    )


# -- the other states -----------------------------------------------------------------------------


async def test_a_run_whose_invocation_is_not_confirmed(scene: _Scene) -> None:
    await scene.submit(R1)
    assert await scene.why() == (
        f"Run {R1} of p:fit:0.1 is kept, but its invocation is not yet confirmed by the broker: "
        "it is published again until it is."
    )


async def test_a_run_that_waits_for_a_retry(scene: _Scene) -> None:
    await scene.queue(R1)
    await build.apply(scene.catalog, build.outcomes(build.outcome(R1, "failed")))
    assert await scene.why() == (
        f"Run {R1} of p:fit:0.1 waits for a retry at 13:56:40 UTC (in 10 min), because attempt 1 "
        "failed by ValueError: no."
    )


async def test_a_run_that_is_parked(scene: _Scene) -> None:
    await scene.queue(R1)
    await build.apply(scene.catalog, build.outcomes(build.outcome(R1, "failed")))
    due = await scene.catalog.timers_due(now=build.NOW + 600, most=10)
    await build.apply(scene.catalog, *due)
    long = Failure(type="app.Odd", message="first line\nsecond line")
    told = build.outcome(R1, "failed", attempt=2).model_copy(update={"failure": long})
    await build.apply(scene.catalog, build.outcomes(told))
    assert await scene.why() == (
        f"Run {R1} of p:fit:0.1 is parked after 2 attempts, the last of which failed by app.Odd: "
        f"first line. `leveret runs resume {R1}` goes on with it, `leveret runs cancel` gives it "
        "up."
    )


async def test_a_run_that_is_executed(scene: _Scene) -> None:
    await scene.queue(R1)
    await scene.serve("fit")
    await build.apply(scene.catalog, build.started(R1))
    assert await scene.why(later=10.5) == (
        f"Run {R1} of p:fit:0.1 is being executed in attempt 1 by w on host since {AT} (10 s "
        "ago). That worker was last heard 10 s ago."
    )
    silent = await scene.why(later=120.5)
    assert silent.endswith("That worker is silent or gone, last heard 2 min ago.")


async def test_a_run_that_is_executed_by_a_worker_that_the_catalog_does_not_know(
    scene: _Scene,
) -> None:
    await scene.queue(R1)
    await build.apply(scene.catalog, build.started(R1))
    assert await scene.why(later=10.5) == (
        f"Run {R1} of p:fit:0.1 is being executed in attempt 1 by w since {AT} (10 s ago)."
    )


async def test_runs_that_have_ended(scene: _Scene) -> None:
    for run in (R1, R2):
        await scene.queue(run)
    await build.apply(scene.catalog, build.outcomes(build.outcome(R1)))
    await build.apply(scene.catalog, Cancel(session="s", runs=(R2,)))
    assert await scene.why(R1, later=61) == (
        f"Run {R1} of p:fit:0.1 succeeded at 13:46:41 UTC (1 min ago)."
    )
    assert await scene.why(R2) == f"Run {R2} of p:fit:0.1 was cancelled at {AT} (0 s ago)."


async def test_a_run_that_failed(scene: _Scene) -> None:
    await build.apply(scene.catalog, build.submit(build.submission(R1, "p:fit:0.1")))
    await build.apply(scene.catalog, build.outcomes(build.outcome(R1, "failed")))
    assert await scene.why(later=60) == (
        f"Run {R1} of p:fit:0.1 failed at {AT} (1 min ago) by ValueError: no."
    )


# -- along what waits for what --------------------------------------------------------------------


def _sleep(run: str, parent: str) -> Submit:
    step = Submission(
        run=run,
        target=Target(kind="step", name=STEP),
        project="p",
        arguments=b"",
        parent=parent,
        recorded=Recorded(name="leveret.sleep", result=b"", delay=3600.0),
    )
    return Submit(session="s", submissions=(step,))


async def _flow(scene: _Scene, run: str, parent: str | None = None) -> None:
    """A workflow run that executes."""
    await scene.queue(run, "p:flow:1", parent=parent)
    await scene.serve("flow")
    await build.apply(scene.catalog, build.started(run))


async def test_a_workflow_that_sleeps(scene: _Scene) -> None:
    await _flow(scene, R1)
    await build.apply(scene.catalog, _sleep(R2, R1))
    told = await scene.ask()
    assert isinstance(told, Explanation)
    assert told.text == (
        f"Run {R1} of p:flow:1 waits for what it called. Run {R2} of the step leveret.sleep is "
        "over at 14:46:40 UTC (in 1 h)."
    )
    assert (told.state, told.chain) == ("running", (R1, R2))


async def test_the_cause_is_looked_for_all_the_way_down(scene: _Scene) -> None:
    await _flow(scene, R1)
    await _flow(scene, R2, parent=R1)
    await scene.submit(R3, parent=R2)
    told = await scene.ask()
    assert isinstance(told, Explanation)
    assert told.text == (
        f"Run {R1} of p:flow:1 waits for what it called. "
        f"Run {R2} of p:flow:1 waits for what it called. "
        f"Run {R3} of p:fit:0.1 is kept, but its invocation is not yet confirmed by the broker: "
        "it is published again until it is."
    )
    assert told.chain == (R1, R2, R3)


async def test_of_several_the_one_that_needs_a_person_is_told(scene: _Scene) -> None:
    await _flow(scene, R1)
    for run in (R2, R3, R4):
        await scene.queue(run, parent=R1)
    await build.apply(scene.catalog, build.outcomes(build.outcome(R3, "failed")))
    for due in await scene.catalog.timers_due(now=build.NOW + 600, most=10):
        await build.apply(scene.catalog, due)
    await build.apply(scene.catalog, build.outcomes(build.outcome(R3, "failed", attempt=2)))
    told = await scene.ask()
    assert isinstance(told, Explanation)
    assert told.chain == (R1, R3)
    assert told.text.startswith(
        f"Run {R1} of p:flow:1 waits for 3 that it called, such as {R3}. "
        f"Run {R3} of p:fit:0.1 is parked after 2 attempts"
    )


async def test_a_workflow_whose_calls_have_all_ended_is_executed_itself(scene: _Scene) -> None:
    await _flow(scene, R1)
    await scene.queue(R2, parent=R1)
    await build.apply(scene.catalog, build.outcomes(build.outcome(R2)))
    told = await scene.ask()
    assert isinstance(told, Explanation)
    assert told.chain == (R1,)
    assert told.text.startswith(f"Run {R1} of p:flow:1 is being executed in attempt 1 by w on host")


# -- what can't be told ---------------------------------------------------------------------------


async def test_an_unknown_run_is_refused(scene: _Scene) -> None:
    refused = await scene.ask(R4)
    assert isinstance(refused, Refused)
    assert (refused.request, refused.code) == ("why", "unknown-run")


async def test_a_run_of_another_project_is_refused(scene: _Scene) -> None:
    await scene.submit(R1)
    refused = await scene.ask(R1, project="q")
    assert isinstance(refused, Refused)
    assert refused.code == "unknown-run"
    assert "There is no run" in refused.message
    assert isinstance(await scene.ask(R1, project="p"), Explanation)
