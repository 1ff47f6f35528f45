"""Removes stored payloads that nothing refers to any more.

Rules:

- What the catalog refers to is never removed.
- Nor is what is younger than the grace: it may be on its way here, in a message. Storing an object
  once more makes it young.
- On its way is also what waited while this coordinator was away, so there is no removal before it
  has listened for a whole grace without a break.
- A store belongs to one catalog. A second one would take for refuse what the first refers to.
- Looking and removing happen on threads; the catalog is asked by the coordinator's own task.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice

from leveret_broker import logs
from leveret_broker.blocking import in_thread
from leveret_broker.clock import Clock
from leveret_broker.errors import StoreError
from leveret_broker.objects import Found, Objects, open_objects
from leveret_broker.urls import redact
from leveret_coordinator.alarm import Alarm
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.errors import CatalogError

log = logs.get_logger("leveret.coordinator")

PAGE = 1000
"""Objects that are looked at, and then asked the catalog about, at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """What one round found."""

    objects: int = 0
    removed: int = 0
    freed: int = 0
    """Bytes."""

    def __add__(self, other: "Cleaned") -> "Cleaned":
        return Cleaned(
            objects=self.objects + other.objects,
            removed=self.removed + other.removed,
            freed=self.freed + other.freed,
        )


class Janitor:
    """Goes through a payload store now and then."""

    def __init__(
        self, url: str, clock: Clock, wake: Callable[[], None], *, grace: float, every: float
    ) -> None:
        """`grace`: seconds for which what is stored may be unknown. `every`: between rounds."""
        self._url = url
        self._clock = clock
        self._wake = wake
        self._grace = grace
        self._every = every
        self._alarm = Alarm(clock, wake)
        self._objects: Objects | None = None
        self._round: asyncio.Task[None] | None = None
        self._asked: tuple[list[str], asyncio.Future[set[str]]] | None = None

    # -- for the coordinator's task ---------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        return self._alarm.is_due or self._asked is not None

    @property
    def is_cleaning(self) -> bool:
        return self._round is not None

    def start(self) -> None:
        """Begin to wait for the first round."""
        self._alarm.set(min(self._every, self._grace))

    async def proceed(self, catalog: Catalog, *, listening_since: float) -> None:
        """Do what is due: begin a round, or tell the one under way what is referred to."""
        if self._asked is not None:
            await self._answer(catalog)
        if not self._alarm.is_due:
            return
        self._alarm.clear()
        listened = self._clock.now() - listening_since
        if self._round is None and listened >= self._grace:
            owner = str(await catalog.value("catalog_id"))
            self._round = asyncio.create_task(self._go_through(owner), name="janitor")
        missing = self._grace - listened
        self._alarm.set(min(missing, self._every) if missing > 0 else self._every)

    async def clean_unserved(self, catalog: Catalog) -> Cleaned:
        """Go through the whole store, while nothing can be on its way: before anybody is served.

        What fails is told in the log.
        """
        return await self._reported(self._clean_unserved(catalog))

    async def stop(self) -> None:
        """End the round under way."""
        self._alarm.clear()
        if self._round is not None:
            self._round.cancel()
            await asyncio.wait([self._round])
            self._round = None

    async def _answer(self, catalog: Catalog) -> None:
        assert self._asked is not None
        names, answer = self._asked
        self._asked = None
        try:
            found = await _unreferred(catalog, names)
        except Exception as error:  # else the round would wait for ever
            if not answer.done():
                answer.set_exception(error)
            return
        if not answer.done():
            answer.set_result(found)

    # -- a round ----------------------------------------------------------------------------------

    async def _go_through(self, owner: str) -> None:
        try:
            before = self._clock.now() - self._grace
            await self._reported(self._clean(owner, before, self._ask))
        finally:
            self._round = None

    async def _clean_unserved(self, catalog: Catalog) -> Cleaned:
        async def ask(names: list[str]) -> set[str]:
            return await _unreferred(catalog, names)

        owner = str(await catalog.value("catalog_id"))
        return await self._clean(owner, self._clock.now(), ask)

    async def _ask(self, names: list[str]) -> set[str]:
        """Have the coordinator's task look them up."""
        answer: asyncio.Future[set[str]] = asyncio.get_running_loop().create_future()
        self._asked = names, answer
        self._wake()
        return await answer

    async def _reported(self, cleaning: Awaitable[Cleaned]) -> Cleaned:
        try:
            cleaned = await cleaning
        except (StoreError, CatalogError) as error:
            log.warning("payload store not cleaned", store=redact(self._url), reason=str(error))
            return Cleaned()
        except Exception as error:  # whatever it is: the service goes on
            log.exception("payload store not cleaned", store=redact(self._url), error=str(error))
            return Cleaned()
        log.info(
            "payload store cleaned",
            objects=cleaned.objects,
            removed=cleaned.removed,
            bytes=cleaned.freed,
        )
        return cleaned

    async def _clean(
        self, owner: str, before: float, ask: Callable[[list[str]], Awaitable[set[str]]]
    ) -> Cleaned:
        """Remove what was stored before then, and is not referred to."""
        objects = await in_thread(self._opened)
        holder = await in_thread(lambda: objects.owner(owner))
        if holder != owner:
            raise StoreError(
                f"{objects.place} belongs to another catalog ({holder}, and this one is {owner}), "
                "so nothing is removed: give each coordinator a payload store of its own. If that "
                "catalog is gone for good, remove the object named owner"
            )
        await in_thread(lambda: objects.sweep(modified_before=before))
        listed, cleaned = objects.listed(), Cleaned()
        while page := await in_thread(lambda: list(islice(listed, PAGE))):
            old = {found.name: found for found in page if found.modified_at < before}
            unwanted = [old[name] for name in await ask(list(old))] if old else []
            cleaned += await in_thread(partial(_remove, objects, unwanted, before))
            cleaned += Cleaned(objects=len(page))
        return cleaned

    def _opened(self) -> Objects:
        if self._objects is None:
            self._objects = open_objects(self._url)
        return self._objects


async def _unreferred(catalog: Catalog, names: Iterable[str]) -> set[str]:
    """Those of the objects that no payload in the catalog refers to."""
    rows = await catalog.rows("unreferred", names=json.dumps(list(names)))
    return {row["name"] for row in rows}


def _remove(objects: Objects, unwanted: Iterable[Found], before: float) -> Cleaned:
    removed = [found for found in unwanted if objects.remove(found.name, modified_before=before)]
    return Cleaned(removed=len(removed), freed=sum(found.size for found in removed))
