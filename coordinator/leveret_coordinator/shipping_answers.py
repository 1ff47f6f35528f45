"""Answers to workers that accept code: what was shipped to their project, and the code itself."""

from leveret_broker.messages import (
    Code,
    FetchCode,
    ListShipped,
    Refused,
    Reply,
    Shipped,
)
from leveret_coordinator import rows
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.errors import Invalid

IN_USE_FOR = 600.0
"""Seconds after its last call, or after it was shipped, for which a definition is served."""
MOST_SHIPPED = 500
"""Definitions in one answer."""


async def answer(
    question: ListShipped | FetchCode, catalog: Catalog, *, now: float, alive_since: float
) -> Reply:
    """The reply, a `Refused` if the code is not there."""
    match question:
        case ListShipped():
            return await _shipped(question, catalog, now=now, alive_since=alive_since)
        case FetchCode():
            return await _code(question, catalog)


async def _shipped(
    question: ListShipped, catalog: Catalog, *, now: float, alive_since: float
) -> Shipped:
    found = await catalog.rows(
        "shipped_in_use",
        project=question.project,
        after=question.after,
        since=now - IN_USE_FOR,
        alive_since=alive_since,
        most=MOST_SHIPPED + 1,
    )
    return Shipped(
        request=question.request,
        definitions=tuple(
            rows.definition_message(row, rows.code_of(row)) for row in found[:MOST_SHIPPED]
        ),
        has_more=len(found) > MOST_SHIPPED,
    )


async def _code(question: FetchCode, catalog: Catalog) -> Code | Refused:
    body = await catalog.value("code_body", project=question.project, digest=question.digest)
    if body is None:
        text = (
            f"The project {question.project!r} has no code {question.digest!r} in this catalog. "
            "Call it once more from where it was shipped, and it is shipped again."
        )
        return Refused(request=question.request, code=Invalid.code, message=text)
    return Code(request=question.request, body=body)
