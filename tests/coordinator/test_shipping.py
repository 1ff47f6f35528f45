"""Code that is shipped: kept as bytes, pinned to the runs that ask for it, told to workers."""

import pytest

from leveret_broker.messages import (
    Accepted,
    Code,
    CodeRef,
    DefinitionRecord,
    DefinitionSpec,
    FetchCode,
    Heartbeat,
    ListShipped,
    Offer,
    Offered,
    Refused,
    Registered,
    Reply,
    Retry,
    Ship,
    Shipped,
    Standing,
    Target,
    Unserved,
)
from leveret_coordinator import shipping_answers
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.decision import Decision
from tests.coordinator import build

NOW = build.NOW
RUN, OTHER = build.run_id(1), build.run_id(2)
FIT = build.spec("fit", kind="task", version="0")
FLOW = build.spec("flow", fingerprint="first")


def ship(*specs: DefinitionSpec, digest: str = "d1", body: bytes = b"code") -> Ship:
    return Ship(
        session="s",
        request="ship",
        project="p",
        digest=digest,
        body=body,
        definitions=tuple(spec.model_copy(update={"place": "process"}) for spec in specs),
    )


def ref(digest: str = "d1", index: int = 0) -> CodeRef:
    return CodeRef(digest=digest, index=index, place="process")


def reply(decision: Decision) -> Reply:
    [answer] = decision.answers
    return answer.reply


async def shipped(catalog: Catalog, message: Ship, now: float = NOW) -> list[DefinitionRecord]:
    answer = reply(await build.apply(catalog, message, now=now))
    assert isinstance(answer, Registered), answer
    return list(answer.definitions)


async def standing(catalog: Catalog, spec: DefinitionSpec = FIT) -> Standing:
    offer = Offer(session="s", request="offer", project="p", definitions=(spec,))
    answer = reply(await build.apply(catalog, offer))
    assert isinstance(answer, Offered)
    return answer.standings[0]


async def codes(catalog: Catalog) -> list[CodeRef | None]:
    """What the invocations that are to be published say executes them."""
    pages = [page async for page in catalog.pending(page=10)]
    return [pending.as_message().code for page in pages for pending in page]


def serving(*definitions: str, accepts_code: bool = False, shipped: bool = False) -> Heartbeat:
    beat = build.heartbeat(*definitions)
    return beat.model_copy(
        update={"accepts_code": accepts_code, "shipped": definitions if shipped else ()}
    )


async def in_use(catalog: Catalog, *, now: float = NOW, project: str = "p") -> list[str]:
    question = ListShipped(session="s", request="r", project=project)
    answer = await shipping_answers.answer(question, catalog, now=now, alive_since=now - 20)
    assert isinstance(answer, Shipped)
    return [record.queue for record in answer.definitions]


# -- offered and shipped --------------------------------------------------------------------------


async def test_an_offer_tells_whether_a_worker_has_the_code(catalog: Catalog) -> None:
    assert await standing(catalog) == "unknown"
    await build.apply(catalog, build.register(FIT))
    assert await standing(catalog) == "known"
    [row] = await catalog.definitions(names=["fit"])
    await build.apply(catalog, serving(row.id))
    assert await standing(catalog) == "deployed"
    await build.apply(catalog, serving(row.id, shipped=True))
    assert await standing(catalog) == "known"


async def test_a_workflow_with_other_code_is_unknown_and_a_task_is_known_by_its_version(
    catalog: Catalog,
) -> None:
    await build.apply(catalog, build.register(FIT, FLOW))
    assert await standing(catalog, FLOW) == "known"
    assert await standing(catalog, build.spec("flow", fingerprint="second")) == "unknown"
    edited = FIT.model_copy(update={"fingerprint": "other"})
    assert await standing(catalog, edited) == "known"
    assert await standing(catalog, FIT.model_copy(update={"version": "1"})) == "unknown"


async def test_shipping_registers_all_that_comes_along_and_tells_the_workers(
    catalog: Catalog,
) -> None:
    decision = await build.apply(catalog, ship(FLOW, FIT))
    assert decision.shipped == ("p",)
    assert decision.queues == ("p:flow:1", "p:fit:0")
    flow, fit = await catalog.definitions(names=["flow", "fit"])
    by_name = {row.name: row.code for row in (flow, fit)}
    assert by_name == {"flow": ref(index=0), "fit": ref(index=1)}


async def test_the_catalog_gives_back_the_bytes_to_their_project_alone(catalog: Catalog) -> None:
    await build.apply(catalog, ship(FIT, body=b"opaque"))

    async def fetched(project: str, digest: str) -> Reply:
        question = FetchCode(session="s", request="r", project=project, digest=digest)
        return await shipping_answers.answer(question, catalog, now=NOW, alive_since=NOW)

    answer = await fetched("p", "d1")
    assert isinstance(answer, Code)
    assert answer.body == b"opaque"
    assert isinstance(await fetched("q", "d1"), Refused)
    assert isinstance(await fetched("p", "d2"), Refused)


async def test_what_a_worker_serves_with_code_of_its_own_is_left_alone(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(FIT))
    [fit] = await catalog.definitions(names=["fit"])
    await build.apply(catalog, serving(fit.id))
    flow_record, fit_record = await shipped(catalog, ship(FLOW, FIT))
    assert flow_record.code == ref(index=0)
    assert fit_record.code is None
    assert await catalog.definitions(names=["fit"]) == [fit]


async def test_code_that_came_without_its_place_is_refused(catalog: Catalog) -> None:
    message = ship(FIT).model_copy(update={"definitions": (FIT,)})
    decision = await build.apply(catalog, message)
    assert isinstance(reply(decision), Refused)
    assert not decision.writes


async def test_a_name_of_the_other_kind_is_refused_and_nothing_is_kept(catalog: Catalog) -> None:
    await build.apply(catalog, build.register(build.spec("fit")))
    decision = await build.apply(catalog, ship(FLOW, FIT))
    answer = reply(decision)
    assert isinstance(answer, Refused)
    assert answer.code == "conflict"
    assert not decision.writes


# -- runs -----------------------------------------------------------------------------------------


async def call(catalog: Catalog, run: str, code: CodeRef) -> Decision:
    target = Target(kind="task", name="fit", version="0", code=code)
    submission = build.submission(run, project="p").model_copy(update={"target": target})
    return await build.apply(catalog, build.submit(submission))


async def test_a_run_keeps_the_code_that_its_caller_meant(catalog: Catalog) -> None:
    await build.apply(catalog, ship(FIT, digest="d1"))
    first = await call(catalog, RUN, ref("d1"))
    assert first.invocations[0].as_message().code == ref("d1")
    await build.apply(catalog, ship(FIT, digest="d2"))
    await call(catalog, OTHER, ref("d2"))
    assert await codes(catalog) == [ref("d1"), ref("d2")]


async def test_what_somebody_else_shipped_meanwhile_is_not_meant(catalog: Catalog) -> None:
    await build.apply(catalog, ship(FIT, digest="d1"))
    await build.apply(catalog, ship(FIT, digest="d2"))
    decision = await call(catalog, RUN, ref("d1"))
    assert decision.invocations[0].as_message().code == ref("d1")
    assert await codes(catalog) == [ref("d1")]


async def test_a_run_by_identifier_gets_what_was_shipped_last(catalog: Catalog) -> None:
    await build.apply(catalog, ship(FIT, digest="d1"))
    await build.apply(catalog, ship(FIT, digest="d2"))
    await build.apply(catalog, build.submit(build.submission(RUN, "p:fit:0")))
    await build.apply(catalog, ship(FIT, digest="d3"))
    assert await codes(catalog) == [ref("d2")]


async def test_an_old_revision_keeps_its_code(catalog: Catalog) -> None:
    await build.apply(catalog, ship(FLOW, digest="d1"))
    await build.apply(catalog, ship(build.spec("flow", fingerprint="second"), digest="d2"))
    await build.apply(catalog, build.submit(build.submission(RUN, "p:flow:1")))
    await build.apply(catalog, build.submit(build.submission(OTHER, "p:flow:2")))
    assert await codes(catalog) == [ref("d1"), ref("d2")]


async def test_a_run_that_moves_to_another_revision_takes_that_ones_code(catalog: Catalog) -> None:
    await build.apply(catalog, ship(FLOW, digest="d1"))
    await build.apply(catalog, ship(build.spec("flow", fingerprint="second"), digest="d2"))
    await build.apply(catalog, build.submit(build.submission(RUN, "p:flow:1")))
    await build.apply(catalog, build.outcomes(build.outcome(RUN, "failed")))
    await build.apply(catalog, Retry(session="s", request="r", run=RUN, version="2"))
    assert await codes(catalog) == [ref("d2")]


@pytest.mark.parametrize("accepts_code", [True, False])
async def test_a_caller_is_warned_only_if_no_worker_accepts_code(
    catalog: Catalog, accepts_code: bool
) -> None:
    await build.apply(catalog, ship(FIT))
    await build.apply(catalog, serving(accepts_code=accepts_code))
    decision = await call(catalog, RUN, ref())
    warned = [each.reply for each in decision.answers if isinstance(each.reply, Unserved)]
    assert [notice.shipped for notice in warned] == ([] if accepts_code else [True])
    assert decision.shipped == ("p",)
    assert not [each for each in decision.answers if isinstance(each.reply, Accepted)]


async def test_workers_are_not_told_of_what_one_of_them_serves(catalog: Catalog) -> None:
    [record] = await shipped(catalog, ship(FIT))
    await build.apply(catalog, serving(record.id, accepts_code=True, shipped=True))
    assert (await call(catalog, RUN, ref())).shipped == ()


# -- what workers serve ---------------------------------------------------------------------------


async def test_what_nobody_calls_is_served_for_a_while_only(catalog: Catalog) -> None:
    await build.apply(catalog, ship(FIT))
    later = NOW + shipping_answers.IN_USE_FOR
    assert await in_use(catalog, now=later) == ["p:fit:0"]
    assert await in_use(catalog, now=later + 1) == []
    assert await in_use(catalog, project="q") == []


async def test_a_call_brings_it_back_into_use(catalog: Catalog) -> None:
    await build.apply(catalog, ship(FIT))
    later = NOW + 10 * shipping_answers.IN_USE_FOR
    await build.apply(catalog, build.submit(build.submission(RUN, "p:fit:0")), now=later)
    assert await in_use(catalog, now=later) == ["p:fit:0"]


@pytest.mark.parametrize("is_published", [True, False])
async def test_what_waits_is_in_use_however_long(catalog: Catalog, is_published: bool) -> None:
    await build.apply(catalog, ship(FIT))
    await build.apply(catalog, build.submit(build.submission(RUN, "p:fit:0")))
    if is_published:
        await catalog.confirm(build.confirmed(build.published(RUN)), now=NOW)
    later = NOW + 10 * shipping_answers.IN_USE_FOR
    assert await in_use(catalog, now=later) == ["p:fit:0"]
    await build.apply(catalog, build.outcomes(build.outcome(RUN)), now=later)
    assert await in_use(catalog, now=later) == []


async def test_what_a_worker_has_itself_is_left_to_it(catalog: Catalog) -> None:
    [record] = await shipped(catalog, ship(FIT))
    await build.apply(catalog, serving(record.id, shipped=True))
    assert await in_use(catalog) == ["p:fit:0"]
    await build.apply(catalog, serving(record.id))
    assert await in_use(catalog) == []
    assert await in_use(catalog, now=NOW + 60) == ["p:fit:0"]  # that worker is silent by then


async def test_a_long_list_comes_in_pages(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping_answers, "MOST_SHIPPED", 2)
    names = ["a", "b", "c"]
    specs = [build.spec(name, kind="task", version="0") for name in names]
    await build.apply(catalog, ship(*specs))
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        question = ListShipped(session="s", request="r", project="p", after=after)
        answer = await shipping_answers.answer(question, catalog, now=NOW, alive_since=NOW)
        assert isinstance(answer, Shipped)
        page = [record.id for record in answer.definitions]
        assert len(page) <= 2
        found += [record.name for record in answer.definitions]
        after = page.pop() if answer.has_more else None
    assert sorted(found) == names
