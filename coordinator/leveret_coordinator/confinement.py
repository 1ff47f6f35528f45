"""Who may publish through one project's exchange only speaks for that project only. Pure.

The broker lets a user publish where its permissions say, and tells with each delivery which way it
came. That is all that is known of a sender, and nothing that a message says of itself changes it:

- Its answers go to sessions of the project, its verdicts to workers of the project: their ids begin
  with the project.
- A project that it names has to be its own. One that it leaves out is filled in, so that what is
  decided later sees runs and definitions of this project only.
- What can't be confined is refused.

What came through the broker's own exchange is from somebody who may reach everything.
"""

from collections.abc import Container, Iterable
from typing import TypeVar

from leveret_broker import topology
from leveret_broker.messages import Goodbye, Heartbeat, Hello, Outcomes, Request, Submit, Wire
from leveret_coordinator.errors import CoordinatorError
from leveret_coordinator.records import Definition, Run
from leveret_coordinator.resolution import Known

Arrived = Request | Outcomes
M = TypeVar("M", bound=Wire)


class OutOfProject(CoordinatorError):
    """A message that names what is not of its sender's project."""


def confined(message: Arrived, project: str) -> Arrived:
    """The message as it counts when a user of this project sent it. Raises `OutOfProject`."""
    for whose in _ids(message):
        if topology.owner(whose) != project:
            raise OutOfProject(f"from the project {project!r}, and {whose!r} is not of it")
    match message:
        case Hello() | Goodbye():
            return message
        case Submit():
            own = tuple(_within(each, project) for each in message.submissions)
            return message.model_copy(update={"submissions": own})
        case Outcomes() if message.join is not None:
            joined = _within(message.join, project)
            return _within(message, project).model_copy(update={"join": joined})
        case _:
            return _within(message, project)


def _ids(message: Arrived) -> Iterable[str]:
    """The sessions and workers that it speaks for."""
    if isinstance(message, Outcomes):
        return [message.worker, *([message.join.worker] if message.join else [])]
    return [message.worker] if isinstance(message, Heartbeat | Goodbye) else [message.session]


def _within(message: M, project: str) -> M:
    fields: Container[str] = type(message).model_fields
    if "project" not in fields:
        raise OutOfProject(f"{type(message).__name__} is not for users of one project")
    given: object = getattr(message, "project", None)
    if given not in (None, project):
        raise OutOfProject(f"from the project {project!r}, and it names {given!r}")
    update: dict[str, object] = {"project": project}
    if "confined" in fields:
        update["confined"] = True
    return message.model_copy(update=update)


def is_foreign(run: Run | None, project: str | None) -> bool:
    """Whether the run belongs to another project than the one that it has to."""
    return run is not None and project is not None and run.project != project


def known_within(known: Known, project: str | None) -> Known:
    """What is known of one project, as if there were no other."""

    def is_own(definition: Definition) -> bool:
        return definition.project == project

    names = [(owner, name) for owner, name in known.names if owner == project]
    return Known(definitions=[one for one in known.definitions if is_own(one)], names=names)
