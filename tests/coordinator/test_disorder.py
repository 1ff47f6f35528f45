"""Messages that come twice, late and in any order, in batches of any size: the same few truths."""

import random
from dataclasses import replace

import pytest

from leveret_broker.messages import Attach, AttemptEnd, Cancel, Finished
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.decision import Decision
from leveret_coordinator.facts import Message
from tests.coordinator import build
from tests.coordinator.deciding import ended

RUNS = [build.run_id(number) for number in range(1, 9)]
PARENTS = [None, RUNS[0], RUNS[0], RUNS[1], RUNS[3], None, RUNS[5], RUNS[5]]
SESSIONS = ("s1", "s2", "s3")
ENDS: tuple[AttemptEnd, ...] = ("succeeded", "failed", "timed-out")


def _messages(rng: random.Random) -> list[Message]:
    submissions: list[Message] = [
        build.submit(build.submission(run, "p:flow:1", parent=parent), session=rng.choice(SESSIONS))
        for run, parent in zip(RUNS, PARENTS, strict=True)
    ]
    news: list[Message] = [
        message
        for run in RUNS
        for message in (
            build.started(run),
            build.outcomes(build.outcome(run, rng.choice(ENDS), attempt=rng.choice((1, 1, 1, 2)))),
            build.outcomes(build.outcome(run, rng.choice(ENDS))),
            Attach(session=rng.choice(SESSIONS), runs=(run,)),
        )
    ]
    cancels: list[Message] = [
        Cancel(session="s1", request="c", runs=(rng.choice(RUNS),)) for _ in range(2)
    ]
    messages = [*submissions, *news, *cancels, *news]
    rng.shuffle(messages)
    # What was lost for coming too early is sent again, parents first, as callers and brokers do.
    closing: list[Message] = [build.outcomes(build.outcome(run)) for run in RUNS]
    return [*messages, *submissions, *messages, *closing]


@pytest.mark.parametrize("seed", range(30))
async def test_every_run_ends_once_and_everybody_hears_the_same(
    catalog: Catalog, seed: int
) -> None:
    rng = random.Random(seed)
    await build.apply(catalog, build.register(build.spec("flow")))
    messages = _messages(rng)
    decisions = await _apply_in_batches(catalog, rng, messages)
    again = await _apply_in_batches(catalog, rng, messages)

    made = [new.run.id for decision in decisions for new in decision.runs]
    assert sorted(made) == RUNS, "each is made once"
    ends = [run for decision in decisions for run, _ in ended(decision)]
    assert sorted(ends) == RUNS, "each ends once"
    changes = [replace(decision, waiters=()) for decision in again]
    assert not any(decision.writes for decision in changes), "nothing changes any more"
    for run in RUNS:
        told = {
            (answer.reply.state, answer.reply.result, answer.reply.error)
            for decision in (*decisions, *again)
            for answer in decision.answers
            if isinstance(answer.reply, Finished) and answer.reply.run == run
        }
        assert len(told) == 1, "all who ask are told the same"


async def _apply_in_batches(
    catalog: Catalog, rng: random.Random, messages: list[Message]
) -> list[Decision]:
    decisions: list[Decision] = []
    left = list(messages)
    while left:
        size = rng.randint(1, 12)
        decisions.append(await build.apply(catalog, *left[:size]))
        left = left[size:]
    return decisions
