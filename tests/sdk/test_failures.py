"""Exceptions are raised again in another process as their own type, or told in words."""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leveret import errors, payload
from leveret.errors import RemoteError
from leveret.failures import RemoteTraceback, decode_failure, describe, encode_failure
from leveret.keys import Keyring, load_keyring, new_key
from leveret.payload import Context
from leveret.pending import Pending
from leveret.sealing import Sealer
from leveret_broker.messages import Failure

KEYS = load_keyring(new_key())
E = TypeVar("E", bound=BaseException)
CONTEXT = Context(project="vision", run="run_1", definition="train", direction="error")


def raised(error: E) -> E:
    """The exception, with a traceback."""
    try:
        raise error
    except BaseException:
        return error


def there_and_back(error: BaseException, keys: Keyring | None = None) -> Any:
    data = encode_failure(raised(error), sealer=Sealer(keys), context=CONTEXT)
    return decode_failure(data, describe(error), sealer=Sealer(keys), context=CONTEXT)


class Plain(ValueError):
    pass


class OwnInit(Exception):
    def __init__(self, first: int, *, second: str) -> None:
        super().__init__(f"{first}{second}")
        self.first = first
        self.second = second


class Forgetful(Exception):
    """Its `args` aren't what its `__init__` wants, so that usual pickling fails."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("one text")
        self.sum = first + second


class OwnNew(Exception):
    def __new__(cls, *, needed: int) -> "OwnNew":
        made = super().__new__(cls)
        made.args = (needed,)
        return made

    def __init__(self, *, needed: int) -> None:
        pass


class Slotted(Exception):
    __slots__ = ("empty", "kept")

    def __init__(self, kept: int) -> None:
        self.kept = kept


class Missing(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "no such thing", path)


class Both(ValueError, OSError):
    pass


class Outer(Exception):
    class Inner(Exception):
        pass


class Team(ExceptionGroup[Exception]):
    pass


def fields(error: Any) -> dict[str, Any]:
    """All that an exception shows, but its traceback and cause."""
    is_group = issubclass(type(error), BaseExceptionGroup)
    skipped = {"args", "exceptions"} if is_group else {"obj"}
    shown: dict[str, Any] = {"str": str(error)}
    for name in sorted(set(dir(error)) - skipped):
        value = getattr(error, name, None)
        if not callable(value) and (not name.startswith("__") or name == "__notes__"):
            shown[name] = value
    if is_group:
        shown["exceptions"] = [(type(each), fields(each)) for each in error.exceptions]
    return shown


def built(make: Callable[[], object]) -> BaseException:
    """The exception that Python itself raises."""
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def noted(error: E) -> E:
    error.add_note("first note")
    error.add_note("second note")
    return error


EXCEPTIONS: list[BaseException] = [
    ValueError(),
    ValueError("text", 1, (2, None), {"a": b"b"}),
    Plain("mine"),
    KeyError("key"),
    OwnInit(1, second="b"),
    Forgetful(1, 2),
    OwnNew(needed=3),
    Slotted(4),
    Missing("a/b"),
    Both("both"),
    Outer.Inner("nested name"),
    OSError(2, "No such file", "name"),
    OSError("only text"),
    PermissionError(13, "denied", "a", None, "b"),
    built(lambda: pathlib.Path("/nowhere/at/all").read_bytes()),
    built(lambda: b"\xff".decode()),
    built(lambda: "\ud800".encode()),
    UnicodeTranslateError("ab", 0, 1, "reason"),
    SystemExit(3),
    SystemExit("bye"),
    KeyboardInterrupt(),
    StopIteration({"value": 1}),
    StopAsyncIteration(),
    ImportError("no", name="module", path="here"),
    built(lambda: __import__("surely_not_there")),
    built(lambda: getattr(object(), "absent")),  # noqa: B009
    NameError("who", name="who"),
    built(lambda: compile("a b", "file.py", "exec")),
    built(lambda: json.loads("{")),
    asyncio.CancelledError("message"),
    TimeoutError(),
    MemoryError(),
    RecursionError("deep"),
    subprocess.CalledProcessError(1, ["cmd"], b"out"),
    noted(ValueError("with notes")),
    ExceptionGroup("group", [ValueError(1), noted(OwnInit(1, second="x"))]),
    BaseExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("k")]), KeyboardInterrupt()]),
    Team("own", [OSError(1, "x")]),
    errors.RunCancelled("run_1 was cancelled"),
    errors.WorkerLost("killed by signal 9"),
    errors.RunTimeout("took too long"),
    errors.CoordinatorUnreachable("amqp://host"),
    errors.PayloadError("no"),
    RemoteError("lib.Error", "what", "Traceback"),
]


@pytest.mark.parametrize("keys", [None, KEYS], ids=["no key", "key"])
@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_an_exception_comes_back_as_its_own_type_with_all_it_holds(
    error: BaseException, keys: Keyring | None
) -> None:
    arrived = there_and_back(error, keys)
    assert type(arrived) is type(error)
    assert fields(arrived) == fields(error)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers() | st.text() | st.none() | st.tuples(st.integers()), max_size=4))
def test_any_args_come_back(args: list[object]) -> None:
    assert there_and_back(OSError(*args)).args == OSError(*args).args
    assert there_and_back(Plain(*args)).args == tuple(args)


def test_the_remote_traceback_is_the_cause_and_holds_the_chain_of_causes() -> None:
    def fail() -> None:
        try:
            raise KeyError("the root")
        except KeyError as error:
            raise ValueError("the result") from error

    arrived = there_and_back(built(fail))
    assert isinstance(arrived.__cause__, RemoteTraceback)
    text = arrived.__cause__.text
    assert "KeyError: 'the root'" in text
    assert "direct cause" in text
    assert "in fail" in text
    assert text in "".join(traceback.format_exception(arrived))


def test_frames_of_leveret_around_the_users_are_left_out() -> None:
    def users_function(_: Pending) -> None:
        raise ValueError

    def through_leveret() -> None:
        Pending().update(users_function)

    text = describe(built(through_leveret)).traceback
    assert text.index("in through_leveret") < text.index("in users_function")
    assert "pending.py" not in text


def test_an_error_of_two_processes_reads_from_the_inside_to_the_outside() -> None:
    def task() -> None:
        raise ValueError("oh")

    def workflow() -> None:
        raise there_and_back(built(task))

    text = describe(built(workflow)).traceback
    assert "RemoteTraceback" not in text
    assert text.index("in task") < text.index("direct cause") < text.index("in workflow")


def test_members_of_a_group_keep_their_own_remote_tracebacks() -> None:
    arrived = there_and_back(ExceptionGroup("group", [raised(ValueError("inside"))]))
    assert "ValueError: inside" in str(arrived.exceptions[0].__cause__)


def test_an_exception_among_the_args_comes_back_too() -> None:
    arrived = there_and_back(Plain("wraps", OwnInit(1, second="b")))
    assert type(arrived.args[1]) is OwnInit
    assert arrived.args[1].second == "b"


def test_an_exception_that_holds_itself_does_not_hang() -> None:
    error = Plain()
    error.args = (error,)
    assert isinstance(there_and_back(error), (Plain, RemoteError))


# -- what needs a pickle, or can't travel ---------------------------------------------------------


class Custom:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom)

    __hash__ = None  # type: ignore[assignment]


def local_class() -> type[Exception]:
    class Local(Exception):
        def __str__(self) -> str:
            return "local words"

    return Local


def test_args_that_need_a_pickle_travel_with_a_key() -> None:
    arrived = there_and_back(Plain(Custom()), KEYS)
    assert type(arrived) is Plain
    assert arrived.args == (Custom(),)


def test_args_that_need_a_pickle_leave_words_without_a_key() -> None:
    arrived = there_and_back(Plain(Custom()))
    assert type(arrived) is RemoteError
    assert arrived.type_name == f"{__name__}.Plain"
    assert "Custom object" in arrived.message
    assert "in raised" in arrived.traceback
    assert "LEVERET_KEY" in arrived.__notes__[0]


@pytest.mark.parametrize("keys", [None, KEYS], ids=["no key", "key"])
@pytest.mark.parametrize("where", ["args", "attribute", "inside a group"])
def test_what_cannot_be_encoded_at_all_leaves_words(where: str, keys: Keyring | None) -> None:
    error: BaseException = Plain(threading.Lock() if where == "args" else "message")
    if where == "attribute":
        vars(error)["lock"] = threading.Lock()
    if where == "inside a group":
        arrived = there_and_back(ExceptionGroup("g", [Plain(threading.Lock()), Plain("ok")]), keys)
        assert [type(inner) for inner in arrived.exceptions] == [RemoteError, Plain]
        return
    arrived = there_and_back(error, keys)
    assert type(arrived) is RemoteError
    assert arrived.type_name == f"{__name__}.Plain"
    assert "lock" in arrived.__notes__[0]


def test_a_local_class_travels_signed_and_leaves_words_otherwise() -> None:
    error = local_class()("text")
    arrived = there_and_back(error, KEYS)
    assert type(arrived).__name__ == "Local"
    assert str(arrived) == "local words"
    assert type(there_and_back(error)) is RemoteError


def test_an_exception_of_an_extension_module_travels_whole() -> None:
    error = built(lambda: pydantic.TypeAdapter(int).validate_python("no"))
    assert isinstance(error, pydantic.ValidationError)
    arrived = there_and_back(error, KEYS)
    assert type(arrived) is pydantic.ValidationError
    assert arrived.errors() == error.errors()
    assert type(there_and_back(error)) is RemoteError


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_that_cannot_be_printed_is_described() -> None:
    failure = describe(raised(Unprintable()))
    assert failure.type == f"{__name__}.Unprintable"
    assert "RuntimeError" in failure.message
    assert "in raised" in failure.traceback
    assert type(there_and_back(Unprintable())) is Unprintable


def test_a_description_fits_a_message() -> None:
    failure = describe(raised(ValueError("\ud800" + "x" * 1_000_000)))
    assert len(failure.message) < 11_000
    assert len(failure.traceback) < 70_000
    (failure.message + failure.traceback).encode()


def test_a_builtin_exception_is_described_without_its_module() -> None:
    assert describe(KeyError("a")) == Failure(
        type="KeyError",
        message="'a'",
        traceback="KeyError: 'a'\n",
        kinds=("KeyError", "LookupError", "Exception", "BaseException"),
    )


def test_a_description_names_every_class_that_would_catch_the_exception() -> None:
    assert describe(Both("a")).kinds == (
        f"{__name__}.Both",
        "ValueError",
        "OSError",
        "Exception",
        "BaseException",
    )


# -- what arrives without, or damaged -------------------------------------------------------------


def test_a_failure_in_words_alone_is_a_remote_error() -> None:
    failure = Failure(type="lib.Odd", message="words", traceback="Traceback…")
    error: Any = decode_failure(None, failure, sealer=Sealer(None), context=CONTEXT)
    assert type(error) is RemoteError
    assert (error.type_name, error.message, error.traceback) == ("lib.Odd", "words", "Traceback…")


@pytest.mark.parametrize("module", ["", "leveret.", "leveret.errors."])
def test_a_failure_that_the_coordinator_found_is_leverets_own_error(module: str) -> None:
    failure = Failure(type=f"{module}WorkerLost", message="killed by signal 9")
    error = decode_failure(None, failure, sealer=Sealer(None), context=CONTEXT)
    assert type(error) is errors.WorkerLost
    assert str(error) == "killed by signal 9"


def test_a_class_of_the_users_with_the_name_of_leverets_is_not_taken_for_it() -> None:
    failure = Failure(type="mine.WorkerLost", message="")
    assert type(decode_failure(None, failure, sealer=Sealer(None), context=CONTEXT)) is RemoteError


def test_no_information_at_all_is_a_remote_error() -> None:
    assert type(decode_failure(None, None, sealer=Sealer(None), context=CONTEXT)) is RemoteError
    assert type(decode_failure(b"junk", None, sealer=Sealer(None), context=CONTEXT)) is RemoteError


def test_another_key_leaves_the_words_and_says_why() -> None:
    data = encode_failure(raised(Plain("secret")), sealer=Sealer(KEYS), context=CONTEXT)
    failure = Failure(type="Plain", message="words")
    arrived = decode_failure(data, failure, sealer=Sealer(load_keyring(new_key())), context=CONTEXT)
    assert type(arrived) is RemoteError
    assert "this process doesn't have" in arrived.__notes__[0]


# -- hostile bytes --------------------------------------------------------------------------------


def forged(**tree: object) -> Any:
    """What unsigned bytes of a stranger become."""
    words: dict[str, object] = {"type": "T", "message": "m", "args": [], "state": {}, "members": {}}
    encoded = payload.encode({**words, **tree})
    data = payload.seal(encoded, keys=None, context=CONTEXT)
    keys = replace(KEYS, accepts_unsigned=True)
    return decode_failure(data, None, sealer=Sealer(keys), context=CONTEXT)


@pytest.mark.parametrize(
    ("module", "qualname"),
    [
        ("builtins", "print"),
        ("builtins", "int"),
        ("os", "system"),
        ("subprocess", "Popen"),
        ("builtins", "nothing"),
        ("builtins", "ValueError.__init__"),
        ("builtins", ""),
        ("", ""),
        (__name__, "pytest.exit.Exception"),
    ],
)
def test_what_is_no_exception_class_is_never_used(module: str, qualname: str) -> None:
    error = forged(module=module, qualname=qualname, args=[{"value": "touch /tmp/x"}])
    assert type(error) is RemoteError


class Cleaning:
    """No exception: even making and dropping one runs code."""

    dropped = 0

    def __del__(self) -> None:
        Cleaning.dropped += 1


def test_no_instance_of_another_class_is_ever_made() -> None:
    assert type(forged(module=__name__, qualname="Cleaning")) is RemoteError
    assert Cleaning.dropped == 0


def test_nothing_is_imported_for_an_unsigned_message(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unsigned_only.py").write_text("class Found(Exception): pass\n")
    monkeypatch.syspath_prepend(tmp_path)  # pyright: ignore[reportUnknownMemberType]
    error = forged(module="unsigned_only", qualname="Found")
    assert type(error) is RemoteError
    assert "unsigned_only" not in sys.modules


class Setter(Exception):
    calls = 0

    @property
    def trap(self) -> int:
        return 0

    @trap.setter
    def trap(self, value: int) -> None:
        Setter.calls += 1


def test_no_code_of_the_class_runs_while_it_is_put_together() -> None:
    error = forged(
        module=__name__,
        qualname="Setter",
        state={"trap": {"value": 1}},
        members={"trap": {"value": 1}, "__class__": {"value": 1}, "__dict__": {"value": 1}},
    )
    assert type(error) is Setter
    assert Setter.calls == 0


def test_a_unicode_error_that_would_read_beyond_its_text_is_not_made() -> None:
    members: dict[str, object] = {
        "object": b"x",
        "start": -9,
        "end": -8,
        "encoding": "a",
        "reason": "b",
    }
    carried = {name: {"value": value} for name, value in members.items()}
    error = forged(module="builtins", qualname="UnicodeDecodeError", members=carried)
    assert type(error) is RemoteError


carried = st.dictionaries(
    st.sampled_from(["value", "error"]), st.integers() | st.text() | st.none(), max_size=2
)
trees = st.fixed_dictionaries(
    {},
    optional={
        "module": st.sampled_from(["builtins", "os", "asyncio", "leveret.errors", 1]),
        "qualname": st.sampled_from(
            [
                "OSError",
                "ExceptionGroup",
                "UnicodeDecodeError",
                "SyntaxError",
                "print",
                "RemoteError",
            ]
        ),
        "args": st.lists(carried, max_size=3) | st.integers(),
        "state": st.dictionaries(st.text() | st.integers(), carried, max_size=2) | st.none(),
        "members": st.dictionaries(
            st.sampled_from(["errno", "start", "end", "object", "filename", "lineno", "text"]),
            carried,
        ),
        "group": st.text(),
        "exceptions": st.lists(carried),
        "class": st.integers(),
        "whole": st.integers(),
        "type": st.text(),
        "message": st.integers(),
        "traceback": st.text() | st.integers(),
    },
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(trees | st.integers() | st.lists(st.integers()))
def test_whatever_arrives_there_is_an_exception_to_raise(tree: object) -> None:
    data = payload.seal(payload.encode(tree), keys=None, context=CONTEXT)
    for keys in (None, KEYS):
        error = decode_failure(data, None, sealer=Sealer(keys), context=CONTEXT)
        assert isinstance(error, BaseException)
        traceback.format_exception(error)


# -- two processes --------------------------------------------------------------------------------

JOB = """
import os, pathlib, sys
from leveret.failures import decode_failure, encode_failure
from leveret.keys import Keyring
from leveret.payload import Context
from leveret.sealing import Sealer

key = bytes.fromhex(os.environ["LEVERET_TEST_KEY"])
KEYS = Keyring(keys=(key,)) if key else None
CONTEXT = Context(project="p", run="r", definition="train", direction="error")

class Failed(Exception):
    def __init__(self, first, second):
        super().__init__(first + second)
        self.second = second

def write():
    try:
        raise Failed(1, 2)
    except Failed as error:
        data = encode_failure(error, sealer=Sealer(KEYS), context=CONTEXT)
    pathlib.Path("error").write_bytes(data)

def read():
    data = pathlib.Path("error").read_bytes()
    error = decode_failure(data, None, sealer=Sealer(KEYS), context=CONTEXT)
    print(type(error) is Failed, repr(error), getattr(error, "second", None))

if __name__ == "__main__":
    write() if sys.argv[1] == "write" else read()
"""
AS_MODULE = "import sys; sys.path.insert(0, '.'); import job; job.{}()"
STRANGER = """
import os, pathlib, sys
sys.path.insert(0, '.')
from leveret.failures import decode_failure
from leveret.keys import Keyring
from leveret.payload import Context
from leveret.sealing import Sealer
key = bytes.fromhex(os.environ["LEVERET_TEST_KEY"])
keys = Keyring(keys=(key,)) if key else None
context = Context(project="p", run="r", definition="train", direction="error")
data = pathlib.Path("error").read_bytes()
error = decode_failure(data, None, sealer=Sealer(keys), context=context)
print(type(error).__name__, 'job' in sys.modules)
"""


def python(folder: pathlib.Path, key: bytes, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "LEVERET_TEST_KEY": key.hex()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("key", [b"", KEYS.signing], ids=["no key", "key"])
def test_an_exception_of_a_script_is_the_scripts_own_in_worker_and_caller(
    tmp_path: pathlib.Path, key: bytes
) -> None:
    (tmp_path / "job.py").write_text(JOB)
    python(tmp_path, key, "-c", AS_MODULE.format("write"))
    assert python(tmp_path, key, "job.py", "read") == "True Failed(3) 2"
    python(tmp_path, key, "job.py", "write")
    assert python(tmp_path, key, "-c", AS_MODULE.format("read")) == "True Failed(3) 2"


def test_a_module_is_imported_for_its_exception_only_if_the_message_is_signed(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "job.py").write_text(JOB)
    python(tmp_path, b"", "job.py", "write")
    assert python(tmp_path, b"", "-c", STRANGER) == "RemoteError False"
    python(tmp_path, KEYS.signing, "job.py", "write")
    assert python(tmp_path, KEYS.signing, "-c", STRANGER) == "Failed True"


def test_an_error_of_leverets_own_is_itself_even_if_only_its_description_can_be_read() -> None:
    data = encode_failure(raised(errors.PayloadError("no")), sealer=Sealer(KEYS), context=CONTEXT)
    other = load_keyring(new_key())
    described = describe(errors.PayloadError("no"))
    arrived = decode_failure(data, described, sealer=Sealer(other), context=CONTEXT)
    assert isinstance(arrived, errors.PayloadError)
    assert str(arrived) == "no"
