"""Options that several commands share. Each has its variable in the environment."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from leveret.client import Client, connect
from leveret.errors import AppError, SettingError
from leveret.keys import Keyring
from leveret.settings import settings
from leveret_broker import ages, logs

LONGEST = 7 * 86400.0
"""Seconds that an option may say at most."""

F = TypeVar("F", bound=Callable[..., Any])


def url(command: F) -> F:
    """`--url`, where the broker is. Its value may hold a password, so no help text shows it."""
    return click.option(
        "--url",
        envvar="LEVERET_URL",
        metavar="URL",
        help="The broker, amqp://user:password@host:port/vhost.  [LEVERET_URL]",
    )(command)


def project(command: F) -> F:
    """`--project`, which fills in what identifiers leave out."""
    return click.option(
        "--project",
        envvar="LEVERET_PROJECT",
        metavar="NAME",
        help="The project of definitions and identifiers.  [LEVERET_PROJECT]",
    )(command)


def as_json(command: F) -> F:
    """`--json`: one document with stable keys instead of text."""
    return click.option(
        "--json", "as_json", is_flag=True, envvar="LEVERET_JSON", help="Print one JSON document."
    )(command)


class Seconds(click.FloatRange):
    """A time as people give it: no negative one, none over a week, and no `nan`."""

    name = "seconds"

    def __init__(self, *, least: float = 0.0, above_zero: bool = True) -> None:
        super().__init__(min=least, max=LONGEST, min_open=above_zero and not least)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class Age(click.FloatRange):
    """An age as people write it, `15m` or `30d`, in seconds."""

    name = "age"

    def __init__(self, *, least: float = 0.0) -> None:
        super().__init__(min=least)
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = ages.seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < self._least:
            self.fail(f"{value!r} is less than {ages.text(self._least)}", param, ctx)
        return seconds


def seconds(
    name: str, default: float, help_: str, *, least: float = 0.0, above_zero: bool = True
) -> Callable[[F], F]:
    """An option that is a time, with its variable."""
    variable = "LEVERET_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(
        name,
        envvar=variable,
        metavar="SECONDS",
        type=Seconds(least=least, above_zero=above_zero),
        default=default,
        show_default=True,
        help=f"{help_}  [{variable}]",
    )


def slots(command: F) -> F:
    """`--slots` and `--processes`, how much a worker does at a time."""
    command = click.option(
        "--processes",
        envvar="LEVERET_PROCESSES",
        type=click.IntRange(min=1),
        help="Child processes for sync tasks, one a core if not set.  [LEVERET_PROCESSES]",
    )(command)
    return click.option(
        "--slots",
        envvar="LEVERET_SLOTS",
        type=click.IntRange(min=1),
        help="Tasks at a time, 32 if not set.  [LEVERET_SLOTS]",
    )(command)


@contextmanager
def naming(parameter: str, variable: str) -> Generator[None]:
    """What is wrong with a parameter is said of its variable, if that is where it came from."""
    try:
        yield
    except (AppError, SettingError) as error:
        source = click.get_current_context().get_parameter_source(parameter)
        if source is ParameterSource.ENVIRONMENT:
            raise type(error)(f"{variable}: {error}") from error
        raise


def log_format(command: F) -> F:
    """`--log-format`, how a service logs; from here on, errors in its options included."""
    return click.option(
        "--log-format",
        envvar=logs.VARIABLE,
        type=click.Choice(get_args(logs.Format)),
        default="auto",
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=_configure_logs,
        help=f"Lines of text, or of JSON; auto: text on a terminal.  [{logs.VARIABLE}]",
    )(command)


def _configure_logs(ctx: click.Context, _: click.Parameter, value: logs.Format) -> None:
    if not ctx.resilient_parsing:
        logs.configure(value)


def need_url(url: str | None) -> str:
    """The broker's URL, or an error that says how to give one."""
    if url is None:
        raise click.UsageError("no cluster to talk to: pass --url, or set LEVERET_URL")
    return url


def payload_store(command: F) -> F:
    """`--payload-store`, where large payloads go."""
    return click.option(
        "--payload-store",
        envvar="LEVERET_PAYLOAD_STORE",
        metavar="URL",
        help="The store for large payloads: a folder, s3://…, gs://…  [LEVERET_PAYLOAD_STORE]",
    )(command)


def client(url: str | None, project: str | None) -> Client:
    """A client of the cluster that the options name."""
    return connect(need_url(url), project=project)


def keyring() -> Keyring | None:
    """The keys of `LEVERET_KEY`. There is no option: command lines are for all to see."""
    return settings().keyring()
