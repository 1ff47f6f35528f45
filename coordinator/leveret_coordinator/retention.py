"""Removes trees of runs that ended long ago, a portion at a time.

Rules:

- A tree goes as a whole, or not at all: a root run, and all that was called below it.
- All of it has ended before a time, nobody waits to hear how, and no run of another tree has one of
  its runs as an input.
- A portion is small enough for others not to notice. Nothing of it is in memory: whoever asks for
  the next one says where to go on.
- Code that was shipped goes when no definition and no run is of it any more.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leveret_broker.messages import Position, Prune, Pruned, Refused
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.errors import Invalid

LEAST_AGE = 3600.0
"""Seconds for which every run is kept: a second copy of the message that asked for it finds it."""
MOST_ROOTS = 200
"""Root runs that a portion looks at."""
MOST_RUNS = 500
"""Runs that a portion looks at or removes, unless a single tree has more to look at."""
MOST_CODE = 50
"""Revisions of code that a portion removes."""
NO_LIMIT = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """What is to be removed."""

    before: float
    """Seconds since the Unix epoch: what ended before."""
    project: str | None = None
    """Of this project only."""
    is_trial: bool = False
    """Nothing is, it is only counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Portion:
    """What was removed, or would be."""

    trees: int = 0
    runs: int = 0
    code: int = 0
    place: Position | None = None
    """Where to go on; `None` at the end."""

    def __add__(self, other: "Portion") -> "Portion":
        return Portion(
            trees=self.trees + other.trees,
            runs=self.runs + other.runs,
            code=self.code + other.code,
            place=other.place,
        )


async def answer(question: Prune, catalog: Catalog, *, now: float) -> Pruned | Refused:
    """Remove one portion."""
    if not question.older_than >= LEAST_AGE:
        text = (
            f"Runs that ended less than {LEAST_AGE:.0f} seconds ago are not removed: messages "
            "about them may be on their way."
        )
        return Refused(request=question.request, code=Invalid.code, message=text)
    retention = Retention(
        before=now - question.older_than, project=question.project, is_trial=question.dry_run
    )
    done = await remove_portion(catalog, retention, question.after)
    return Pruned(
        request=question.request,
        trees=done.trees,
        runs=done.runs,
        code=done.code,
        place=done.place,
    )


async def remove_portion(catalog: Catalog, retention: Retention, after: Position | None) -> Portion:
    """Remove what comes after the place, until it is enough for once."""
    place = after or Position(created_at=retention.before, seq=0)
    if not retention.is_trial and await finish(catalog):
        return Portion(place=place)
    roots = await _old_roots(catalog, retention, place)
    if not roots:
        code = await _remove_code(catalog, retention)
        has_more = code == MOST_CODE and not retention.is_trial
        return Portion(code=code, place=place if has_more else None)
    looked_at, trees = await _trees(catalog, retention, roots)
    async with catalog.transaction():
        done = Portion()
        while going := _free(trees):
            done += await _give_up(catalog, retention, going)
            trees = [tree for tree in trees if tree not in going]
            if retention.is_trial or not any(tree["has_inputs"] for tree in going):
                break
            trees = await _standing(catalog, retention, [tree["root"] for tree in trees])
        if not retention.is_trial:
            await _remove_doomed(catalog)
    last = looked_at[-1]
    return done + Portion(place=Position(created_at=last["created_at"], seq=last["seq"]))


async def finish(catalog: Catalog) -> bool:
    """Remove a portion of trees that were given up; whether there was one."""
    if not await catalog.value("has_doomed"):
        return False
    async with catalog.transaction():
        await _remove_doomed(catalog)
    return True


async def _old_roots(catalog: Catalog, retention: Retention, place: Position) -> list[Any]:
    if retention.project is not None:
        projects = [retention.project]
    else:
        projects = [row["project"] for row in await catalog.rows("projects")]
    return await catalog.rows(
        "old_roots",
        projects=json.dumps(projects),
        created_at=place.created_at,
        seq=place.seq,
        most=MOST_ROOTS,
    )


async def _trees(
    catalog: Catalog, retention: Retention, roots: Sequence[Any]
) -> tuple[Sequence[Any], list[Any]]:
    """As many of the roots as a portion may look at all runs of, and their trees."""
    while True:
        old = [root["seq"] for root in roots if _has_ended(root, retention)]
        if not old:
            return roots, []
        trees = await _standing(catalog, retention, old, most=MOST_RUNS)
        if sum(tree["runs"] for tree in trees) < MOST_RUNS:
            return roots, trees
        if len(roots) == 1:
            return roots, await _standing(catalog, retention, old)
        roots = roots[: len(roots) // 4 or 1]


def _has_ended(root: Any, retention: Retention) -> bool:
    # By this coordinator's clock; that of the worker may be wrong.
    return root["finished_at"] is not None and root["since"] < retention.before


async def _standing(
    catalog: Catalog, retention: Retention, roots: Sequence[int], *, most: int = NO_LIMIT
) -> list[Any]:
    return await catalog.rows(
        "trees",
        roots=json.dumps(roots),
        before=retention.before,
        is_trial=retention.is_trial,
        most=most,
    )


def _free(trees: Sequence[Any]) -> list[Any]:
    """Those that nothing keeps."""
    return [tree for tree in trees if not tree["is_in_use"] and not tree["is_needed"]]


async def _give_up(catalog: Catalog, retention: Retention, trees: Sequence[Any]) -> Portion:
    if not retention.is_trial:
        roots = json.dumps([tree["root"] for tree in trees])
        await catalog.carry_out("doom", roots=roots)
        if any(tree["has_inputs"] for tree in trees):
            await catalog.carry_out("release_inputs")
        await catalog.carry_out("remove_roots", roots=roots)
    return Portion(trees=len(trees), runs=sum(tree["runs"] for tree in trees))


async def _remove_doomed(catalog: Catalog) -> None:
    await catalog.carry_out("remove_doomed", most=MOST_RUNS)
    await catalog.carry_out("forget_doomed", most=MOST_RUNS)


async def _remove_code(catalog: Catalog, retention: Retention) -> int:
    """How many revisions were removed, or would be."""
    found = await catalog.rows(
        "old_code",
        project=retention.project,
        before=retention.before,
        most=NO_LIMIT if retention.is_trial else MOST_CODE,  # a trial would find the same again
    )
    if found and not retention.is_trial:
        async with catalog.transaction():
            for row in found:
                await catalog.carry_out("remove_code", project=row["project"], digest=row["digest"])
    return len(found)
