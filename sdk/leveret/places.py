"""Where a step stands in its workflow run: what its record is found by when it is made again.

Identity and ordinal are those of a call, taken when the step is made. The name is that of the
function, which has no version: edited code that still makes the same steps reuses their records.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from leveret import identity, payload, scripts, values
from leveret.context import RunContext, current_run, current_step
from leveret.errors import NestedCallError, PayloadError
from leveret_broker import identifiers

DEFINITION = "leveret.step"
"""The name that stands for every step's definition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A step of a workflow run: what its record is found by."""

    caller: RunContext
    name: str
    """What the step calls."""
    run: str
    """The id of its row."""
    identity: str
    ordinal: int
    key: str | None
    digest: str | None


def placed(
    run: RunContext,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: str | None = None,
) -> Place:
    """The place of a step that is made now. Raises `PayloadError` if nothing identifies it."""
    callee = f"{DEFINITION}:{name}"
    content = _content(name, args, kwargs, key)
    digest = None if content is None else content.digest
    if key is None:
        assert content is not None, "what can't be identified was refused"
        known, ordinal = content.text, run.next_ordinal(callee, content.text)
    else:
        run.use_key(key, callee, digest, identity.shown(args, kwargs))
        known, ordinal = identity.of_key(key), 0
    return Place(
        caller=run,
        name=name,
        run=identifiers.child_run_id(run.run, f"{run.project}:{callee}", known, ordinal),
        identity=known,
        ordinal=ordinal,
        key=key,
        digest=digest,
    )


def _content(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None
) -> identity.Content | None:
    try:
        return identity.of_arguments(payload.encode_arguments(args, kwargs), args, kwargs)
    except PayloadError as error:
        if key is not None:
            return None
        raise PayloadError(
            f"nothing tells this step {name} from others: {error}. Give it a key, by "
            "leveret.step.options(key=…)(…), and its arguments may be anything"
        ) from error


def workflow_run(name: str) -> RunContext | None:
    """The workflow run that a step belongs to, if any. Raises `NestedCallError` in a step."""
    around = current_step()
    if around is not None:
        raise NestedCallError(
            f"the step {name} was made inside the step {around}, which is recorded as a whole: "
            f"make it in the workflow itself, or call the plain function"
        )
    run = current_run()
    return run if run is not None and run.kind == "workflow" else None


def name_of(fn: Any) -> str:
    """A function's qualified name, with its module."""
    while isinstance(fn, partial):
        fn = cast("partial[Any]", fn).func
    named: Any = fn if hasattr(fn, "__qualname__") else type(cast(object, fn))
    module = getattr(named, "__module__", None)  # that of a method of a C class is None
    name = str(named.__qualname__)
    return f"{scripts.public_module(module)}.{name}" if module else name


def taken_along(fn: Any) -> tuple[object, ...]:
    """Constants that a nested function or a partial has with it: arguments in all but name.

    They tell apart what one line of a workflow makes of many values, such as
    `step(lambda: read(path))`. What may change doesn't count.
    """
    if isinstance(fn, partial):
        made = cast("partial[Any]", fn)
        return (*taken_along(made.func), made.args, made.keywords)
    if "<" not in getattr(fn, "__qualname__", ""):
        return ()
    cells = [cell for cell in getattr(fn, "__closure__", None) or () if _is_filled(cell)]
    held = [cell.cell_contents for cell in cells]
    named: dict[str, object] = getattr(fn, "__kwdefaults__", None) or {}
    kept = [*held, *(getattr(fn, "__defaults__", None) or ()), *named.values()]
    return tuple(value for value in kept if values.is_constant(value))


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # its variable is not set yet
        return False
