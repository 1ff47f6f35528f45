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
from leveret_coordinator.statements import Statements

LEAST_AGE = 3600.0
"""Seconds for which every run is kept: a second copy of the message that asked for it finds it."""
MOST_ROOTS = 200
"""Root runs that a portion looks at."""
MOST_RUNS = 200
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
    return await catalog.run(lambda sql: _portion(sql, retention, after))


async def finish(catalog: Catalog) -> bool:
    """Remove a portion of trees that were given up; whether there was one."""
    return await catalog.run(_finish)


def _portion(sql: Statements, retention: Retention, after: Position | None) -> Portion:
    place = after or Position(created_at=retention.before, seq=0)
    if not retention.is_trial and _finish(sql):
        return Portion(place=place)
    roots = _old_roots(sql, retention, place)
    if not roots:
        code = _remove_code(sql, retention)
        has_more = code == MOST_CODE and not retention.is_trial
        return Portion(code=code, place=place if has_more else None)
    looked_at, trees = _trees(sql, retention, roots)
    with sql.transaction():
        done = Portion()
        while going := _free(trees):
            done += _give_up(sql, retention, going)
            trees = [tree for tree in trees if tree not in going]
            if retention.is_trial or not any(tree["has_inputs"] for tree in going):
                break
            trees = _standing(sql, retention, [tree["root"] for tree in trees])
        if not retention.is_trial:
            _remove_doomed(sql)
    last = looked_at[-1]
    return done + Portion(place=Position(created_at=last["created_at"], seq=last["seq"]))


def _finish(sql: Statements) -> bool:
    if not sql.value("has_doomed"):
        return False
    with sql.transaction():
        _remove_doomed(sql)
    return True


def _old_roots(sql: Statements, retention: Retention, place: Position) -> list[Any]:
    if retention.project is not None:
        projects = [retention.project]
    else:
        projects = [row["project"] for row in sql.rows("projects")]
    return sql.rows(
        "old_roots",
        projects=json.dumps(projects),
        created_at=place.created_at,
        seq=place.seq,
        most=MOST_ROOTS,
    )


def _trees(
    sql: Statements, retention: Retention, roots: Sequence[Any]
) -> tuple[Sequence[Any], list[Any]]:
    """As many of the roots as a portion may look at all runs of, and their trees."""
    while True:
        old = [root["seq"] for root in roots if _has_ended(root, retention)]
        if not old:
            return roots, []
        trees = _standing(sql, retention, old, most=MOST_RUNS)
        if sum(tree["runs"] for tree in trees) < MOST_RUNS:
            return roots, trees
        if len(roots) == 1:
            return roots, _standing(sql, retention, old)
        roots = roots[: len(roots) // 2]


def _has_ended(root: Any, retention: Retention) -> bool:
    # By this coordinator's clock; that of the worker may be wrong.
    return root["finished_at"] is not None and root["since"] < retention.before


def _standing(
    sql: Statements, retention: Retention, roots: Sequence[int], *, most: int = NO_LIMIT
) -> list[Any]:
    return sql.rows(
        "trees",
        roots=json.dumps(roots),
        before=retention.before,
        is_trial=retention.is_trial,
        most=most,
    )


def _free(trees: Sequence[Any]) -> list[Any]:
    """Those that nothing keeps."""
    return [tree for tree in trees if not tree["is_in_use"] and not tree["is_needed"]]


def _give_up(sql: Statements, retention: Retention, trees: Sequence[Any]) -> Portion:
    if not retention.is_trial:
        roots = json.dumps([tree["root"] for tree in trees])
        sql.do("doom", roots=roots)
        if any(tree["has_inputs"] for tree in trees):
            sql.do("release_inputs")
        sql.do("remove_roots", roots=roots)
    return Portion(trees=len(trees), runs=sum(tree["runs"] for tree in trees))


def _remove_doomed(sql: Statements) -> None:
    sql.do("remove_doomed", most=MOST_RUNS)
    sql.do("forget_doomed", most=MOST_RUNS)


def _remove_code(sql: Statements, retention: Retention) -> int:
    """How many revisions were removed, or would be."""
    found = sql.rows(
        "old_code",
        project=retention.project,
        before=retention.before,
        most=NO_LIMIT if retention.is_trial else MOST_CODE,  # a trial would find the same again
    )
    if found and not retention.is_trial:
        with sql.transaction():
            for row in found:
                sql.do("remove_code", project=row["project"], digest=row["digest"])
    return len(found)
