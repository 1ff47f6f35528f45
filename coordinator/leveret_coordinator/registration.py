"""How definitions in code become rows of the catalog. Pure.

The same code keeps its workflow revision, changed code gets the next one. A task's version is what
its author says, so a task registered again keeps its row, whatever its code.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from leveret_broker.errors import InvalidName
from leveret_broker.identifiers import Kind, check
from leveret_broker.messages import DefinitionSpec
from leveret_coordinator.errors import Conflict, Invalid
from leveret_coordinator.records import Definition


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """What a registration amounts to."""

    definitions: tuple[Definition, ...]
    """One for each specification, in their order."""
    changed: tuple[Definition, ...]
    """Those that are new, or whose row differs from what the catalog has."""


def register(
    project: str,
    specs: Sequence[DefinitionSpec],
    *,
    known: Iterable[Definition],
    now: float,
    issue: Callable[[Kind], str],
) -> Registration:
    """Find or make the row of each specification.

    `known` holds all definitions of the project that have one of the names. Raises `Conflict` if
    the specifications contradict it or each other, `Invalid` for a name that can't be one; then
    none of them is registered.
    """
    rows = {(row.name, row.version): row for row in known if row.project == project}
    registered: list[Definition] = []
    changed: dict[str, Definition] = {}
    for spec in specs:
        _check(project, spec)
        same_name = [row for row in rows.values() if row.name == spec.name]
        _check_kind(spec, project, same_name)
        version = _version(spec, project, same_name)
        before = rows.get((spec.name, version))
        row = _row(spec, project, version, before, now=now, issue=issue)
        if row != before:
            rows[spec.name, version] = changed[row.id] = row
        registered.append(row)
    return Registration(definitions=tuple(registered), changed=tuple(changed.values()))


def find(project: str, spec: DefinitionSpec, known: Iterable[Definition]) -> Definition | None:
    """The row of the same version, or of the same code; what the specification asks for counts."""
    for row in known:
        if (row.project, row.kind, row.name) != (project, spec.kind, spec.name):
            continue
        is_same = row.fingerprint == spec.fingerprint or spec.kind == "task"
        if is_same and spec.version in (None, row.version):
            return row
    return None


def _check(project: str, spec: DefinitionSpec) -> None:
    try:
        check("project", project)
        check("name", spec.name)
        if spec.version is not None:
            check("version", spec.version)
    except InvalidName as error:
        raise Invalid(f"{error}.") from error
    if spec.kind == "step":
        raise Invalid(f"{spec.name!r} can't be registered as a step: steps are only recorded.")
    if spec.kind == "task" and spec.version is None:
        raise Invalid(f"The task {spec.name!r} has no version: only workflows are given theirs.")
    if spec.kind == "workflow" and spec.version is not None and not _is_revision(spec.version):
        raise Invalid(
            f"The workflow {spec.name!r} asks for the revision {spec.version!r}: "
            "a revision is a whole number from 1."
        )


def _is_revision(text: str) -> bool:
    return text.isascii() and text.isdigit() and not text.startswith("0") and len(text) <= 18


def _check_kind(spec: DefinitionSpec, project: str, same_name: Sequence[Definition]) -> None:
    for row in same_name:
        if row.kind != spec.kind:
            raise Conflict(
                f"{spec.name!r} can't be a {spec.kind} in the project {project!r}: it is a "
                f"{row.kind} there ({row.module}.{row.qualname}). Give one of them another name."
            )


def _version(spec: DefinitionSpec, project: str, same_name: Sequence[Definition]) -> str:
    if spec.kind == "task":
        assert spec.version is not None
        return spec.version
    if spec.version is not None:
        _check_revision(spec, project, same_name)
        return spec.version
    same_code = [row for row in same_name if row.fingerprint == spec.fingerprint]
    revisions = [row.revision or 0 for row in same_code or same_name]
    return str(max(revisions, default=0) + (0 if same_code else 1))


def _check_revision(spec: DefinitionSpec, project: str, same_name: Sequence[Definition]) -> None:
    for row in same_name:
        if row.version == spec.version and row.fingerprint != spec.fingerprint:
            newest = max(row.revision or 0 for row in same_name)
            raise Conflict(
                f"Revision {spec.version} of the workflow {spec.name!r} exists in the project "
                f"{project!r} with other code. Ask for revision {newest + 1}, or leave the "
                "revision out to be given one."
            )


def _row(
    spec: DefinitionSpec,
    project: str,
    version: str,
    before: Definition | None,
    *,
    now: float,
    issue: Callable[[Kind], str],
) -> Definition:
    if before is not None:
        return replace(
            before,
            fingerprint=spec.fingerprint,
            module=spec.module,
            qualname=spec.qualname,
            description=spec.description,
            options=spec.options,
        )
    return Definition(
        id=issue(spec.kind),
        project=project,
        kind=spec.kind,
        name=spec.name,
        version=version,
        fingerprint=spec.fingerprint,
        module=spec.module,
        qualname=spec.qualname,
        description=spec.description,
        options=spec.options,
        registered_at=now,
    )
