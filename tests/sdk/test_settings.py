"""What the environment says."""

import click
import pytest

from leveret.cli.options import Seconds
from leveret.cli.services import coordinator, worker
from leveret.keys import Keyring, load_key, new_key
from leveret.settings import Settings


def test_variables_have_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVERET_URL", "amqp://u:secret@h/")
    monkeypatch.setenv("LEVERET_PROJECT", "vision")
    given = Settings()
    assert given.url is not None
    assert given.url.get_secret_value() == "amqp://u:secret@h/"
    assert given.project == "vision"
    assert "secret" not in repr(given)


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "KEY", "SLOTS", "PROJECT"):
        monkeypatch.setenv(f"LEVERET_{name}", "")
    given = Settings()
    assert (given.url, given.keyring(), given.slots, given.project) == (None, None, None, None)


def test_the_key_is_what_key_new_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    monkeypatch.setenv("LEVERET_KEY", key)
    assert Settings().keyring() == Keyring(keys=(load_key(key),))


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "soon", "0", "1e9"])
def test_a_time_that_makes_no_sense_is_refused(given: str) -> None:
    with pytest.raises(click.BadParameter):
        Seconds().convert(given, None, None)


def test_a_time_may_be_a_fraction_and_some_may_be_nothing() -> None:
    assert Seconds().convert("0.25", None, None) == 0.25
    assert Seconds(above_zero=False).convert("0", None, None) == 0


def test_less_silence_than_two_heartbeats_take_is_refused() -> None:
    [option] = [one for one in coordinator.params if one.name == "worker_silent_after"]
    with pytest.raises(click.BadParameter, match="range 10"):
        option.type.convert("9.9", option, None)
    assert option.type.convert("10", option, None) == 10


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        (worker, {"LEVERET_LEASE_AFTER", "LEVERET_STOP_GRACE", "LEVERET_DRAIN"}),
        (coordinator, {"LEVERET_WORKER_SILENT_AFTER", "LEVERET_WORKER_GONE_AFTER"}),
    ],
)
def test_the_times_of_services_have_variables(command: click.Command, variables: set[str]) -> None:
    assert variables <= {str(option.envvar) for option in command.params}
