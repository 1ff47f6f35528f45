"""The command line: `leveret`, also `python -m leveret`.

Exit codes: 0 done, 1 the run failed, 2 wrong usage or a run in the wrong state, 3 not found or not
identified, 4 coordinator unreachable. Errors are one paragraph on standard error; `--debug` adds
the traceback.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence

import click
from click.core import ParameterSource

from leveret.errors import (
    AppError,
    CoordinatorUnreachable,
    DefinitionError,
    IdentificationError,
    KeyConflictError,
    NotDeployedError,
    RunStateError,
    SettingError,
    StateError,
)
from leveret_broker import logs
from leveret_broker.command_line import hide_passwords
from leveret_broker.errors import BrokerBlocked, Expired, TransportUnreachable

DONE, RUN_FAILED, WRONG_USAGE, NOT_FOUND, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130

COMMANDS = {
    "coordinator": "leveret.cli.services:coordinator",
    "worker": "leveret.cli.services:worker",
    "health": "leveret.cli.health:health",
    "dev": "leveret.cli.dev:dev",
    "run": "leveret.cli.start:run",
    "resolve": "leveret.cli.look:resolve",
    "definitions": "leveret.cli.look:definitions",
    "runs": "leveret.cli.runs:runs",
    "why": "leveret.cli.look:why",
    "workers": "leveret.cli.look:workers",
    "key": "leveret.cli.key:key",
    "admin": "leveret.cli.admin:admin",
}


class Lazy(click.Group):
    """Imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from importlib import import_module

        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="leveret")
@click.option("--debug", is_flag=True, envvar="LEVERET_DEBUG", help="Show tracebacks of errors.")
def leveret(debug: bool) -> None:
    """Plain async Python that runs in one process, or on many machines over RabbitMQ."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    if arguments is None:
        hide_passwords()
    given = list(sys.argv[1:] if arguments is None else arguments)

    def command() -> object:
        return leveret.main(given, "leveret", standalone_mode=False, auto_envvar_prefix="LEVERET")

    sys.exit(guarded(command, given))


def guarded(command: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run it; tell what went wrong as a person wants to read it, and return the exit code."""
    try:
        result = command()
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        explain(error, with_traceback=_wants_tracebacks(arguments))
        return exit_code(error)
    return result if isinstance(result, int) else DONE


def exit_code(error: Exception) -> int:
    """What the process ends with for an error."""
    match error:
        case (
            click.ClickException()
            | AppError()
            | DefinitionError()
            | KeyConflictError()
            | RunStateError()
            | SettingError()
            | StateError()
        ):
            return WRONG_USAGE
        case IdentificationError() | NotDeployedError():
            return NOT_FOUND
        case CoordinatorUnreachable() | TransportUnreachable() | Expired() | BrokerBlocked():
            return UNREACHABLE
        case _:
            return RUN_FAILED


def explain(error: Exception, *, with_traceback: bool = False) -> None:
    """Tell an error as one paragraph on standard error, or as a line of the logs of a service."""
    if isinstance(error, click.BadParameter):
        _name_variable(error)
    if logs.format_in_use() == "json":
        text = str(error) or type(error).__name__
        if isinstance(error, click.ClickException):
            text = error.format_message()
        log = logs.get_logger("leveret")
        (log.exception if with_traceback else log.error)("ended by an error", reason=text)
    elif with_traceback:
        traceback.print_exc()
    elif isinstance(error, click.ClickException):
        error.show()
    else:
        text = str(error) or type(error).__name__
        click.echo(f"leveret: {text}", err=True)


def _name_variable(error: click.BadParameter) -> None:
    """Say where a bad value came from, if nobody typed it."""
    parameter, context = error.param, error.ctx
    if parameter is None or context is None or not isinstance(parameter.envvar, str):
        return
    if context.get_parameter_source(parameter.name or "") is ParameterSource.ENVIRONMENT:
        error.param_hint = parameter.envvar


def _wants_tracebacks(arguments: Sequence[str]) -> bool:
    said = os.environ.get("LEVERET_DEBUG", "").lower()
    return "--debug" in arguments or said in ("1", "true", "yes", "on")
