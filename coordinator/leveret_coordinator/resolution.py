"""What an identifier, or a definition in the caller's code, means in the catalog. Pure.

The known project fills in what an identifier leaves out. What it says beyond need must be right.
A database id is globally unique, hence right whatever project is known.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from leveret_broker.errors import InvalidIdentifier
from leveret_broker.identifiers import Identifier, parse, suggestion, version_order
from leveret_broker.messages import Target
from leveret_coordinator.errors import Invalid, NotDeployed, Unidentified
from leveret_coordinator.records import Definition

MOST_LISTED = 10
"""How many candidates or versions a message spells out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The part of the catalog that a resolution looks at."""

    definitions: Sequence[Definition]
    """All definitions, of every project, that have a wanted name or a wanted database id."""
    names: Collection[tuple[str, str]] = ()
    """Project and name of every definition; needed only to offer similar names."""


def resolve(text: str, *, project: str | None, known: Known) -> Definition:
    """The definition that an identifier means where `project` is known, or none is.

    Raises `Unidentified` for an identifier that is malformed, unknown, ambiguous, or contradicts
    the known project.
    """
    try:
        identifier = parse(text)
    except InvalidIdentifier as error:
        raise Unidentified(f"{error}.") from error
    if identifier.database_id is not None:
        return _by_database_id(identifier.database_id, known)
    if project is not None and identifier.project not in (None, project):
        raise Unidentified(
            f"{text!r} names the project {identifier.project!r}, but the project here is "
            f"{project!r}. Leave the project out to mean {project!r}, connect with the project "
            f"{identifier.project!r}, or use the database id."
        )
    return _by_name(identifier, identifier.project or project, known)


def resolve_target(target: Target, *, project: str | None, known: Known) -> Definition:
    """The definition that a submission wants run.

    Raises `Unidentified` for an identifier that can't be resolved, `NotDeployed` for code that
    nobody registered, and `Invalid` for a target that names nothing.
    """
    if target.identifier is not None:
        return resolve(target.identifier, project=project, known=known)
    if target.name is None or target.kind is None:
        raise Invalid("The submission names neither an identifier nor a definition in code.")
    named = _named(target.name, project, known)
    matching = [definition for definition in named if _is_this_code(definition, target)]
    if not matching:
        raise NotDeployed(_not_deployed(target, project, named))
    return _latest(_of_one_project(target.name, matching))


def wanted_names(target: Target) -> tuple[set[str], set[str]]:
    """The names and the database ids that resolving it has to look up."""
    if target.identifier is None:
        return ({target.name} if target.name is not None else set()), set()
    return identifier_names(target.identifier)


def identifier_names(text: str) -> tuple[set[str], set[str]]:
    """The names and the database ids that resolving an identifier has to look up."""
    try:
        identifier = parse(text)
    except InvalidIdentifier:
        return set(), set()
    if identifier.database_id is not None:
        return set(), {identifier.database_id}
    return ({identifier.name} if identifier.name is not None else set()), set()


# -- identifiers ----------------------------------------------------------------------------------


def _by_database_id(database_id: str, known: Known) -> Definition:
    for definition in known.definitions:
        if definition.id == database_id:
            return definition
    raise Unidentified(
        f"There is no definition with the database id {database_id!r}. "
        "`leveret definitions` lists those that exist."
    )


def _by_name(identifier: Identifier, project: str | None, known: Known) -> Definition:
    assert identifier.name is not None
    named = _named(identifier.name, project, known)
    if not named:
        raise Unidentified(_unknown_name(identifier.name, project, known))
    if identifier.version is None:
        return _latest(_of_one_project(identifier.text, named))
    matching = [definition for definition in named if definition.version == identifier.version]
    if not matching:
        raise Unidentified(
            f"{identifier.name!r} has no {_word(named)} {identifier.version!r}{_where(project)}. "
            f"{_versions(named, project)}"
        )
    return _of_one_project(identifier.text, matching)[0]


def _named(name: str, project: str | None, known: Known) -> list[Definition]:
    return [
        definition
        for definition in known.definitions
        if definition.name == name and project in (None, definition.project)
    ]


def _of_one_project(text: str, definitions: list[Definition]) -> list[Definition]:
    projects = {definition.project for definition in definitions}
    if len(projects) == 1:
        return definitions
    candidates = [
        _latest([definition for definition in definitions if definition.project == project]).queue
        for project in sorted(projects)
    ]
    raise Unidentified(
        f"{text!r} is ambiguous: no project is known here, and {len(projects)} projects have it. "
        f"Write one of {_listed(candidates)}, or set the project."
    )


def _latest(definitions: Sequence[Definition]) -> Definition:
    """A workflow's highest revision, or a task's highest version in the order of PEP 440."""
    return definitions[0] if len(definitions) == 1 else max(definitions, key=_order)


def _order(definition: Definition) -> Any:
    return version_order(definition.version)


# -- what to tell people --------------------------------------------------------------------------


def _unknown_name(name: str, project: str | None, known: Known) -> str:
    elsewhere = sorted({d.project for d in known.definitions if d.name == name})
    if elsewhere:
        return (
            f"There is no task or workflow named {name!r} in the project {project!r}; "
            f"{_projects(elsewhere)}. Connect with that project, or use the database id."
        )
    names = {known_name for owner, known_name in known.names if project in (None, owner)}
    if not names:
        return (
            f"There is no task or workflow named {name!r}: nothing is registered{_where(project)}. "
            f"Start a worker that serves it: leveret worker APP{_option(project)}."
        )
    return (
        f"There is no task or workflow named {name!r}{_where(project)}."
        f"{suggestion(name, sorted(names))} `leveret definitions` lists those that exist."
    )


def _not_deployed(target: Target, project: str | None, named: Sequence[Definition]) -> str:
    what = f"The {target.kind} {target.name!r}"
    remedy = (
        f"Start a worker with this code (leveret worker APP{_option(project)}), "
        "or call it by identifier."
    )
    if not named:
        return f"{what} isn't deployed{_where(project)}: no worker ever registered it. {remedy}"
    if all(definition.kind != target.kind for definition in named):
        return (
            f"{what} isn't deployed{_where(project)}: there it is a {named[0].kind}. "
            f"Give one of the two another name. {_versions(named, project)}"
        )
    if target.kind == "task":
        return (
            f"{what} isn't deployed in version {target.version!r}{_where(project)}. "
            f"{_versions(named, project)} {remedy}"
        )
    with_code = [d for d in named if d.fingerprint == target.fingerprint]
    if with_code:
        return (
            f"{what} isn't deployed as revision {target.version}{_where(project)} with this code: "
            f"this code is revision {_latest(with_code).version}. {remedy}"
        )
    return (
        f"{what} isn't deployed with this code{_where(project)}; only other code of that name is. "
        f"{_versions(named, project)} {remedy}"
    )


def _is_this_code(definition: Definition, target: Target) -> bool:
    if definition.kind != target.kind:
        return False
    if definition.kind == "task":
        return definition.version == target.version
    return definition.fingerprint == target.fingerprint and target.version in (
        None,
        definition.version,
    )


def _versions(definitions: Iterable[Definition], project: str | None) -> str:
    ordered = sorted(definitions, key=_order, reverse=True)
    return f"Known: {_listed([d.version if project else d.queue for d in ordered])}."


def _listed(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:MOST_LISTED])
    left = len(texts) - MOST_LISTED
    return f"{shown} and {left} more" if left > 0 else shown


def _word(definitions: Sequence[Definition]) -> str:
    return "revision" if definitions[0].kind == "workflow" else "version"


def _where(project: str | None) -> str:
    return f" in the project {project!r}" if project else ""


def _option(project: str | None) -> str:
    return f" --project {project}" if project else ""


def _projects(projects: Sequence[str]) -> str:
    if len(projects) == 1:
        return f"the project {projects[0]!r} has one"
    return f"the projects {_listed(projects)} have one"
