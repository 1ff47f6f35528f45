"""What the environment says."""

import pytest

from leveret import payload
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
    assert (given.url, given.key_bytes(), given.slots, given.project) == (None, None, None, None)


def test_the_key_is_what_key_new_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    key = payload.new_key()
    monkeypatch.setenv("LEVERET_KEY", key)
    assert Settings().key_bytes() == payload.load_key(key)
