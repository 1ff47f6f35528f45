"""Why a run does not move: `leveret why RUN`, one paragraph.

A workflow waits for what it called, so the cause is looked for below it: the chain goes from the
run that was asked about down to the one that holds it up.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from leveret_broker.errors import TransportError
from leveret_broker.messages import Explain, Explanation, Refused, Reply
from leveret_broker.transport import Transport
from leveret_coordinator import submissions
from leveret_coordinator.catalog import Catalog
from leveret_coordinator.errors import RequestRefused, UnknownRun

MOST_CHILDREN = 200
"""Children that are looked at for the one that holds a run up."""
DEEPEST = 100
MOST_NAMED = 3
"""Workers or definitions that a sentence names."""

_URGENCY = {"parked": 0, "pending": 1, "queued": 2, "waiting": 3, "running": 4}
"""Whom to look at first, of several that are not finished."""


async def answer(
    question: Explain, catalog: Catalog, transport: Transport, *, now: float, alive_since: float
) -> Reply:
    """The explanation, or a `Refused` if there is no such run here."""
    explaining = _Explaining(catalog, transport, now=now, alive_since=alive_since)
    try:
        row = await explaining.row(question.run, question.project)
    except RequestRefused as refusal:
        return Refused(request=question.request, code=refusal.code, message=str(refusal))
    sentences, chain = await explaining.explain(row)
    return Explanation(
        request=question.request,
        run=question.run,
        state=row["state"],
        text=" ".join(sentences),
        chain=tuple(chain),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Server:
    """A worker that serves a definition, or did."""

    id: str
    where: str
    heartbeat_at: float
    is_alive: bool
    slots: int
    busy: int


class _Explaining:
    def __init__(
        self, catalog: Catalog, transport: Transport, *, now: float, alive_since: float
    ) -> None:
        self._catalog = catalog
        self._transport = transport
        self._now = now
        self._alive_since = alive_since

    async def row(self, run: str, project: str | None) -> Any:
        """Raises `UnknownRun`."""
        for row in await self._catalog.rows("run_row", run=run):
            if project in (None, row["project"]):
                return row
        raise UnknownRun(submissions.unknown(run, project))

    async def explain(self, row: Any) -> tuple[list[str], list[str]]:
        """Sentences, and the runs that they lead along."""
        sentences: list[str] = []
        chain: list[str] = []
        while len(chain) < DEEPEST:
            chain.append(row["id"])
            causes = await self._unended(row)
            if not causes:
                sentences.append(await self._cause(row))
                break
            first = min(causes, key=lambda cause: _URGENCY[cause["state"]])
            sentences.append(_waits_for(row, causes, first))
            row = first
        return sentences, chain

    async def _unended(self, row: Any) -> Sequence[Any]:
        """What it waits for: its inputs, or what it called."""
        if row["waits_for"]:
            return await self._catalog.rows("unended_inputs", run=row["id"], most=MOST_CHILDREN)
        if row["kind"] != "workflow" or row["state"] not in ("queued", "running"):
            return ()  # what is queued may execute, unheard, for a moment; children tell
        if row["state"] == "queued" and not await self._is_served(row):
            return ()
        return await self._catalog.rows("unended_children", run=row["id"], most=MOST_CHILDREN)

    async def _is_served(self, row: Any) -> bool:
        return any(server.is_alive for server in await self._servers(row["definition_id"]))

    async def _cause(self, row: Any) -> str:
        match row["state"]:
            case "queued":
                return await self._queued(row)
            case "running":
                return await self._running(row)
            case "pending":
                return (
                    f"{_name(row)} is kept, but its invocation is not yet confirmed by the broker: "
                    "it is published again until it is."
                )
            case "waiting" if row["kind"] == "step":
                return f"{_name(row)} is over at {self._at(row['due_at'])}."
            case "waiting":
                return (
                    f"{_name(row)} waits for a retry at {self._at(row['due_at'])}, because attempt "
                    f"{row['attempt']} failed by {_failure(row)}."
                )
            case "parked":
                return (
                    f"{_name(row)} is parked after {_times(row['attempt'], 'attempt')}, the last "
                    f"of which failed by {_failure(row)}. `leveret runs resume {row['id']}` goes "
                    "on with it, `leveret runs cancel` gives it up."
                )
            case _:
                return self._ended(row)

    def _ended(self, row: Any) -> str:
        by = f" by {_failure(row)}" if row["state"] == "failed" else ""
        return f"{_name(row)} {_WAS[row['state']]} at {self._at(row['finished_at'])}{by}."

    async def _running(self, row: Any) -> str:
        where = f"on {row['host']} " if row["host"] else ""
        since = row["started_at"] or row["created_at"]
        text = (
            f"{_name(row)} is being executed in attempt {row['attempt']} by {row['worker']} "
            f"{where}since {self._at(since)}"
        )
        for server in await self._servers(row["definition_id"]):
            if server.id == row["worker"]:
                heard = self._ago(server.heartbeat_at)
                state = "was last heard" if server.is_alive else "is silent or gone, last heard"
                return f"{text}. That worker {state} {heard}."
        return f"{text}."

    async def _queued(self, row: Any) -> str:
        servers = await self._servers(row["definition_id"])
        alive = [server for server in servers if server.is_alive]
        if not alive:
            return f"{_name(row)} waits in its queue, and {await self._nobody(row, servers)}."
        ready = await self._ready(row["definition"])
        text = f"{_name(row)} waits in its queue since {self._at(row['created_at'])}"
        if ready is not None:
            text += f", with {_times(ready, 'invocation')} that no worker has taken yet"
        if all(server.busy >= server.slots for server in alive):
            return f"{text}. {await self._taken(alive)}"
        named = ", ".join(
            f"{server.where} ({server.busy} of {server.slots} slots taken)"
            for server in alive[:MOST_NAMED]
        )
        return (
            f"{text}. {_times(len(alive), 'worker')} could take it: {named}. `leveret workers` "
            "shows more."
        )

    async def _nobody(self, row: Any, servers: Sequence[_Server]) -> str:
        shipped = await self._catalog.value("code_of", definition=row["definition_id"])
        if shipped is not None:
            return await self._nobody_accepts(row)
        if not servers:
            return f"no worker has served {row['definition']} in the last day"
        last = servers[0]
        return (
            f"no worker serves {row['definition']}, last seen on {last.where} "
            f"{self._ago(last.heartbeat_at)}"
        )

    async def _nobody_accepts(self, row: Any) -> str:
        found = await self._catalog.rows("accepting_projects", alive_since=self._alive_since)
        if row["project"] in {each["project"] for each in found}:
            return "the workers that accept code are being told of it"
        return (
            f"its code was shipped, and no worker of the project accepts code: start one by "
            f"`leveret worker --project {row['project']} --accept-code`"
        )

    async def _taken(self, alive: Sequence[_Server]) -> str:
        ids = json.dumps([server.id for server in alive])
        executing = await self._catalog.rows("executing", workers=ids)
        by = ", ".join(
            f"{_times(each['runs'], 'run')} of {each['definition']}"
            for each in executing[:MOST_NAMED]
        )
        whose = "the one worker" if len(alive) == 1 else f"all {len(alive)} workers"
        verb = "serves" if len(alive) == 1 else "serve"
        return f"The slots of {whose} that {verb} it are taken{f' by {by}' if by else ''}."

    async def _servers(self, definition: str) -> list[_Server]:
        found = await self._catalog.rows("servers", definition=definition)
        return [
            _Server(
                id=row["id"],
                where=f"{row['host']} (process {row['pid']})",
                heartbeat_at=row["heartbeat_at"],
                is_alive=row["left_at"] is None and row["heartbeat_at"] >= self._alive_since,
                slots=row["slots"],
                busy=row["busy"],
            )
            for row in found
        ]

    async def _ready(self, queue: str) -> int | None:
        try:
            status = await self._transport.inspect(queue)
        except TransportError:
            return None
        return None if status is None else status.messages

    def _at(self, moment: float | None) -> str:
        """A time of day, with its distance from now."""
        if moment is None:
            return "a time unknown"
        text = datetime.fromtimestamp(moment, UTC).strftime("%H:%M:%S UTC")
        away = moment - self._now
        return f"{text} (in {_span(away)})" if away > 0 else f"{text} ({_span(abs(away))} ago)"

    def _ago(self, moment: float) -> str:
        return f"{_span(max(self._now - moment, 0))} ago"


_WAS = {"succeeded": "succeeded", "failed": "failed", "cancelled": "was cancelled"}


def _name(row: Any) -> str:
    what = f"the step {row['asked_for']}" if row["kind"] == "step" else row["definition"]
    return f"Run {row['id']} of {what}"


def _failure(row: Any) -> str:
    text: str = row["failure_message"] or ""
    first = text.partition("\n")[0][:200]
    return f"{row['failure_type'] or 'an unknown error'}: {first}".rstrip(": ")


def _waits_for(row: Any, children: Sequence[Any], first: Any) -> str:
    if row["waits_for"]:
        count = f"{row['waits_for']} of its {_times(row['inputs'], 'input')}"
        return f"{_name(row)} waits for {count}, such as {first['id']}."
    if len(children) == 1:
        return f"{_name(row)} waits for what it called."
    count = f"{len(children)} or more" if len(children) == MOST_CHILDREN else str(len(children))
    return f"{_name(row)} waits for {count} that it called, such as {first['id']}."


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"
