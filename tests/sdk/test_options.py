"""Retries, time limits and keys: what may be asked for, and how it travels."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

import leveret
from leveret import Retry, define, definitions
from leveret.options import LONGEST_KEY
from leveret_broker.messages import RetryPolicy, RunOptions

retry = cast(Any, Retry)
task = cast(Any, define.task)
workflow = cast(Any, define.workflow)


class Flaky(Exception):
    class Inner(Exception):
        pass


def sync_function(a: int) -> int:
    return a


async def async_function(a: int) -> int:
    return a


def sent(definition: Any) -> RunOptions:
    options = definition.run_options
    assert isinstance(options, RunOptions)
    return options


# -- Retry ----------------------------------------------------------------------------------------


def test_a_retry_travels_with_seconds_and_names() -> None:
    asked = Retry(
        5,
        initial=timedelta(minutes=2),
        factor=3,
        cap=timedelta(hours=1),
        jitter=0,
        on=(Flaky, OSError),
        unless=[Flaky.Inner],
        then="park",
    )
    assert asked.message() == RetryPolicy(
        max=5,
        initial=120.0,
        factor=3.0,
        cap=3600.0,
        jitter=0.0,
        on=(f"{__name__}.Flaky", "OSError"),
        unless=(f"{__name__}.Flaky.Inner",),
        then="park",
    )


def test_a_retry_that_says_nothing_retries_after_anything() -> None:
    policy = Retry().message()
    assert (policy.max, policy.initial, policy.factor, policy.cap) == (3, 1.0, 2.0, 60.0)
    assert (policy.jitter, policy.on, policy.unless, policy.then) == (0.1, None, (), "fail")


def test_a_first_delay_over_a_minute_raises_the_cap_that_nobody_set() -> None:
    assert Retry(initial=300).message().cap == 300.0


def test_one_exception_or_several_may_be_named() -> None:
    for on in (OSError, (OSError,), [OSError], {OSError}):
        assert Retry(on=on) == Retry(on=OSError)
    assert Retry(on=[OSError, KeyError]).message().on == ("OSError", "KeyError")


def test_an_exception_that_ends_a_program_may_be_named() -> None:
    kinds = (SystemExit, KeyboardInterrupt)
    assert Retry(unless=kinds).message().unless == ("SystemExit", "KeyboardInterrupt")


def test_equal_retries_are_equal_and_frozen() -> None:
    asked = Retry(2, initial=timedelta(seconds=3))
    assert asked == Retry(max=2, initial=3.0)
    with pytest.raises(AttributeError):
        cast(Any, asked).max = 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max": -1}, "max is -1, and a whole number from 0 to 10000"),
        ({"max": 10_001}, "from 0 to 10000"),
        ({"max": True}, "max is True"),
        ({"max": 1.5}, "max is 1.5"),
        ({"max": "3"}, "max is '3'"),
        ({"initial": -1}, "initial is -1, and seconds from 0 to 31536000"),
        ({"initial": math.nan}, "initial is nan"),
        ({"initial": math.inf}, "initial is inf"),
        ({"initial": "1"}, "initial is '1'"),
        ({"initial": True}, "initial is True"),
        ({"initial": 10**400}, "seconds from 0"),
        ({"initial": timedelta(seconds=-1)}, "a number or a timedelta"),
        ({"initial": timedelta(days=366)}, "a year"),
        ({"factor": 0.5}, "factor is 0.5, and a number from 1 to 100"),
        ({"factor": math.nan}, "factor is nan"),
        ({"factor": 101}, "from 1 to 100"),
        ({"factor": None}, "factor is None"),
        ({"cap": -1}, "cap is -1"),
        ({"initial": 5, "cap": 4}, "cap is 4.0, less than initial, 5.0"),
        ({"jitter": -0.1}, "jitter is -0.1, and a number from 0 to 1"),
        ({"jitter": 1.1}, "from 0 to 1"),
        ({"jitter": False}, "jitter is False"),
        ({"on": ()}, "names no exception"),
        ({"on": int}, "names <class 'int'>, which is no exception class"),
        ({"on": "OSError"}, "names 'OSError', which is no exception class"),
        ({"on": OSError()}, "which is no exception class"),
        ({"on": 3}, "names 3"),
        ({"on": [OSError, None]}, "names None"),
        ({"unless": (OSError, "x")}, "unless names 'x'"),
        ({"on": ConnectionError, "unless": OSError}, "ConnectionError, and unless excludes it"),
        ({"then": "explode"}, "'fail' or 'park'"),
    ],
)
def test_what_no_retry_can_be_is_refused_saying_what_can(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(leveret.DefinitionError, match=reason):
        retry(**options)


# -- options of definitions -----------------------------------------------------------------------


@pytest.mark.parametrize("decorate", [task, workflow])
def test_a_definition_has_the_options_that_it_was_given(decorate: Any) -> None:
    defined = decorate(
        retries=3,
        backoff=5,
        retry_on=OSError,
        timeout=timedelta(minutes=1),
        total_timeout=600,
        queue_timeout=0.5,
        lost_retries=0,
    )(async_function)
    assert sent(defined) == RunOptions(
        retry=Retry(3, initial=5, on=OSError).message(),
        lost_retries=0,
        timeout=60.0,
        total_timeout=600.0,
        queue_timeout=0.5,
    )


def test_a_definition_that_asks_for_nothing_sends_no_options() -> None:
    assert define.task(sync_function).run_options is None
    assert define.task(version="1")(sync_function).run_options is None


def test_a_retry_is_taken_as_it_is() -> None:
    asked = Retry(7, initial=2, then="park")
    assert sent(define.task(retries=asked)(sync_function)).retry == asked.message()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"retries": -1}, "retries is -1, and a whole number from 0"),
    ({"retries": True}, "retries is True, and a number or a leveret.Retry"),
    ({"retries": "3"}, "retries is '3'"),
    ({"retries": 1.0}, "retries is 1.0"),
    ({"retries": 10**9}, "10000"),
    ({"retries": 1, "backoff": -1}, "initial is -1"),
    ({"retries": 1, "backoff": math.nan}, "initial is nan"),
    ({"retries": 1, "backoff": None}, "initial is None"),
    ({"retries": 1, "retry_on": "ValueError"}, "no exception class"),
    ({"retries": 1, "retry_on": 3}, "no exception class"),
    ({"retries": 1, "retry_on": []}, "names no exception"),
    ({"backoff": 1}, "backoff without retries: say how many"),
    ({"retry_on": OSError}, "retry_on without retries"),
    ({"retries": 0, "backoff": 1, "retry_on": OSError}, "backoff and retry_on without retries"),
    ({"retries": Retry(3), "backoff": 1}, "backoff beside a Retry"),
    ({"retries": Retry(3), "retry_on": OSError}, "retry_on beside a Retry"),
    ({"timeout": 0}, "timeout is 0, and seconds above 0"),
    ({"timeout": -5}, "timeout is -5"),
    ({"timeout": math.inf}, "timeout is inf"),
    ({"timeout": "60"}, "timeout is '60'"),
    ({"timeout": timedelta(0)}, "seconds above 0"),
    ({"total_timeout": math.nan}, "total_timeout is nan"),
    ({"queue_timeout": timedelta(days=400)}, "queue_timeout"),
    ({"queue_timeout": False}, "queue_timeout is False"),
    ({"lost_retries": -1}, "lost_retries is -1"),
    ({"lost_retries": None}, "lost_retries is None"),
]


@pytest.mark.parametrize(("options", "reason"), WRONG)
def test_absurd_options_are_refused_at_the_definition(options: dict[str, Any], reason: str) -> None:
    for decorate in (task, workflow):
        with pytest.raises(leveret.DefinitionError, match=reason):
            decorate(**options)(async_function)


@pytest.mark.parametrize(("options", "reason"), WRONG)
def test_absurd_options_are_refused_at_the_call(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(leveret.DefinitionError, match=reason) as refusal:
        cast(Any, define.task(sync_function)).options(**options)
    assert "sync_function" in str(refusal.value)


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    for refused in (
        lambda: task(retry=3)(sync_function),
        lambda: task(key="a")(sync_function),
        lambda: cast(Any, define.task(sync_function)).options(name="other"),
    ):
        with pytest.raises(TypeError, match="has no option"):
            cast(Callable[[], object], refused)()


# -- options of calls -----------------------------------------------------------------------------


def test_the_same_definition_with_other_options_is_the_same_definition() -> None:
    defined = define.task(name="same", version="3", runs_in="thread")(sync_function)
    other = defined.options(retries=2)
    assert isinstance(other, leveret.Task)
    assert (other.fn, other.name, other.version) == (sync_function, "same", "3")
    assert (other.runs_in, other.fingerprint) == ("thread", defined.fingerprint)
    assert other.base is defined.base is defined
    assert defined.run_options is None


def test_a_definition_with_other_options_counts_for_nothing_anew() -> None:
    defined = define.task(name="once", version="4")(sync_function)
    other = defined.options(retries=2).options(key="k")
    assert other not in definitions.known()
    assert [one for one in definitions.latest() if one.name == "once"] == [defined]
    assert other.base is defined


def test_an_option_that_is_left_out_stays() -> None:
    defined = define.task(retries=3, backoff=9, retry_on=OSError, timeout=5)(sync_function)
    expected = Retry(4, initial=9, on=OSError).message()
    other = sent(defined.options(retries=4))
    assert (other.retry, other.timeout) == (expected, 5.0)
    later = sent(defined.options(backoff=1, retry_on=None)).retry
    assert later == Retry(3, initial=1).message()


def test_none_takes_an_option_away() -> None:
    defined = define.workflow(retries=3, timeout=5, total_timeout=6)(async_function)
    other = sent(defined.options(timeout=None, retries=None))
    assert other == RunOptions(total_timeout=6.0)


def test_options_that_are_as_usual_are_sent_if_they_were_asked_for() -> None:
    assert sent(define.task(sync_function).options(timeout=None)) == RunOptions()


def test_a_key_alone_is_no_option_of_the_run() -> None:
    other = define.task(sync_function).options(key="the key")
    assert (other.key, other.run_options) == ("the key", None)
    assert other.options(retries=1).key == "the key"
    assert other.options(key=None).key is None


@pytest.mark.parametrize(
    "key", ["", "x" * (LONGEST_KEY + 1), 3, b"k", "a\0b", "two\nlines", "\ud800", True]
)
def test_a_key_that_can_name_no_run_is_refused(key: Any) -> None:
    with pytest.raises(leveret.DefinitionError, match="1 to 200 printable characters"):
        define.task(sync_function).options(key=key)


def test_a_long_key_is_not_shown_in_full() -> None:
    with pytest.raises(leveret.DefinitionError) as refusal:
        define.task(sync_function).options(key="x" * 10_000)
    assert len(str(refusal.value)) < 300
