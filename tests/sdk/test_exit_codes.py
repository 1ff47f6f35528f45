"""What a command ends with: scripts and supervisors decide by it whether to try again."""

import click
import pytest

from leveret import errors
from leveret.cli import exit_code, guarded
from leveret_broker.errors import BrokerBlocked, Expired, TransportUnreachable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("of the user's code"), 1),
        (click.UsageError("no such option"), 2),
        (errors.IdentificationError("no such name"), 3),
        (errors.CoordinatorUnreachable("nobody answered"), 4),
        (TransportUnreachable("nothing listens there"), 4),
        (Expired("no connection for 30 s"), 4),
        (BrokerBlocked("out of memory"), 4),
    ],
)
def test_an_error_has_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert exit_code(error) == code
    assert guarded(command, []) == code
    assert str(error) in capsys.readouterr().err
