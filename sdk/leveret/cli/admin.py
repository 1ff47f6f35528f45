"""`leveret admin`: who may reach which project, what was set aside, and what is kept."""

import asyncio
import os
from collections.abc import Sequence

import click

from leveret.cli import options
from leveret.cli.letters import dead_letters
from leveret.cli.pruning import prune
from leveret.client import checked_project
from leveret.errors import CoordinatorUnreachable
from leveret.settings import security, settings
from leveret_broker import topology
from leveret_broker.errors import TransportError
from leveret_broker.management import Management, ManagementError, Unreachable, default_url
from leveret_broker.permissions import Permissions, clear_command, grant_command, of_project
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.urls import BrokerUrl, parse

NEW_PASSWORD = "LEVERET_NEW_PASSWORD"  # noqa: S105  # the name of a variable

NO_EXCHANGES = (
    "The project's exchanges are not made by it. The same without --print makes them, also where "
    "the management API can't be reached."
)


@click.group()
def admin() -> None:
    """Let users into projects; look at what was set aside; remove old runs."""


admin.add_command(dead_letters)
admin.add_command(prune)


def _management(command: options.F) -> options.F:
    return click.option(
        "--management",
        envvar="LEVERET_MANAGEMENT",
        metavar="URL",
        help="RabbitMQ's management API, http://user:password@host:15672; by default the broker's "
        "host, with the broker's user.  [LEVERET_MANAGEMENT]",
    )(command)


def _print_only(command: options.F) -> options.F:
    text = "Change nothing, print the rabbitmqctl command."
    return click.option("--print", "print_only", is_flag=True, help=text)(command)


@admin.command()
@click.argument("project")
@click.argument("user")
@options.url
@_management
@_print_only
@click.option("--replace", is_flag=True, help="Take away what else the user may do here.")
@click.option("--create-user", is_flag=True, help=f"Make the user; asks, or {NEW_PASSWORD}.")
def grant(
    project: str,
    user: str,
    url: str | None,
    management: str | None,
    print_only: bool,
    replace: bool,
    create_user: bool,
) -> None:
    """Let USER reach PROJECT, and nothing else in the virtual host of --url.

    --url is of somebody who may do everything there. The project's exchanges are made, then the
    user's permissions are set.
    """
    broker = _broker(project, url)
    command = grant_command(broker.vhost, user, project)
    if print_only:
        click.echo(command)
        click.echo(NO_EXCHANGES, err=True)
        return
    password = _new_password(user) if create_user else None
    asyncio.run(_make_exchanges(broker, project))
    api = _api(broker, management)
    try:
        if password is not None:
            api.create_user(user, password)
        _check_replaced(api.permissions(broker.vhost, user), project, user, replace=replace)
        api.set_permissions(broker.vhost, user, of_project(project))
        api.close_connections(broker.vhost, user)
    except ManagementError as error:
        raise _failure(error, command) from error
    click.echo(f"{user} may reach the project {project}, and nothing else in {broker.vhost!r}")


@admin.command()
@click.argument("project")
@click.argument("user")
@options.url
@_management
@_print_only
def revoke(
    project: str, user: str, url: str | None, management: str | None, print_only: bool
) -> None:
    """Take PROJECT from USER, who may then do nothing in the virtual host, and is cut off."""
    broker = _broker(project, url)
    command = clear_command(broker.vhost, user)
    if print_only:
        click.echo(command)
        return
    api = _api(broker, management)
    try:
        if api.permissions(broker.vhost, user) != of_project(project):
            raise click.UsageError(
                f"{user} was not granted the project {project} in {broker.vhost!r}: nothing changed"
            )
        api.clear_permissions(broker.vhost, user)
        api.close_connections(broker.vhost, user)
    except ManagementError as error:
        raise _failure(error, command) from error
    click.echo(f"{user} may do nothing in {broker.vhost!r} any more")


def _broker(project: str, url: str | None) -> BrokerUrl:
    checked_project(project)
    try:
        return parse(options.need_url(url))
    except TransportError as error:
        raise CoordinatorUnreachable(str(error)) from error


def _api(broker: BrokerUrl, management: str | None) -> Management:
    return Management(management or default_url(broker), security())


def _new_password(user: str) -> str:
    given = os.environ.get(NEW_PASSWORD)
    if given:
        return given
    asked: str = click.prompt(
        f"Password of {user}", hide_input=True, confirmation_prompt=True, err=True
    )
    return asked


def _check_replaced(before: Permissions | None, project: str, user: str, *, replace: bool) -> None:
    """Nobody loses what they may do by a slip: an administrator, say."""
    harmless: Sequence[Permissions | None] = (None, Permissions(), of_project(project))
    if before not in harmless and not replace:
        raise click.UsageError(
            f"{user} has other permissions in this virtual host ({before}): a user is of one "
            "project. Give this project a user of its own, or pass --replace"
        )


async def _make_exchanges(broker: BrokerUrl, project: str) -> None:
    transport = RabbitTransport(
        broker.text,
        name="leveret-admin",
        connect_timeout=settings().connect_timeout,
        security=security(),
    )
    try:
        await transport.open()
        await transport.declare(topology.DEAD, topology.REQUESTS, topology.OUTCOMES)
        await transport.declare(*topology.exchanges(project))
    except TransportError as error:
        raise CoordinatorUnreachable(
            f"the exchanges of the project {project} can't be made: {error}"
        ) from error
    finally:
        await transport.close()


def _failure(error: ManagementError, command: str) -> Exception:
    text = f"{error}. On the broker's host, this does the same: {command}"
    if isinstance(error, Unreachable):
        return CoordinatorUnreachable(text)
    return click.ClickException(text)
