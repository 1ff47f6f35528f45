"""A worker and its coordinator: joining, being told, losing the connection, leaving."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest

from leveret import define
from leveret_broker import topology
from leveret_broker.messages import Control, Stop, Verdict
from leveret_broker.transport import Delivery
from leveret_worker.membership import JOIN_EVERY
from tests.worker import sites
from tests.worker.clocks import settle
from tests.worker.sites import invocation

HOLD = "p:hold_by_name:0"
FLOW = "p:flow:1"


class Held:
    """What the code under execution did, and whether it may end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.unwound: list[str] = []
        self.may_end = threading.Event()

    def forget(self) -> None:
        self.begun.clear()
        self.unwound.clear()
        self.may_end.clear()


held = Held()


@pytest.fixture(autouse=True)
def a_clean_slate() -> None:
    held.forget()


@define.task(name="hold_by_name")
async def hold(name: str) -> str:
    held.begun.append(name)
    try:
        await asyncio.Future()
    finally:
        held.unwound.append(name)
    return name


@define.workflow
async def flow(name: str) -> str:
    result: str = await hold.fn(name)
    return result


@define.task
async def stubborn(name: str) -> str:
    held.begun.append(name)
    while not held.may_end.is_set():
        with suppress(asyncio.CancelledError):
            await asyncio.to_thread(held.may_end.wait)
    return name


class Site(sites.Site):
    """Its worker serves what is above. A run's id is its argument."""

    def __init__(self) -> None:
        super().__init__([hold, flow, stubborn])

    async def submit_runs(self, *runs: str, queue: str = HOLD, **fields: Any) -> None:
        invocations = [invocation(run, [run], **fields) for run in runs]
        await self.coordinator.submit(queue, *invocations)

    async def execute(self, run: str, queue: str = HOLD) -> None:
        """Submit a run and wait until its code runs."""
        await self.submit_runs(run, queue=queue)
        await self.until(lambda: run in held.begun)


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    made = Site()
    await made.start()
    yield made
    await made.stop()


# -- joining --------------------------------------------------------------------------------------


async def test_it_joins_before_it_takes_any_work() -> None:
    site = Site()
    site.coordinator.lets_in = False
    await site.coordinator.start()
    starting = asyncio.ensure_future(site.start_worker())
    await site.coordinator.until(lambda: site.coordinator.joins)
    await settle()
    assert "register" not in site.coordinator.said
    assert await site.coordinator.transport.inspect(HOLD) is None
    await site.coordinator.let_in(site.worker.id)
    await starting
    status = await site.coordinator.transport.inspect(HOLD)
    assert status is not None
    assert status.consumers == 1
    await site.stop()


async def test_it_asks_until_a_coordinator_answers() -> None:
    site = Site()
    site.coordinator.lets_in = False
    await site.coordinator.start()
    starting = asyncio.ensure_future(site.start_worker())
    await site.coordinator.until(lambda: site.coordinator.joins)
    await site.clock.let_pass(20 * JOIN_EVERY)
    assert len(site.coordinator.joins) == 21
    await site.coordinator.let_in(site.worker.id)
    await starting
    await site.clock.let_pass(20 * JOIN_EVERY)
    assert len(site.coordinator.joins) == 21
    await site.stop()


async def test_a_worker_that_is_stopped_while_it_waits_to_be_let_in_leaves() -> None:
    site = Site()
    site.coordinator.lets_in = False
    await site.coordinator.start()
    starting = asyncio.ensure_future(site.start_worker())
    await site.coordinator.until(lambda: site.coordinator.joins)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await site.coordinator.until(lambda: "goodbye" in site.coordinator.said)
    await site.coordinator.stop()


async def test_it_says_who_it_is_when_it_joins(site: Site) -> None:
    join = site.coordinator.joins[0].join
    assert join is not None
    assert (join.worker, join.project, join.slots) == (site.worker.id, "p", 1)
    assert site.coordinator.claims == []


# -- being told -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_for_all", [True, False])
async def test_it_stops_what_it_is_told_to_stop(site: Site, is_for_all: bool) -> None:
    await site.execute("a")
    control = Control(stop=(Stop(run="a", attempt=1),))
    if is_for_all:
        await site.coordinator.tell_all(control)
    else:
        await site.coordinator.tell(site.worker.id, control)
    await site.until(lambda: held.unwound == ["a"])
    await site.execute("b")
    await site.coordinator.until(lambda: site.coordinator.ends == {"a": "stopped"})


async def test_what_it_claims_starts_when_that_is_granted(site: Site) -> None:
    await site.submit_runs("a", again=True)
    await site.coordinator.until(lambda: site.coordinator.claims)
    assert held.begun == []
    verdict = Verdict(run="a", attempt=1, granted=2)
    await site.coordinator.tell(site.worker.id, Control(verdicts=(verdict,)))
    await site.until(lambda: held.begun == ["a"])


async def test_it_says_what_it_holds_of_each_definition(site: Site) -> None:
    await site.execute("a")
    await site.submit_runs("b", "c")
    await site.submit_runs("d", queue=FLOW)
    await site.until(lambda: "d" in held.begun)
    await site.clock.let_pass(5)
    await site.coordinator.until(
        lambda: site.coordinator.heartbeats[-1].held == {f"id of {HOLD}": 1, f"id of {FLOW}": 1}
    )
    await site.clock.let_pass(60)  # what executes is leased by now, so that more is handed out
    await site.coordinator.until(
        lambda: site.coordinator.heartbeats[-1].held == {f"id of {HOLD}": 2}
    )


# -- a lost connection ----------------------------------------------------------------------------


async def test_it_joins_again_and_claims_what_executes(site: Site) -> None:
    await site.execute("a")
    started_at = site.clock.now()
    site.broker.drop_connections()
    await site.coordinator.until(lambda: len(site.coordinator.joins) == 2)
    (claim,) = site.coordinator.joins[1].claims
    assert (claim.run, claim.attempt, claim.executing) == ("a", 1, True)
    assert claim.started_at == started_at


async def test_what_executes_and_is_refused_is_stopped(site: Site) -> None:
    await site.execute("a")
    site.broker.drop_connections()
    await site.coordinator.until(lambda: len(site.coordinator.joins) == 2)
    verdict = Verdict(run="a", attempt=1, granted=None)
    await site.coordinator.tell(site.worker.id, Control(verdicts=(verdict,)))
    await site.until(lambda: held.unwound == ["a"])
    await site.execute("b")
    await site.coordinator.until(lambda: site.coordinator.ends == {"a": "stopped"})


async def test_what_waits_goes_back_and_is_claimed_when_it_comes_again(site: Site) -> None:
    await site.submit_runs("a", "b")
    await site.until(lambda: held.begun == ["a"])
    site.broker.drop_connections()
    await site.coordinator.until(lambda: len(site.coordinator.joins) == 2)
    await site.coordinator.tell_all(Control(stop=(Stop(run="a", attempt=1),)))
    claim = await site.coordinator.until(
        lambda: [claim for claim in site.coordinator.claims if claim.run == "b"]
    )
    assert claim[0].handed_out
    assert held.begun == ["a"]


async def test_what_waits_is_left_to_whoever_gets_it_next(site: Site) -> None:
    await site.submit_runs("a", "b")
    await site.until(lambda: held.begun == ["a"])
    others: list[Delivery] = []
    await site.coordinator.transport.consume(HOLD, others.append, prefetch=0)
    site.broker.drop_connections()
    await site.coordinator.until(lambda: len(site.coordinator.joins) == 2)
    await site.coordinator.tell_all(Control(stop=(Stop(run="a", attempt=1),)))
    await site.until(lambda: held.unwound == ["a"])
    await site.execute("c", queue=FLOW)
    assert len(others) == 1
    assert held.begun == ["a", "c"]
    assert {claim.run for claim in site.coordinator.claims} == {"a"}


async def test_until_it_is_let_in_again_it_claims_what_arrives(site: Site) -> None:
    site.coordinator.lets_in = False
    site.broker.drop_connections()
    await site.coordinator.until(lambda: len(site.coordinator.joins) == 2)
    await site.submit_runs("a")
    await site.coordinator.until(lambda: site.coordinator.claims)
    await site.coordinator.let_in(site.worker.id)
    await site.execute("b", queue=FLOW)
    assert held.begun == ["b"]


@pytest.mark.parametrize("nonce", [None, "", "0" * 32])
async def test_a_generation_that_answers_no_question_changes_nothing(
    site: Site, nonce: str | None
) -> None:
    forged = Control(generation=2**62, nonce=nonce)
    await site.coordinator.tell(site.worker.id, forged)
    await site.execute("a")
    assert not site.coordinator.claims, "it starts without a question, as ever"
    site.coordinator.lets_in = False
    site.broker.drop_connections()
    await site.coordinator.until(lambda: len(site.coordinator.joins) == 2)
    await site.coordinator.tell(site.worker.id, forged)
    await site.submit_runs("b", queue=FLOW)
    await site.coordinator.until(lambda: "b" in {each.run for each in site.coordinator.claims})


async def test_an_answer_from_before_a_lost_connection_lets_nobody_in(site: Site) -> None:
    before = site.coordinator.joins[-1].join
    assert before is not None
    site.coordinator.lets_in = False
    site.broker.drop_connections()
    await site.coordinator.until(lambda: len(site.coordinator.joins) == 2)
    late = Control(generation=site.coordinator.generation, nonce=before.nonce)
    await site.coordinator.tell(site.worker.id, late)
    await site.submit_runs("a")
    await site.coordinator.until(lambda: site.coordinator.claims)
    await site.coordinator.let_in(site.worker.id)
    await site.execute("b", queue=FLOW)


async def test_claims_are_made_again_after_a_lost_connection(site: Site) -> None:
    await site.submit_runs("a", again=True)
    await site.coordinator.until(lambda: site.coordinator.claims)
    site.broker.drop_connections()
    await site.coordinator.until(lambda: len(site.coordinator.claims) == 2)
    assert held.begun == []


# -- a stopped process ----------------------------------------------------------------------------


async def test_a_worker_that_was_stopped_for_a_while_joins_again(site: Site) -> None:
    await site.execute("a")
    site.clock.jump(10)
    await site.coordinator.until(lambda: len(site.coordinator.joins) == 2)
    assert [claim.run for claim in site.coordinator.joins[1].claims] == ["a"]


# -- leaving --------------------------------------------------------------------------------------


async def test_what_executes_when_it_leaves_is_returned_and_acknowledged(site: Site) -> None:
    await site.execute("a", queue=FLOW)
    await site.execute("b")
    await site.submit_runs("c")
    await settle()
    stopping = asyncio.ensure_future(site.worker.stop(grace=0))
    await site.coordinator.until(lambda: "goodbye" in site.coordinator.said)
    await stopping
    assert site.coordinator.ends == {"a": "returned", "b": "returned"}
    for queue, left in ((FLOW, 0), (HOLD, 1)):
        status = await site.coordinator.transport.inspect(queue)
        assert status is not None
        assert status.messages == left


async def test_what_was_on_its_way_when_it_stopped_consuming_goes_back(site: Site) -> None:
    await site.execute("a")
    stopping = asyncio.ensure_future(site.worker.stop(grace=1000))
    await settle()
    arrived: list[Delivery] = []
    await site.coordinator.transport.consume(HOLD, arrived.append, prefetch=0)
    await site.submit_runs("b")
    await settle()
    site.transport.callbacks[HOLD](arrived[0])
    await settle()
    assert [delivery.redelivered for delivery in arrived] == [False, True]
    await site.coordinator.tell_all(Control(stop=(Stop(run="a", attempt=1),)))
    await stopping
    assert held.begun == ["a"]
    assert site.coordinator.ends == {"a": "stopped"}


async def test_it_listens_until_it_has_left(site: Site) -> None:
    await site.execute("a")
    stopping = asyncio.ensure_future(site.worker.stop(grace=1000))
    await settle()
    control = topology.control_queue(site.worker.id).name
    status = await site.coordinator.transport.inspect(control)
    assert status is not None
    assert status.consumers == 1
    await site.coordinator.tell_all(Control(stop=(Stop(run="a", attempt=1),)))
    await stopping
    assert await site.coordinator.transport.inspect(control) is None


async def test_code_that_will_not_end_does_not_keep_it_from_leaving(site: Site) -> None:
    async def let_it_end_when_it_is_returned() -> None:
        await site.coordinator.until(lambda: site.coordinator.ends == {"a": "returned"})
        held.may_end.set()

    await site.execute("a", queue="p:stubborn:0")
    stopping = asyncio.ensure_future(site.worker.stop(grace=0))
    ending = asyncio.ensure_future(let_it_end_when_it_is_returned())
    async with asyncio.timeout(10):
        while not ending.done():
            await site.clock.let_pass(1)
    await ending
    await stopping


async def test_without_a_broker_it_leaves_and_its_runs_come_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant in ("REPORT_SECONDS", "GOODBYE_SECONDS"):
        monkeypatch.setattr(f"leveret_worker.service.{constant}", 0.05)
    await site.execute("a")
    site.broker.block()
    await site.worker.stop(grace=0)
    await site.transport.close()
    status = await site.coordinator.transport.inspect(HOLD)
    assert status is not None
    assert status.messages == 1
    site.broker.unblock()
    assert site.coordinator.ends == {}
