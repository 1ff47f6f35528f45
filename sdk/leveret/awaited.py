"""The runs that a session waits for, and what becomes of two calls that mean one run.

Rules of this file:

- Calls that are the same share a `Pending`: both hear the end.
- A call with other arguments for the same run, or of a later round of its workflow, is held: it
  must not be answered by what is meant for the first. It has its turn when the first has ended, or
  is refused once the first was accepted, since then nobody else's arguments have the key.
- What is asked for as an input is settled when it is accepted. Who awaits it all the same attaches
  to it then, and before that takes its place.
- `submit`, `attach` and `listen` may be called from any thread, all else on the session's loop.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

from leveret.pending import Pending
from leveret_broker import messages

Send = Callable[[messages.Submission], None]


class Awaited:
    """What is submitted or attached to, and has not ended.

    `send` sends a submission, `send_again` one that takes the place of an earlier one; both on the
    session's loop, where `post` runs a function.
    """

    def __init__(
        self, *, post: Callable[[Callable[[], None], Pending], None], send: Send, send_again: Send
    ) -> None:
        self._post = post
        self._send = send
        self._send_again = send_again
        self._submitted: dict[str, Pending] = {}
        self._held: dict[str, list[Pending]] = {}
        """What differs from the submission that has the run in `_submitted`."""
        self._attached: dict[str, Pending] = {}
        self._dependents: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """What is submitted and has inputs, by these."""

    # -- from any thread --------------------------------------------------------------------------

    def submit(self, submission: messages.Submission) -> Pending:
        """What is to be awaited for this submission, which is sent unless it is asked already."""
        pending = Pending(submission)
        known = self._submitted.setdefault(submission.run, pending)
        asked = known.submission
        if known is pending:
            self._post(partial(self._begin, submission), pending)
            return pending
        if asked is None or _differ(submission, asked):
            self._post(partial(self._hold, pending), pending)
            return pending
        if submission.acknowledge and not asked.acknowledge:
            self._post(partial(self._acknowledge, known), known)
        return known

    def attach(
        self, run: str, send: Callable[[], None], *, attempt: int = 0, round: int = 0
    ) -> Pending:
        """What is to be awaited for a run's end; `send` asks for it, unless somebody has.

        An earlier attempt than `attempt` is not the last, nor is a failure in an earlier round.
        """
        submitted = self._submitted.get(run)
        asked = submitted.submission if submitted is not None else None
        if submitted is not None and (asked is None or not asked.is_input):
            return submitted
        pending = Pending()
        known = self._attached.setdefault(run, pending)
        known.attempt = max(known.attempt, attempt)
        known.round = max(known.round, round)
        if known is pending:
            self._post(send, pending)
        return known

    def listen(self, run: str, send: Callable[[], None], *, round: int) -> Pending:
        """What is to be awaited for the end of a run that was asked for as an input.

        `send` attaches to it.
        """
        known = self._submitted.get(run)
        asked = known.submission if known is not None else None
        if known is None or asked is None:
            return self.attach(run, send, round=round)
        if not asked.is_input:
            return known
        pending = Pending(asked.model_copy(update={"is_input": False}))
        self._post(partial(self._take_place, pending), pending)
        return pending

    # -- on the session's loop --------------------------------------------------------------------

    @property
    def submissions(self) -> list[messages.Submission]:
        """What is asked and not answered."""
        asked = [pending.submission for pending in list(self._submitted.values())]
        return [submission for submission in asked if submission is not None]

    @property
    def attached(self) -> tuple[str, ...]:
        """The runs that are only attached to."""
        return tuple(self._attached)

    def inputs(self, run: str) -> tuple[str, ...]:
        """Those of a submission that is not answered."""
        pending = self._submitted.get(run)
        asked = pending.submission if pending is not None else None
        return () if asked is None else asked.inputs

    def unready(self, run: str) -> list[messages.Submission]:
        """What is to be sent again for a run that came before its inputs: these, as far as they
        have no answer yet, and it; nothing if nobody wants it any more."""
        pending = self._submitted.get(run)
        if pending is None or pending.submission is None:
            return []
        if pending.is_unwanted:
            self.cancel_unsent(run)
            return []
        known = [self._submitted.get(made) for made in pending.submission.inputs]
        asked = [each.submission for each in known if each is not None]
        return [*(each for each in asked if each is not None), pending.submission]

    def accept(self, accepted: messages.Accepted) -> None:
        """The coordinator keeps the run."""
        pending = self._submitted.get(accepted.run)
        if pending is None:
            return
        pending.update(lambda pending: setattr(pending, "accepted", accepted))
        if pending.submission is not None and pending.submission.is_input:
            self._pop(accepted.run)
            pending.settle(accepted)
            self._let_go(accepted.run)
        else:
            self._refuse_conflicts(pending)

    def warn(self, notice: messages.Unserved) -> None:
        """Nobody serves the run. Who waits for it as an input is told as well."""
        for run in (notice.run, *self._dependents.get(notice.run, ())):
            if pending := self._submitted.get(run):
                pending.update(lambda pending: pending.unserved.append(notice))

    def finish(self, end: messages.Finished) -> None:
        """The run has ended: all who wait hear it."""
        # Both are taken before either hears: who does may submit the run anew, on another thread.
        attached = _taken(self._attached, end)
        pending = _taken(self._submitted, end)
        if pending is not None:
            self._forget_inputs(pending)
        if attached is not None:
            attached.settle(end)
        if pending is not None:
            pending.submission = None  # who keeps the run needn't keep its arguments
            pending.settle(end)
            self._let_go(end.run)

    def reject(self, rejected: messages.Rejected) -> None:
        """The submission is refused, or, if the run is unknown, who attached to it."""
        run = rejected.run
        if rejected.code == "unknown-run":
            # No submission is answered so: what is asked for is made. It may come twice, and late.
            if attached := self._attached.pop(run, None):
                attached.settle(rejected)
        elif pending := self._pop(run):
            pending.settle(rejected)
            self._let_go(run)
            told = f"its input {run} was refused: {rejected.message}"
            for dependent in self._dependents.pop(run, {}):
                update = {"run": dependent, "message": told, "arguments": None}
                self.reject(rejected.model_copy(update=update))

    def fail(self, run: str, error: Exception) -> None:
        """There will be no answer."""
        attached = self._attached.pop(run, None)
        pending = self._pop(run)
        if attached is not None:
            attached.fail(error)
        if pending is not None:
            pending.fail(error)
            self._let_go(run)
        for dependent in self._dependents.pop(run, {}):
            self.fail(dependent, error)

    def cancel_held(self, run: str) -> None:
        """What is held is not sent any more."""
        for pending in self._held.pop(run, ()):
            pending.settle(messages.Finished(run=run, state="cancelled"))

    def cancel_unsent(self, run: str) -> None:
        """Its submission was not sent, and will not be: the coordinator has nothing to cancel."""
        if pending := self._pop(run):
            pending.settle(messages.Finished(run=run, state="cancelled"))

    def give_up(self, run: str) -> None:
        """Nobody wants it any more: it is not sent once more."""
        if pending := self._submitted.get(run):
            pending.is_unwanted = True

    def take_all(self) -> Iterator[Pending]:
        """Forget everything; all who wait, to be told why."""
        submitted, self._submitted = self._submitted, {}
        attached, self._attached = self._attached, {}
        held, self._held = self._held, {}
        yield from submitted.values()
        yield from attached.values()
        for pending in held.values():
            yield from pending

    def _begin(self, submission: messages.Submission) -> None:
        for made in submission.inputs:
            self._dependents[made][submission.run] = None
        self._send(submission)

    def _pop(self, run: str) -> Pending | None:
        pending = self._submitted.pop(run, None)
        if pending is not None:
            self._forget_inputs(pending)
        return pending

    def _forget_inputs(self, pending: Pending) -> None:
        asked = pending.submission
        for made in asked.inputs if asked is not None else ():
            dependents = self._dependents.get(made, {})
            dependents.pop(asked.run if asked is not None else "", None)
            if not dependents:
                self._dependents.pop(made, None)

    def _take_place(self, pending: Pending) -> None:
        """Somebody awaits what was asked for as an input, if it is not accepted by now."""
        asked = pending.submission
        assert asked is not None
        known = self._submitted.get(asked.run)
        if known is not None and known.submission is not None and known.submission.is_input:
            self._submitted[asked.run] = pending
            self._send_again(asked)
        else:
            self._hold(pending)

    def _hold(self, pending: Pending) -> None:
        submission = pending.submission
        assert submission is not None
        known = self._submitted.setdefault(submission.run, pending)
        if known is pending:  # the other has ended by now
            self._begin(submission)
            return
        self._held.setdefault(submission.run, []).append(pending)
        if _conflict(submission, known.submission):
            self._acknowledge(known)
            self._refuse_conflicts(known)

    def _acknowledge(self, known: Pending) -> None:
        """Have a submission acknowledged that didn't ask for it."""
        asked = known.submission
        if asked is not None and known.accepted is None and not asked.acknowledge:
            known.submission = asked.model_copy(update={"acknowledge": True})
            self._send_again(known.submission)

    def _refuse_conflicts(self, known: Pending) -> None:
        asked = known.submission
        if asked is None or known.accepted is None or asked.run not in self._held:
            return
        held = self._held.pop(asked.run)
        self._held[asked.run] = [each for each in held if not _conflict(each.submission, asked)]
        for pending in held:
            if _conflict(pending.submission, asked):
                pending.settle(_key_in_use(asked))

    def _let_go(self, run: str) -> None:
        """The run has no submission any more: what was held has its turn."""
        for pending in self._held.pop(run, ()):
            self._hold(pending)


def _taken(awaited: dict[str, Pending], end: messages.Finished) -> Pending | None:
    """Who waits for this end; nobody who waits for that of a later attempt or round."""
    pending = awaited.get(end.run)
    if pending is None or pending.is_beyond(end):
        return None
    return awaited.pop(end.run)


def _key_in_use(holder: messages.Submission) -> messages.Rejected:
    return messages.Rejected(
        run=holder.run,
        code="key-conflict",
        message=f"the key of run {holder.run} is in use with other arguments",
        arguments=holder.arguments,
    )


def _differ(one: messages.Submission, other: messages.Submission) -> bool:
    """Whether the answer to the one is none to the other."""
    return one.round != other.round or _conflict(one, other)


def _conflict(one: messages.Submission | None, other: messages.Submission | None) -> bool:
    """Whether they give one run different arguments."""
    if one is None or other is None or one.digest is None or other.digest is None:
        return False
    return one.digest != other.digest
