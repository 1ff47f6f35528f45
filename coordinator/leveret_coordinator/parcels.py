"""What the coordinator has to say, packed into messages, and what to send if one is refused."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from leveret_broker import codec, topology
from leveret_broker.messages import (
    Accepted,
    Cancelled,
    Code,
    Control,
    Explanation,
    Failure,
    Finished,
    Heartbeat,
    Invocations,
    Outcomes,
    Refused,
    Registered,
    Rejected,
    Replies,
    Reply,
    Rows,
    Shipped,
    Stop,
    Tree,
    Unserved,
    Verdict,
)
from leveret_broker.transport import Outgoing
from leveret_coordinator.decision import Answer, Judged, Stopped
from leveret_coordinator.ending import PAYLOAD_ERROR
from leveret_coordinator.errors import Invalid
from leveret_coordinator.records import Confirmed, PendingRun, PublishedAttempt, Waiter

MOST_REPLIES = 200
"""Replies in one message."""
MOST_PAYLOAD = 256 * 1024
"""Bytes of results and errors in one message, unless a single one is larger."""
MOST_CONTROLLED = 1000
"""Runs in one control message."""
LONGEST_MESSAGE = 1000
"""Characters that are left of a failure's message when all of it was refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """A message, and what is settled once it is confirmed."""

    message: Outgoing
    settles: Confirmed = field(default_factory=Confirmed)
    answers: tuple[Answer, ...] = ()
    """What the message holds, if it holds answers."""

    @property
    def is_invocation(self) -> bool:
        return bool(self.settles.published)


# -- packing --------------------------------------------------------------------------------------


def pack_invocations(
    pending: Sequence[PendingRun],
    generation: int,
    size: Callable[[str, int], int] = lambda _definition, _waiting: 1,
) -> list[Parcel]:
    """By queue, as many runs a message as `size` says for their definition and number.

    What may have been handed out before, or has lost a worker, goes alone: so do workflows.
    """
    alone: list[PendingRun] = []
    by_definition: dict[str, list[PendingRun]] = {}
    for each in pending:
        if each.again or each.run.losses or each.run.kind == "workflow":
            alone.append(each)
        else:
            by_definition.setdefault(each.run.definition, []).append(each)
    packed = [_pack_together([each], generation) for each in alone]
    for definition, runs in by_definition.items():
        most = size(definition, len(runs))
        packed += [_pack_together(chunk, generation) for chunk in _chunks(runs, most)]
    return packed


def _chunks(runs: Sequence[PendingRun], most: int) -> Iterable[list[PendingRun]]:
    chunk: list[PendingRun] = []
    payload = 0
    for each in runs:
        more = len(each.arguments) + sum(len(needed.result or b"") for needed in each.inputs)
        if chunk and (len(chunk) == most or payload + more > MOST_PAYLOAD):
            yield chunk
            chunk, payload = [], 0
        chunk.append(each)
        payload += more
    if chunk:
        yield chunk


def _pack_together(pending: Sequence[PendingRun], generation: int) -> Parcel:
    """The runs are of one definition."""
    first = pending[0]
    message = Invocations(
        project=first.run.project,
        definition=first.run.definition,
        runs=tuple(each.as_message() for each in pending),
        generation=generation,
    )
    return _invocations(message, first.queue)


def _invocations(message: Invocations, queue: str) -> Parcel:
    return Parcel(
        message=Outgoing(
            body=codec.encode(message),
            queue=queue,
            correlation_id=message.runs[0].run if len(message.runs) == 1 else None,
        ),
        settles=Confirmed(
            published=tuple(
                PublishedAttempt(run=each.run, attempt=each.attempt) for each in message.runs
            )
        ),
    )


def pack_answers(answers: Iterable[Answer]) -> list[Parcel]:
    """As few messages a session as the limits allow, in the order of the answers."""
    by_session: dict[str, list[Reply]] = {}
    for answer in answers:
        by_session.setdefault(answer.session, []).append(answer.reply)
    return [
        _pack_replies(session, portion)
        for session, replies in by_session.items()
        for portion in _portions(replies)
    ]


def pack_stops(stops: Sequence[Stopped]) -> list[Parcel]:
    """To every worker of each project."""
    by_project: dict[str, list[Stop]] = {}
    for each in stops:
        stop = Stop(run=each.run, attempt=each.attempt)
        by_project.setdefault(each.project, []).append(stop)
    return [
        _to_all(
            topology.control_exchange(project),
            Control(stop=tuple(mine[start : start + MOST_CONTROLLED])),
        )
        for project, mine in by_project.items()
        for start in range(0, len(mine), MOST_CONTROLLED)
    ]


def pack_rejoin() -> Parcel:
    """To every worker, when a coordinator starts: its predecessor may have died before it told what
    it had decided to stop."""
    return _to_all(topology.CONTROL, Control(rejoin=True))


def _to_all(exchange: str, control: Control) -> Parcel:
    return Parcel(message=Outgoing(body=codec.encode(control), fanout=exchange, persistent=False))


def pack_shipped(projects: Sequence[str]) -> list[Parcel]:
    """To every worker of each: the catalog knows what was shipped, and they ask for it."""
    return [
        _to_all(topology.control_exchange(project), Control(shipped=(project,)))
        for project in projects
    ]


def pack_control(
    judged: Sequence[Judged], joined: Sequence[Heartbeat], generation: int
) -> list[Parcel]:
    """To each worker what it asked."""
    nonces = {each.worker: each.nonce for each in joined}
    verdicts: dict[str, list[Verdict]] = {worker: [] for worker in nonces}
    for each in judged:
        verdicts.setdefault(each.worker, []).append(each.verdict)
    parcels: list[Parcel] = []
    for worker, mine in verdicts.items():
        for start in range(0, max(len(mine), 1), MOST_CONTROLLED):
            control = Control(
                verdicts=tuple(mine[start : start + MOST_CONTROLLED]),
                generation=generation if worker in nonces else None,
                nonce=nonces.get(worker),
            )
            queue = topology.control_queue(worker).name
            message = Outgoing(body=codec.encode(control), queue=queue, persistent=False)
            parcels.append(Parcel(message=message))
    return parcels


def pack_unknown(outcomes: Outcomes) -> Parcel:
    """To where people look for what nobody could deal with."""
    return Parcel(
        message=Outgoing(
            body=codec.encode(outcomes),
            queue=topology.DEAD.name,
            headers={
                topology.REASON_HEADER: "no such run in this catalog",
                topology.ORIGIN_HEADER: topology.OUTCOMES.name,
            },
        )
    )


def _portions(replies: Sequence[Reply]) -> Iterable[list[Reply]]:
    portion: list[Reply] = []
    payload = 0
    for reply in replies:
        size = _payload(reply)
        if portion and (len(portion) == MOST_REPLIES or payload + size > MOST_PAYLOAD):
            yield portion
            portion, payload = [], 0
        portion.append(reply)
        payload += size
    if portion:
        yield portion


def _payload(reply: Reply) -> int:
    if isinstance(reply, Code):
        return len(reply.body)
    if not isinstance(reply, Finished):
        return 0
    traceback = reply.failure.traceback if reply.failure else ""
    return len(reply.result or b"") + len(reply.error or b"") + len(traceback)


def _pack_replies(session: str, replies: Sequence[Reply]) -> Parcel:
    runs = {_concerned(reply) for reply in replies}
    ended = (reply.run for reply in replies if isinstance(reply, Finished))
    return Parcel(
        message=Outgoing(
            body=codec.encode(Replies(replies=tuple(replies))),
            queue=topology.reply_queue_name(session),
            correlation_id=runs.pop() if len(runs) == 1 else None,
            persistent=False,
        ),
        settles=Confirmed(settled=tuple(Waiter(run=run, session=session) for run in ended)),
        answers=tuple(Answer(session=session, reply=reply) for reply in replies),
    )


def _concerned(reply: Reply) -> str | None:
    """The run that a reply is about."""
    if isinstance(reply, Accepted | Rejected | Unserved | Finished):
        return reply.run
    return None


# -- when the broker refuses a message -----------------------------------------------------------


def in_place_of(parcel: Parcel, reason: str) -> list[Parcel]:
    """What to send when the broker refuses a parcel for what it is, above all for its size.

    What shared a message goes each alone; an answer that was alone goes in fewer words. Empty if
    there are no fewer words.
    """
    if len(parcel.settles.published) > 1:
        return _apart(parcel)
    if len(parcel.answers) > 1:
        return [_pack_replies(answer.session, [answer.reply]) for answer in parcel.answers]
    shortened = ((answer, _shortened(answer.reply, reason)) for answer in parcel.answers)
    return [_pack_replies(answer.session, [reply]) for answer, reply in shortened if reply]


def _apart(parcel: Parcel) -> list[Parcel]:
    whole = codec.decode(parcel.message.body, Invocations)
    return [
        _invocations(whole.model_copy(update={"runs": (one,)}), parcel.message.queue or "")
        for one in whole.runs
    ]


def _shortened(reply: Reply, reason: str) -> Reply | None:
    match reply:
        case Tree() | Rows() | Registered() | Cancelled() | Explanation() | Shipped() | Code():
            text = f"The answer is too large for the broker: {reason}."
            return Refused(request=reply.request, code=Invalid.code, message=text)
        case Finished():
            return _shortened_end(reply, reason)
        case _:
            return None


def _shortened_end(end: Finished, reason: str) -> Finished | None:
    """The catalog keeps the truth; a caller that can't be told a result is told why."""
    if end.result is not None:
        text = f"the result of {len(end.result)} bytes is too large for the broker: {reason}"
        failure = Failure(type=PAYLOAD_ERROR, message=text)
        return end.model_copy(update={"state": "failed", "result": None, "failure": failure})
    told = end.failure
    brief = told and Failure(type=told.type, message=told.message[:LONGEST_MESSAGE])
    shortened = end.model_copy(update={"error": None, "failure": brief})
    return shortened if shortened != end else None
