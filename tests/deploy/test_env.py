"""`make env`, which is `scripts/env`: the secrets that the compose file demands."""

import os
import re
import stat
import subprocess
from pathlib import Path

from leveret.keys import load_keyring
from leveret_broker.urls import parse
from tests.deploy.files import COMPOSE, ROOT


def make_env(path: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [ROOT / "scripts" / "env", path],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        check=False,
    )


def pairs(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_it_makes_all_that_the_compose_file_demands_and_a_url_for_this_machine(
    tmp_path: Path,
) -> None:
    made = tmp_path / ".env"
    assert make_env(made, RABBITMQ_PORT="5999").returncode == 0
    given = pairs(made)
    demanded = re.findall(r"\$\{(\w+):\?", COMPOSE.read_text(encoding="utf-8"))
    assert demanded
    assert all(given[name] for name in demanded)
    assert load_keyring(given["LEVERET_KEY"]).keys
    url = parse(given["LEVERET_URL"])
    assert (url.host, url.port) == ("127.0.0.1", 5999)
    assert f"//{given['RABBITMQ_USER']}:{given['RABBITMQ_PASSWORD']}@" in given["LEVERET_URL"]
    assert given["RABBITMQ_PORT"] == "5999"


def test_the_secrets_are_fresh_and_nobody_else_can_read_them(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        done = make_env(path)
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        secrets = {pairs(path)[name] for name in ("RABBITMQ_PASSWORD", "LEVERET_KEY")}
        assert not [secret for secret in secrets if secret in done.stdout + done.stderr]
    first, second = pairs(one), pairs(other)
    for name in ("RABBITMQ_PASSWORD", "LEVERET_KEY"):
        assert first[name] != second[name]
        assert len(first[name]) >= 40


def test_one_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    there = tmp_path / ".env"
    there.write_text("RABBITMQ_PASSWORD=mine\n")
    done = make_env(there)
    assert done.returncode != 0
    assert f"{there} is there already" in done.stderr
    assert there.read_text() == "RABBITMQ_PASSWORD=mine\n"


def test_git_does_not_take_it() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
