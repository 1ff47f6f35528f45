"""Messages in few words, for the trace."""

from collections.abc import Iterator

from leveret_broker import codec, topology
from leveret_broker.messages import Control, Invocations, Outcomes, Replies
from leveret_broker.transport import Delivery, Outgoing


def told(message: Outgoing) -> str:
    """Where it goes, and what it holds."""
    to = message.fanout or message.queue or ""
    return f"→ {_short(to)}: {', '.join(_words(to, message.body))}"


def taken(delivery: Delivery) -> str:
    """What was delivered."""
    again = " again" if delivery.redelivered else ""
    return f"← {delivery.queue}: {', '.join(_words(delivery.queue, delivery.body))}{again}"


def _words(queue: str, body: bytes) -> Iterator[str]:
    match queue.partition(":")[0]:
        case topology.REQUESTS.name:
            return _request(body)
        case topology.OUTCOMES.name:
            return _outcomes(codec.decode(body, Outcomes))
        case "replies":
            return _replies(codec.decode(body, Replies))
        case name if name == "control" or name.startswith(topology.CONTROL):
            return _control(codec.decode(body, Control))
        case topology.DEAD.name:
            return iter([repr(body[:200])])
        case _:
            return _invocations(codec.decode(body, Invocations))


def _request(body: bytes) -> Iterator[str]:
    request = codec.decode_request(body)
    submitted = [each.run for each in getattr(request, "submissions", ())]
    runs = [*getattr(request, "runs", ()), *submitted]
    yield " ".join([request.type, *map(_short, runs)])


def _outcomes(outcomes: Outcomes) -> Iterator[str]:
    if outcomes.join is not None:
        yield "join"
    for each in outcomes.outcomes:
        yield f"{each.state} {_short(each.run)}/{each.attempt}"
    for started in outcomes.started:
        yield f"started{' leased' * started.leased} {_short(started.run)}/{started.attempt}"
    for claim in outcomes.claims:
        marks = f"{' handed out' * claim.handed_out}{' executing' * claim.executing}"
        yield f"claim {_short(claim.run)}/{claim.attempt}{marks}"


def _replies(replies: Replies) -> Iterator[str]:
    for reply in replies.replies:
        yield f"{reply.type} {_short(getattr(reply, 'run', ''))} {getattr(reply, 'state', '')}"


def _control(control: Control) -> Iterator[str]:
    if control.generation is not None:
        yield f"generation {control.generation}"
    for stop in control.stop:
        yield f"stop {_short(stop.run)}/{stop.attempt}"
    for verdict in control.verdicts:
        yield f"verdict {_short(verdict.run)}/{verdict.attempt}: {verdict.granted}"


def _invocations(invocations: Invocations) -> Iterator[str]:
    for run in invocations.runs:
        again = " again" * run.again
        yield f"run {_short(run.run)}/{run.attempt}{again} of {invocations.generation}"


def _short(name: str) -> str:
    """The end of an id, which tells it from others."""
    head, _, tail = name.rpartition("_")
    return f"{head.removesuffix('run')}{tail[-5:]}" if head and len(tail) == 26 else name
