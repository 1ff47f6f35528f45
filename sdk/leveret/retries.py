"""How a run that failed is tried again, and the numbers and times that options may have."""

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast

from leveret.errors import DefinitionError

if TYPE_CHECKING:
    from leveret_broker.messages import RetryPolicy

Seconds = float | timedelta
"""A time span: seconds, or a `timedelta`."""
ExceptionTypes = type[BaseException] | Iterable[type[BaseException]]

MOST = 10_000
"""Retries that may be asked for."""
LONGEST = timedelta(days=365).total_seconds()
"""Seconds that anything may take or wait."""
STEEPEST = 100.0
"""What one delay may be multiplied by to give the next."""
CAP = 60.0
"""Seconds that no delay exceeds, if nothing else is said."""


@dataclass(frozen=True)
class Retry:
    """How often a run that failed is tried again, and when. Raises `DefinitionError`.

    The n-th retry comes `initial * factor ** (n - 1)` seconds after the failure, at most `cap`.
    Any exception class may be named, `SystemExit` and `KeyboardInterrupt` too: a task that raises
    them has failed like any other.
    """

    max: int = 3
    """Retries, so attempts that may fail less one; 0 to 10,000."""
    _: KW_ONLY
    initial: Seconds = 1.0
    """Before the first retry: seconds or a `timedelta`, from 0 to a year."""
    factor: float = 2.0
    """What each delay is multiplied by to give the next: 1 to 100."""
    cap: Seconds | None = None
    """What no delay exceeds; by default a minute, or `initial` if that is longer."""
    jitter: float = 0.1
    """The share of a delay that is left to chance: 0 to 1."""
    on: ExceptionTypes | None = None
    """The exceptions after which it is tried again, subclasses included; by default any."""
    unless: ExceptionTypes = ()
    """The exceptions after which it is not, subclasses included."""
    then: Literal["fail", "park"] = "fail"
    """What becomes of the run when no retry is left. A parked one keeps everything and can be
    resumed."""

    def __post_init__(self) -> None:
        initial = seconds("Retry: initial", self.initial, zero=True)
        checked: dict[str, object] = {
            "max": count("Retry: max", self.max),
            "initial": initial,
            "factor": number("Retry: factor", self.factor, 1, STEEPEST),
            "jitter": number("Retry: jitter", self.jitter, 0, 1),
            "on": None if self.on is None else exceptions("Retry: on", self.on),
            "unless": exceptions("Retry: unless", self.unless),
        }
        if self.cap is not None:
            checked["cap"] = seconds("Retry: cap", self.cap, zero=True)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.cap is not None and cast(float, self.cap) < initial:
            raise DefinitionError(
                f"Retry: cap is {self.cap!r}, less than initial, {initial!r}: "
                "the first delay would exceed what no delay may"
            )
        if self.then not in ("fail", "park"):
            raise DefinitionError(f"Retry: then is {self.then!r}, and 'fail' or 'park' is allowed")
        self._check_exceptions()

    def _check_exceptions(self) -> None:
        if self.on == ():
            raise DefinitionError(
                "Retry: on names no exception, so nothing would ever be retried: leave it out "
                "for all of them, or set max to 0"
            )
        unless = cast("tuple[type[BaseException], ...]", self.unless)
        for kind in cast("tuple[type[BaseException], ...]", self.on or ()):
            if issubclass(kind, unless):
                raise DefinitionError(
                    f"Retry: on names {kind.__qualname__}, and unless excludes it: it can't be both"
                )

    def message(self) -> "RetryPolicy":
        """The same as it travels: times in seconds, exceptions by their qualified names."""
        from leveret_broker.messages import RetryPolicy

        initial = cast(float, self.initial)
        return RetryPolicy(
            max=self.max,
            initial=initial,
            factor=self.factor,
            cap=max(CAP, initial) if self.cap is None else cast(float, self.cap),
            jitter=self.jitter,
            on=None if self.on is None else _names(self.on),
            unless=_names(self.unless),
            then=self.then,
        )


def _names(kinds: Any) -> tuple[str, ...]:
    from leveret.failures import type_name  # imported late, for the sake of `import leveret`

    return tuple(map(type_name, kinds))


# -- what options may be --------------------------------------------------------------------------


def count(what: str, value: object) -> int:
    """A number of retries. Raises `DefinitionError` saying what is allowed."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST:
        return value
    raise DefinitionError(f"{what} is {value!r}, and a whole number from 0 to {MOST} is allowed")


def number(what: str, value: object, least: float, most: float) -> float:
    """A number within bounds. Raises `DefinitionError` saying what is allowed."""
    if _is_number(value) and least <= value <= most:
        return float(value)
    raise DefinitionError(f"{what} is {value!r}, and a number from {least} to {most:g} is allowed")


def seconds(what: str, value: object, *, zero: bool = False) -> float:
    """A time span in seconds. Raises `DefinitionError` saying what is allowed."""
    given = value.total_seconds() if isinstance(value, timedelta) else value
    if _is_number(given) and (given > 0 or (zero and given == 0)) and given <= LONGEST:
        return float(given)
    least = "from 0" if zero else "above 0"
    raise DefinitionError(
        f"{what} is {value!r}, and seconds {least} to {LONGEST:.0f} (a year) are allowed, "
        "as a number or a timedelta"
    )


def exceptions(what: str, value: object) -> tuple[type[BaseException], ...]:
    """Exception classes, of one or several. Raises `DefinitionError` naming what is none."""
    kinds: tuple[object, ...] = (value,)
    if isinstance(value, Iterable) and not isinstance(value, (type, str)):
        kinds = tuple(cast("Iterable[object]", value))
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise DefinitionError(
                f"{what} names {kind!r}, which is no exception class: write an exception's class, "
                "such as ConnectionError, or a tuple of them"
            )
    return cast("tuple[type[BaseException], ...]", kinds)


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, int) or math.isfinite(value)
