"""What a definition or a call asks for beyond its code: retries, time limits, a key."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

from leveret.errors import DefinitionError
from leveret.retries import ExceptionTypes, Retry, Seconds, count, seconds

if TYPE_CHECKING:
    from leveret_broker.messages import RunOptions

LONGEST_KEY = 200
"""Characters."""


class Wanted(TypedDict, total=False):
    """The options of a definition. What is left out stays as it was, or as nothing says."""

    retries: int | Retry | None
    """How often a run that failed is tried again; `None` or 0 for never."""
    backoff: Seconds
    """Before the first retry: short for `Retry(initial=…)`."""
    retry_on: ExceptionTypes | None
    """Exceptions after which it is tried again: short for `Retry(on=…)`."""
    timeout: Seconds | None
    """Of one attempt; `None` for no limit, here and below."""
    total_timeout: Seconds | None
    """From acceptance to the end, over all attempts and the waits between them."""
    queue_timeout: Seconds | None
    """From the publication of an attempt until a worker starts it."""
    lost_retries: int
    """How often a run is executed again whose worker or process died."""


class WantedOfCall(Wanted, total=False):
    """The same, and what only a call can have."""

    key: str | None
    """What the run is known by in place of its arguments."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that were checked."""

    retry: Retry | None = None
    timeout: float | None = None
    total_timeout: float | None = None
    queue_timeout: float | None = None
    lost_retries: int = 3

    @cached_property
    def message(self) -> "RunOptions":
        """The same as they travel."""
        from leveret_broker.messages import RunOptions

        return RunOptions(
            retry=self.retry.message() if self.retry is not None else None,
            lost_retries=self.lost_retries,
            timeout=self.timeout,
            total_timeout=self.total_timeout,
            queue_timeout=self.queue_timeout,
        )


def changed(before: Options | None, wanted: Mapping[str, Any], what: str) -> Options | None:
    """The options with what is wanted; `None` if nothing ever was.

    Raises `DefinitionError` saying what is allowed, and `TypeError` for an option that isn't one.
    """
    for name in wanted:
        if name not in Wanted.__annotations__:
            allowed = ", ".join(Wanted.__annotations__)
            raise TypeError(f"{what} has no option {name!r}; there are {allowed}")
    if not wanted:
        return before
    options = before or Options()
    changes: dict[str, Any] = {
        name: None if wanted[name] is None else seconds(f"{what}: {name}", wanted[name])
        for name in ("timeout", "total_timeout", "queue_timeout")
        if name in wanted
    }
    if "lost_retries" in wanted:
        changes["lost_retries"] = count(f"{what}: lost_retries", wanted["lost_retries"])
    try:
        retry = _retry(options.retry, wanted)
    except DefinitionError as error:
        raise DefinitionError(f"{what}: {error}") from error
    return replace(options, retry=retry, **changes)


def _retry(before: Retry | None, wanted: Mapping[str, Any]) -> Retry | None:
    retries: object = wanted.get("retries", before)
    shorts = {"backoff": "initial", "retry_on": "on"}
    short = {full: wanted[name] for name, full in shorts.items() if name in wanted}
    if not short:
        return _policy(before, retries)
    names = " and ".join(name for name in shorts if name in wanted)
    if isinstance(retries, Retry) and "retries" in wanted:
        raise DefinitionError(
            f"{names} beside a Retry: give the Retry itself initial= and on=, "
            "or write retries as a number"
        )
    policy = _policy(before, retries)
    if policy is None or policy.max == 0:
        raise DefinitionError(f"{names} without retries: say how many, such as retries=3")
    return replace(policy, **short)


def _policy(before: Retry | None, retries: object) -> Retry | None:
    """A number keeps all that an earlier policy says beside its own."""
    if retries is None or isinstance(retries, Retry):
        return retries
    if isinstance(retries, bool) or not isinstance(retries, int):
        raise DefinitionError(f"retries is {retries!r}, and a number or a leveret.Retry is allowed")
    return replace(before or Retry(), max=count("retries", retries))


def checked_key(key: object) -> str:
    """A key that can name a run. Raises `DefinitionError` saying what is allowed."""
    if isinstance(key, str) and 1 <= len(key) <= LONGEST_KEY and key.isprintable():
        return key
    shown = repr(key)
    raise DefinitionError(
        f"the key is {shown if len(shown) <= 60 else shown[:60] + '…'}, and a text of 1 to "
        f"{LONGEST_KEY} printable characters is allowed"
    )
