"""What follows from a batch of messages and the rows they name. Pure: no I/O, no time, no chance.

Rules:

- A decision is carried out in this order: write all of it in one transaction, declare, publish,
  acknowledge the batch. So whatever is published was committed before.
- A message that arrives twice decides nothing the second time, except to be answered again.
- A run ends once: what contradicts the table of states is refused and counted.
- A cancellation that came before its submission counts all the same, within one batch.
"""

from collections.abc import Callable, Sequence

from leveret_broker.identifiers import Kind, is_database_id
from leveret_broker.messages import (
    Accepted,
    Attach,
    Cancel,
    Cancelled,
    Failure,
    Goodbye,
    Heartbeat,
    Hello,
    ListDefinitions,
    ListRuns,
    ListWorkers,
    Outcome,
    Outcomes,
    Refused,
    Register,
    Registered,
    Rejected,
    Reply,
    Resolve,
    Resolved,
    ShowRun,
    Started,
    Submission,
    Submit,
    Unserved,
    Welcome,
)
from leveret_coordinator import registration, resolution, states
from leveret_coordinator.decision import Answer, Decision, LateOutcome, Question
from leveret_coordinator.errors import Invalid, RequestRefused, UnknownRun
from leveret_coordinator.facts import Facts, Message
from leveret_coordinator.ledger import Ledger
from leveret_coordinator.parcels import PAYLOAD_ERROR
from leveret_coordinator.records import (
    FinishedAttempt,
    NewRun,
    PendingRun,
    RefusedAttempt,
    Run,
    StartedAttempt,
)


def decide(
    messages: Sequence[Message],
    facts: Facts,
    *,
    now: float,
    version: str,
    issue: Callable[[Kind], str],
) -> Decision:
    """What to write and to publish for the messages, in their order.

    `version` is leveret's own; `issue` makes a new database id.
    """
    deciding = _Deciding(Ledger(facts), now=now, version=version, issue=issue)
    for message in messages:
        deciding.take(message)
    deciding.take_postponed()
    return deciding.decision()


class _Deciding:
    """One batch under way."""

    def __init__(
        self, ledger: Ledger, *, now: float, version: str, issue: Callable[[Kind], str]
    ) -> None:
        self._ledger = ledger
        self._now = now
        self._version = version
        self._issue = issue
        self._heartbeats: dict[str, Heartbeat] = {}
        self._goodbyes: dict[str, None] = {}
        self._queues: dict[str, None] = {}
        self._answers: list[Answer] = []
        self._cancelled: list[str] = []
        self._postponed: list[Cancel] = []
        self._questions: list[Question] = []
        self._refused: list[LateOutcome] = []
        self._unknown: list[Outcomes] = []

    def decision(self) -> Decision:
        ledger = self._ledger
        return Decision(
            definitions=tuple(ledger.changed_definitions.values()),
            runs=tuple(ledger.new_runs.values()),
            waiters=tuple(ledger.new_waiters),
            started=tuple(ledger.started),
            finished=tuple(ledger.finished),
            heartbeats=tuple(self._heartbeats.values()),
            goodbyes=tuple(self._goodbyes),
            queues=tuple(self._queues),
            invocations=tuple(self._pending(new) for new in ledger.pending()),
            answers=tuple(self._answers),
            cancelled=tuple(self._cancelled),
            questions=tuple(self._questions),
            refused=tuple(self._refused),
            unknown=tuple(self._unknown),
        )

    def _pending(self, new: NewRun) -> PendingRun:
        queue = self._ledger.definition(new.run.definition).queue
        return PendingRun(run=new.run, queue=queue, arguments=new.arguments)

    def take(self, message: Message) -> None:
        match message:
            case Submit():
                for submission in message.submissions:
                    self._submit(submission, message.session)
            case Outcomes():
                self._outcomes(message)
            case Attach():
                for run in message.runs:
                    self._attach(run, message.session)
            case Cancel():
                self._cancel_or_postpone(message)
            case RefusedAttempt():
                self._fail(message)
            case Heartbeat():
                self._goodbyes.pop(message.worker, None)
                self._heartbeats[message.worker] = message
                self._ledger.serve(message.definitions)
            case Goodbye():
                self._heartbeats.pop(message.worker, None)
                self._goodbyes[message.worker] = None
            case _:
                self._reply_to(message)

    def take_postponed(self) -> None:
        """The cancellations of runs that were not known when their turn came."""
        for message in self._postponed:
            self._cancel(message)

    def _reply_to(self, message: Hello | Register | Resolve | Question) -> None:
        match message:
            case Register():
                self._register(message)
            case Resolve():
                self._resolve(message)
            case Hello():
                welcome = Welcome(request=message.request, version=self._version)
                self._answer(message.session, welcome)
            case ListDefinitions() | ListRuns() | ShowRun() | ListWorkers():
                self._questions.append(message)

    def _answer(self, session: str, reply: Reply) -> None:
        self._answers.append(Answer(session=session, reply=reply))

    # -- runs asked for --

    def _submit(self, submission: Submission, session: str) -> None:
        run = self._ledger.run(submission.run)
        if run is None:
            try:
                run = self._accept(submission)
            except RequestRefused as refusal:
                self._answer(session, _rejected(submission.run, refusal))
                return
        definition = self._ledger.definition(run.definition)
        if submission.acknowledge:
            self._answer(session, Accepted(run=run.id, definition=definition.as_message()))
        self._tell_end(run, session)
        if run.state in ("pending", "queued") and not self._ledger.is_served(definition.id):
            self._answer(session, Unserved(run=run.id, queue=definition.queue))

    def _accept(self, submission: Submission) -> Run:
        """Make the run's row. A child of a cancelled run is born cancelled."""
        if not (submission.run.startswith("run_") and is_database_id(submission.run)):
            raise Invalid(f"{submission.run!r} is not the id of a run.")
        parent = self._parent(submission)
        definition = resolution.resolve_target(
            submission.target,
            project=parent.project if parent else submission.project,
            known=self._ledger.known,
        )
        is_cancelled = parent is not None and parent.state == "cancelled"
        run = Run(
            id=submission.run,
            project=definition.project,
            definition=definition.id,
            root=parent.root if parent else submission.run,
            parent=parent.id if parent else None,
            state="cancelled" if is_cancelled else "pending",
            attempt=1,
        )
        new = NewRun(
            run=run,
            identity=submission.identity,
            ordinal=submission.ordinal,
            asked_for=_asked_for(submission),
            arguments=submission.arguments,
            created_at=self._now,
            finished_at=self._now if is_cancelled else None,
        )
        self._ledger.insert(new)
        return run

    def _parent(self, submission: Submission) -> Run | None:
        if submission.parent is None:
            return None
        parent = self._ledger.run(submission.parent)
        if parent is None:
            raise UnknownRun(
                f"The run {submission.parent!r}, which is to be the parent of {submission.run!r}, "
                "is not in this catalog."
            )
        return parent

    def _attach(self, run_id: str, session: str) -> None:
        run = self._ledger.run(run_id)
        if run is None:
            refusal = UnknownRun(
                f"There is no run {run_id!r} in this catalog. `leveret runs list` shows those "
                "that exist."
            )
            self._answer(session, _rejected(run_id, refusal))
            return
        self._tell_end(run, session)

    def _tell_end(self, run: Run, session: str) -> None:
        """Tell how the run ended, or tell it later.

        A note is made either way: it goes when the broker has confirmed the answer.
        """
        ended = self._ledger.ended(run.id)
        if ended is not None:
            self._answer(session, ended)
        self._ledger.wait(run.id, session)

    # -- runs that end --

    def _outcomes(self, message: Outcomes) -> None:
        for started in message.started:
            if self._is_acceptable(started, "started", message.worker):
                self._ledger.start(
                    StartedAttempt(
                        run=started.run,
                        attempt=started.attempt,
                        worker=message.worker,
                        started_at=started.started_at,
                    )
                )
        for outcome in message.outcomes:
            if self._is_acceptable(outcome, outcome.state, message.worker):
                self._finish(_finished(outcome, message.worker))
        unknown = [told for told in message.outcomes if self._ledger.run(told.run) is None]
        if unknown:
            self._unknown.append(Outcomes(worker=message.worker, outcomes=tuple(unknown)))

    def _is_acceptable(self, news: Outcome | Started, event: states.Event, worker: str) -> bool:
        run = self._ledger.run(news.run)
        if run is None:
            reason = "no such run"
        elif run.attempt != news.attempt:
            reason = f"the attempt is {run.attempt}"
        elif not states.allows(run.state, event):
            reason = f"the run is {run.state}"
        else:
            return True
        self._refused.append(
            LateOutcome(run=news.run, attempt=news.attempt, worker=worker, reason=reason)
        )
        return False

    def _finish(self, finished: FinishedAttempt) -> None:
        self._ledger.finish(finished)
        for session in self._ledger.waiting(finished.run):
            self._answer(session, finished.as_message())

    def _fail(self, refused: RefusedAttempt) -> None:
        """End a run that no worker can be given."""
        run = self._ledger.run(refused.run)
        if run is None or run.attempt != refused.attempt or not states.allows(run.state, "failed"):
            return
        self._finish(
            FinishedAttempt(
                run=run.id,
                attempt=run.attempt,
                state="failed",
                finished_at=self._now,
                failure=Failure(
                    type=PAYLOAD_ERROR,
                    message=f"the arguments are too large for the broker: {refused.reason}",
                ),
            )
        )

    def _cancel_or_postpone(self, message: Cancel) -> None:
        if all(self._ledger.run(run) for run in message.runs):
            self._cancel(message)
        else:
            self._postponed.append(message)

    def _cancel(self, message: Cancel) -> None:
        stopped: list[str] = []
        for top in message.runs:
            for run in self._ledger.unended_below(top):
                stopped.append(run.id)
                self._finish(
                    FinishedAttempt(
                        run=run.id,
                        attempt=run.attempt,
                        state="cancelled",
                        finished_at=self._now,
                    )
                )
        self._cancelled.extend(stopped)
        if message.request is not None:
            cancelled = Cancelled(request=message.request, runs=tuple(stopped))
            self._answer(message.session, cancelled)

    # -- definitions --

    def _register(self, message: Register) -> None:
        try:
            done = registration.register(
                message.project,
                message.definitions,
                known=self._ledger.known.definitions,
                now=self._now,
                issue=self._issue,
            )
        except RequestRefused as refusal:
            self._answer(message.session, _refused(message.request, refusal))
            return
        self._ledger.put_definitions(done.changed)
        self._queues.update(dict.fromkeys(definition.queue for definition in done.definitions))
        records = tuple(definition.as_message() for definition in done.definitions)
        self._answer(message.session, Registered(request=message.request, definitions=records))

    def _resolve(self, message: Resolve) -> None:
        try:
            definition = resolution.resolve(
                message.identifier, project=message.project, known=self._ledger.known
            )
        except RequestRefused as refusal:
            self._answer(message.session, _refused(message.request, refusal))
            return
        resolved = Resolved(request=message.request, definition=definition.as_message())
        self._answer(message.session, resolved)


def _asked_for(submission: Submission) -> str:
    target = submission.target
    if target.identifier is not None:
        return target.identifier
    return f"{target.name}:{target.version}" if target.version else f"{target.name}"


def _finished(outcome: Outcome, worker: str) -> FinishedAttempt:
    return FinishedAttempt(
        run=outcome.run,
        attempt=outcome.attempt,
        state=outcome.state,
        started_at=outcome.started_at,
        finished_at=outcome.finished_at,
        worker=worker,
        result=outcome.result,
        error=outcome.error,
        failure=outcome.failure,
    )


def _rejected(run: str, refusal: RequestRefused) -> Rejected:
    return Rejected(run=run, code=refusal.code, message=str(refusal))


def _refused(request: str, refusal: RequestRefused) -> Refused:
    return Refused(request=request, code=refusal.code, message=str(refusal))
