"""Which variables the services read, from their code; so none that is set stands for nothing."""

import os
import re
from collections.abc import Mapping
from unittest.mock import patch

import click

from leveret.cli import leveret, services
from leveret.settings import Settings
from leveret_broker.tls import TlsSettings

MARGIN = 20.0
"""Seconds that a worker may take to report and leave, besides those for what it executes."""


def known(service: str) -> set[str]:
    """All variables that a service reads."""
    options = [*command(service).params, *leveret.params]
    return {
        *(str(option.envvar) for option in options if option.envvar),
        *(f"LEVERET_{name}".upper() for name in Settings.model_fields),
        *(f"LEVERET_TLS_{name}".upper() for name in TlsSettings.model_fields),
    }


def command(service: str) -> click.Command:
    commands: dict[str, click.Command] = {
        "coordinator": services.coordinator,
        "worker": services.worker,
    }
    return commands[service]


def parameters(service: str, variables: Mapping[str, str]) -> dict[str, object]:
    """What a service makes of its environment. Raises what it would if a value makes no sense."""
    others = {name: value for name, value in os.environ.items() if "LEVERET" not in name}
    with patch.dict(os.environ, {**others, **variables}, clear=True):
        Settings()
        return command(service).make_context(service, ["app.py"][service == "coordinator" :]).params


def longest_stop(service: str, variables: Mapping[str, str]) -> float:
    """Seconds after which a service has left for sure that was told to stop."""
    given = parameters(service, variables)
    if service == "coordinator":
        return MARGIN
    drain, grace = given["drain"], given["stop_grace"]
    assert isinstance(drain, float)
    assert isinstance(grace, float)
    return drain + grace + MARGIN


def seconds(text: str) -> float:
    """`75s` as the compose file writes it."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found is not None, text
    return float(found[1])
