"""Who answers which question about what the catalog has."""

from leveret_broker.messages import Explain, FetchCode, ListShipped, Prune, Reply
from leveret_broker.transport import Transport
from leveret_coordinator import explanations, listings, retention, shipping_answers
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.decision import Question


async def reply(
    question: Question, catalog: Catalog, transport: Transport, *, now: float, alive_since: float
) -> Reply:
    """The answer. Workers that were heard since `alive_since` count as there."""
    if isinstance(question, Explain):
        return await explanations.answer(
            question, catalog, transport, now=now, alive_since=alive_since
        )
    if isinstance(question, FetchCode | ListShipped):
        return await shipping_answers.answer(question, catalog, now=now, alive_since=alive_since)
    if isinstance(question, Prune):
        return await retention.answer(question, catalog, now=now)
    return await listings.answer(question, catalog, alive_since=alive_since)
