"""A worker that serves what is shipped: asks for it, and lets go of what is not used."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from leveret.errors import CoordinatorUnreachable
from leveret_broker import messages
from leveret_broker.messages import CodeRef, DefinitionRecord
from leveret_worker.code import Shipped
from leveret_worker.generic import ASK_EVERY, Generic
from tests.worker.clocks import HandClock, settle

PAGE = 2


def record(name: str) -> DefinitionRecord:
    return DefinitionRecord(
        id=f"task_{name}",
        project="p",
        kind="task",
        name=name,
        version="0",
        queue=f"p:{name}:0",
        code=CodeRef(digest=f"code of {name}", index=0, place="process"),
    )


class Site:
    """A coordinator that answers from a set of names, and a worker that notes what it consumes."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.in_use: set[str] = set()
        self.own: set[str] = set()
        self.busy: set[str] = set()
        self.events: list[str] = []
        self.is_down = False
        self.when_told: Callable[[], None] = lambda: None
        self.when_closing: Callable[[], None] = lambda: None
        self.generic = Generic(self, self.ask, self.clock)

    async def ask(self, after: str) -> messages.Shipped:
        if self.is_down:
            raise CoordinatorUnreachable("down")
        self.events.append("ask")
        found = [record(name) for name in sorted(self.in_use) if record(name).id > after]
        page = tuple(found[:PAGE])
        return messages.Shipped(request="r", definitions=page, has_more=len(found) > PAGE)

    def serves_itself(self, queue: str) -> bool:
        return queue in self.own

    def is_idle(self, queue: str) -> bool:
        return queue not in self.busy

    async def open_shipped(self, shipped: Shipped) -> None:
        self.events.append(f"open {shipped.name}")

    async def close_shipped(self, shipped: Shipped) -> None:
        self.events.append(f"close {shipped.name}")
        self.when_closing()

    async def tell(self) -> None:
        self.events.append("tell")
        self.when_told()

    def taken(self) -> list[str]:
        """What happened since the last time."""
        events, self.events = self.events, []
        return events

    @property
    def served(self) -> list[str]:
        return [shipped.name for shipped in self.generic.served.values()]


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    site = Site()
    yield site
    await site.generic.stop()


async def test_it_serves_what_was_shipped_before_it_started(site: Site) -> None:
    site.in_use = {"a", "b", "c"}
    await site.generic.start()
    assert site.served == ["a", "b", "c"]
    assert site.taken() == ["ask", "ask", "open a", "open b", "open c", "tell"]


async def test_it_asks_when_it_is_told_and_every_now_and_then(site: Site) -> None:
    await site.generic.start()
    site.in_use = {"a"}
    site.generic.refresh()
    await settle()
    assert site.served == ["a"]
    site.in_use = {"a", "b"}
    await site.clock.let_pass(ASK_EVERY)
    assert site.served == ["a", "b"]


async def test_a_coordinator_that_is_away_is_asked_again(site: Site) -> None:
    await site.generic.start()
    site.is_down = True
    site.generic.refresh()
    await settle()
    site.is_down, site.in_use = False, {"a"}
    await site.clock.let_pass(ASK_EVERY)
    assert site.served == ["a"]


async def test_what_the_worker_has_itself_is_not_opened_twice(site: Site) -> None:
    site.own, site.in_use = {"p:a:0"}, {"a", "b"}
    await site.generic.start()
    assert site.served == ["b"]


async def test_what_is_not_used_is_let_go_and_the_coordinator_asked_once_more(site: Site) -> None:
    site.in_use = {"a"}
    await site.generic.start()
    site.taken()
    site.in_use = set()
    site.generic.refresh()
    await settle()
    assert site.served == []
    assert site.taken() == ["ask", "close a", "tell", "ask", "tell"]


async def test_a_call_that_comes_while_a_queue_is_let_go_is_served(site: Site) -> None:
    site.in_use = {"a"}
    await site.generic.start()
    site.in_use = set()
    site.when_told = lambda: site.in_use.add("a")  # the last moment in which it counts as served
    site.generic.refresh()
    await settle()
    assert site.served == ["a"]


async def test_what_still_executes_is_not_let_go(site: Site) -> None:
    site.in_use = {"a"}
    await site.generic.start()
    site.in_use, site.busy = set(), {"p:a:0"}
    site.taken()
    site.generic.refresh()
    await settle()
    assert site.served == ["a"]
    assert site.taken() == ["ask"]
    site.busy = set()
    await site.clock.let_pass(ASK_EVERY)
    assert site.served == []


async def test_what_it_takes_in_the_last_moment_keeps_a_queue(site: Site) -> None:
    site.in_use = {"a"}
    await site.generic.start()
    site.taken()
    site.in_use = set()
    site.when_closing = lambda: site.busy.add("p:a:0")
    site.generic.refresh()
    await settle()
    assert site.served == ["a"]
    assert site.taken() == ["ask", "close a", "open a"]


async def test_it_stops_while_it_waits(site: Site) -> None:
    await site.generic.start()
    await asyncio.wait_for(site.generic.stop(), 5)
    await site.generic.stop()
