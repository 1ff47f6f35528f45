"""What follows from a batch of messages and the rows they name. Pure: no I/O, no time, no chance.

Rules:

- A decision is carried out in this order: write all of it in one transaction, declare, publish,
  acknowledge the batch. So whatever is published was committed before.
- A message that arrives twice decides nothing the second time, except to be answered again.
- A run is given to one worker at a time, by the number of its attempt: what an earlier attempt
  tells is refused and counted.
- A cancellation that came before its submission counts all the same, within one batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from leveret_broker.identifiers import Kind
from leveret_broker.messages import (
    Attach,
    Cancel,
    Goodbye,
    Heartbeat,
    Hello,
    Offer,
    Outcomes,
    Refused,
    Register,
    Registered,
    Resolve,
    Resolved,
    Retry,
    Ship,
    Submit,
    Welcome,
)
from leveret_coordinator import (
    claims,
    confinement,
    ending,
    inputs,
    interventions,
    news,
    opening,
    registration,
    resolution,
    shipping,
    submissions,
    timing,
)
from leveret_coordinator.decision import Decision, Question
from leveret_coordinator.errors import RequestRefused
from leveret_coordinator.facts import Facts, Message
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.records import Orphan, RefusedAttempt, Timer, Vanished


def decide(
    messages: Sequence[Message],
    facts: Facts,
    *,
    now: float,
    version: str,
    issue: Callable[[Kind], str],
    chance: Callable[[], float],
) -> Decision:
    """What to write and to publish for the messages, in their order.

    `version` is leveret's own; `issue` makes a new database id; `chance` a number from 0 to 1.
    """
    deciding = _Deciding(Ledger(facts, now=now, issue=issue, chance=chance), version=version)
    for message in messages:
        deciding.take(message)
    deciding.take_postponed()
    return deciding.decision()


class _Deciding:
    """One batch under way."""

    def __init__(self, ledger: Ledger, *, version: str) -> None:
        self._ledger = ledger
        self._version = version
        self._heartbeats: dict[str, Heartbeat] = {}
        self._goodbyes: dict[str, None] = {}
        self._joined: dict[str, Heartbeat] = {}
        self._queues: dict[str, None] = {}
        self._unready: list[Submit] = []
        self._postponed: list[Cancel] = []
        self._questions: list[Question] = []
        self._unknown: list[Outcomes] = []

    def decision(self) -> Decision:
        return replace(
            self._ledger.decision(),
            heartbeats=tuple(self._heartbeats.values()),
            goodbyes=tuple(self._goodbyes),
            joined=tuple(self._joined.values()),
            queues=tuple(self._queues),
            questions=tuple(self._questions),
            unknown=tuple(self._unknown),
        )

    def take(self, message: Message) -> None:
        self._take(message)
        inputs.settle(self._ledger)

    def _take(self, message: Message) -> None:
        match message:
            case Submit():
                if unready := submissions.submit(message, self._ledger):
                    self._unready.append(unready)
            case Outcomes():
                self._news(message)
            case Attach():
                submissions.attach(message, self._ledger)
            case Cancel():
                self._cancel_or_postpone(message)
            case Retry():
                interventions.retry(message, self._ledger)
            case Heartbeat():
                self._beat(message)
            case Goodbye():
                self._heartbeats.pop(message.worker, None)
                self._goodbyes[message.worker] = None
            case RefusedAttempt() | Orphan() | Vanished() | Timer():
                self._notice(message)
            case _:
                self._reply_to(message)

    def take_postponed(self) -> None:
        """What named runs that were not known when its turn came: those it needs, or stops."""
        for submit in self._unready:
            submissions.submit(submit, self._ledger, is_late=True)
            inputs.settle(self._ledger)
        for cancel in self._postponed:
            interventions.cancel(cancel, self._ledger)
            inputs.settle(self._ledger)

    def _cancel_or_postpone(self, message: Cancel) -> None:
        if all(self._ledger.run(run) for run in (*message.runs, *message.unneeded)):
            interventions.cancel(message, self._ledger)
        else:
            self._postponed.append(message)

    # -- workers --

    def _beat(self, heartbeat: Heartbeat) -> None:
        self._goodbyes.pop(heartbeat.worker, None)
        self._heartbeats[heartbeat.worker] = heartbeat
        owners = {known.id: known.project for known in self._ledger.known.definitions}
        own = (
            served
            for served in heartbeat.definitions
            if owners.get(served, heartbeat.project) == heartbeat.project
        )
        self._ledger.hear(heartbeat.model_copy(update={"definitions": tuple(own)}))

    def _news(self, message: Outcomes) -> None:
        if message.join is not None:
            self._beat(message.join)
            self._joined[message.worker] = message.join
        message = news.of_project(message, self._ledger)
        if unknown := news.take(message, self._ledger):
            self._unknown.append(unknown)
        for claim in message.claims:
            claims.judge(claim, message.worker, self._ledger)

    # -- what the coordinator notices by itself --

    def _notice(self, message: RefusedAttempt | Orphan | Vanished | Timer) -> None:
        if isinstance(message, Timer):
            timing.fire(message, self._ledger)
            return
        run = self._ledger.run(message.run)
        if run is None or run.attempt != message.attempt:
            return
        match message:
            case RefusedAttempt() if run.state in ("pending", "queued", "running"):
                text = f"the arguments are too large for the broker: {message.reason}"
                failure = ending.failure_of(ending.PAYLOAD_ERROR, text)
                ending.end(run, "failed", self._ledger, failure=failure)
            case Vanished() if run.state == "queued":
                self._ledger.change(run, "requeued")
                self._ledger.repeat(run.id)
            case Orphan() if run.holder is not None and run.holder.worker == message.worker:
                worker = self._ledger.worker(message.worker)
                if worker is not None and worker.is_alive:
                    return  # it was heard meanwhile
                if ending.lose_worker(run, self._ledger):
                    opening.requeue(self._ledger.run(run.id) or run, self._ledger)
                    self._ledger.stop(run.id, run.attempt)
            case _:
                pass

    # -- questions --

    def _reply_to(self, message: Hello | Register | Offer | Ship | Resolve | Question) -> None:
        match message:
            case Register():
                self._register(message)
            case Offer():
                shipping.offer(message, self._ledger)
            case Ship():
                self._ship(message)
            case Resolve():
                self._resolve(message)
            case Hello():
                welcome = Welcome(request=message.request, version=self._version)
                self._ledger.answer(message.session, welcome)
            case _:
                self._questions.append(message)

    def _register(self, message: Register) -> None:
        try:
            done = registration.register(
                message.project,
                message.definitions,
                known=self._ledger.known.definitions,
                now=self._ledger.now,
                issue=self._ledger.issue,
            )
        except RequestRefused as refusal:
            self._ledger.answer(message.session, _refused(message.request, refusal))
            return
        self._ledger.put_definitions(done.changed)
        self._queues.update(dict.fromkeys(definition.queue for definition in done.definitions))
        records = tuple(definition.as_message() for definition in done.definitions)
        registered = Registered(request=message.request, definitions=records)
        self._ledger.answer(message.session, registered)

    def _ship(self, message: Ship) -> None:
        try:
            shipped = shipping.ship(message, self._ledger)
        except RequestRefused as refusal:
            self._ledger.answer(message.session, _refused(message.request, refusal))
            return
        self._queues.update(dict.fromkeys(definition.queue for definition in shipped))

    def _resolve(self, message: Resolve) -> None:
        known, project = self._ledger.known, message.project
        if message.confined:
            known = confinement.known_within(known, project)
        try:
            definition = resolution.resolve(message.identifier, project=project, known=known)
        except RequestRefused as refusal:
            self._ledger.answer(message.session, _refused(message.request, refusal))
            return
        resolved = Resolved(request=message.request, definition=definition.as_message())
        self._ledger.answer(message.session, resolved)


def _refused(request: str, refusal: RequestRefused) -> Refused:
    return Refused(request=request, code=refusal.code, message=str(refusal))
