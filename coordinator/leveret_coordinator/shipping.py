"""Code that callers ship: kept by its digest, and noted at the definitions that it is of. Pure.

To the coordinator it is bytes. A definition that a live worker serves with code of its own stays as
it is: whoever deployed it has said what it means.
"""

from collections.abc import Sequence
from dataclasses import replace

from leveret_broker.messages import (
    CodeRef,
    DefinitionSpec,
    Offer,
    Offered,
    Registered,
    Ship,
    Standing,
)
from leveret_coordinator import registration
from leveret_coordinator.errors import Invalid
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import Definition, NewCode


def offer(message: Offer, ledger: Ledger) -> None:
    """Tell the session how each definition stands."""
    standings: list[Standing] = [
        _standing(message.project, spec, ledger) for spec in message.definitions
    ]
    ledger.answer(message.session, Offered(request=message.request, standings=tuple(standings)))


def ship(message: Ship, ledger: Ledger) -> Sequence[Definition]:
    """Keep the code, and register what it is of. The answer says which of it the code stands for.

    Raises `Conflict` or `Invalid` as registering does; then nothing is kept.
    """
    specs = [
        (index, spec)
        for index, spec in enumerate(message.definitions)
        if _standing(message.project, spec, ledger) != "deployed"
    ]
    done = registration.register(
        message.project,
        [spec for _, spec in specs],
        known=ledger.known.definitions,
        now=ledger.now,
        issue=ledger.issue,
    )
    shipped = {
        index: _with_code(row, message.digest, index, spec, ledger.now)
        for (index, spec), row in zip(specs, done.definitions, strict=True)
    }
    ledger.put_definitions(shipped.values())
    if shipped:
        code = NewCode(project=message.project, digest=message.digest, body=message.body)
        ledger.keep_code(code)
        ledger.tell_shipped(message.project)
    records = tuple(
        (shipped.get(index) or _deployed(message.project, spec, ledger)).as_message()
        for index, spec in enumerate(message.definitions)
    )
    ledger.answer(message.session, Registered(request=message.request, definitions=records))
    return tuple(shipped.values())


def _standing(project: str, spec: DefinitionSpec, ledger: Ledger) -> Standing:
    row = registration.find(project, spec, ledger.known.definitions)
    if row is not None and ledger.is_deployed(row.id):
        return "deployed"
    return "unknown" if row is None else "known"


def _with_code(
    row: Definition, digest: str, index: int, spec: DefinitionSpec, now: float
) -> Definition:
    if spec.place is None:
        raise Invalid(f"The code of {spec.kind} {spec.name!r} came without the place to run it.")
    code = CodeRef(digest=digest, index=index, place=spec.place, prefetch=spec.prefetch)
    return replace(row, code=code, shipped_at=now)


def _deployed(project: str, spec: DefinitionSpec, ledger: Ledger) -> Definition:
    """The row of what is deployed. What was shipped of it earlier is not what runs."""
    row = registration.find(project, spec, ledger.known.definitions)
    assert row is not None, "what is deployed is known"
    return replace(row, code=None)
