"""What a RabbitMQ user may do that belongs to one project. Pure.

A permission is a regular expression over the names of queues and exchanges. It finds its name
anywhere in another unless it is anchored, and a dot in it matches everything unless it is escaped:
the project `a` would reach `ab` and `a.b`.
"""

import re
import shlex
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Permissions:
    """One regular expression for each kind. None at all by default."""

    configure: str = "^$"
    write: str = "^$"
    read: str = "^$"

    def __str__(self) -> str:
        return f"configure {self.configure}, write {self.write}, read {self.read}"


def of_project(project: str) -> Permissions:
    """To make, bind, read and delete the project's own reply and control queues, to read its work
    queues, and to publish through its exchange."""
    name = re.escape(project).replace(r"\-", "-")
    own = f"(replies|control):{name}:.*"
    work = f"{name}:[^:]+:[^:]+"
    control = rf"leveret\.control(\.{name})?"
    exchange = rf"leveret\.project\.{name}"
    return Permissions(
        configure=f"^{own}$",
        write=f"^({exchange}|control:{name}:.*)$",  # to be bound, a queue has to be written to
        read=f"^({own}|{work}|{control})$",
    )


def grant_command(vhost: str, user: str, project: str) -> str:
    """What a person runs on the broker's host to set them."""
    own = of_project(project)
    return shlex.join(
        ["rabbitmqctl", "set_permissions", "-p", vhost, user, own.configure, own.write, own.read]
    )


def clear_command(vhost: str, user: str) -> str:
    """What takes them away again. Connections keep what they had until they are closed."""
    clear = shlex.join(["rabbitmqctl", "clear_permissions", "-p", vhost, user])
    close = shlex.join(["rabbitmqctl", "close_all_user_connections", user, "revoked"])
    return f"{clear} && {close}"
