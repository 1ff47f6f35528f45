"""Code that travels: a definition and all that it may call, in one signed payload.

The definition's function goes by value, and with it whatever of a script, a notebook or a shipped
module it refers to. Definitions among that go by value as well, so that a workflow finds what it
calls; those of other modules go by name. All of them are one pickle: they share their helpers and
their classes, and may refer to each other in circles.

The signature is made for a project and the digest of the code, so that what was signed for another
project, or under another digest, is not loaded.
"""

import hashlib
import importlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, TypeGuard

from leveret import payload, scripts
from leveret.definitions import Definition, Task
from leveret.errors import MissingModuleError, PayloadError
from leveret.keys import Keyring
from leveret.options import Options
from leveret.payload import Context, Encoded
from leveret_broker.messages import CodeRef, DefinitionSpec

AnyDefinition = Definition[..., Any]

MOST_CODE = 8 * 1024 * 1024
"""Bytes: the largest message that a broker takes may be no more than twice as large."""


class Bundle:
    """What is pickled. Pickling the definition finds the others."""

    def __init__(self, definition: AnyDefinition, found: list[AnyDefinition]) -> None:
        self.definition = definition
        self.definitions = found  # after the definition: it is full by then


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """Code that is not signed yet."""

    digest: str
    encoded: Encoded
    definitions: Sequence[AnyDefinition]
    """The one that was asked for, and those that came along."""


def pack(definition: AnyDefinition) -> Packed:
    """The code of a definition as it is now, with the values of the globals that it refers to.

    Raises `PayloadError` saying what can't travel.
    """
    from leveret import pickles

    found: list[AnyDefinition] = []
    with pickles.reducing(partial(_reduced, found)):
        try:
            encoded = payload.encode(Bundle(definition, found))
        except PayloadError as error:
            raise PayloadError(
                f"the code of {definition!r} ({definition.where}) can't be carried to the cluster: "
                f"{error}. Make what can't travel inside the function, or pass it as an argument"
            ) from error
    size = _size(encoded)
    if size > MOST_CODE:
        raise PayloadError(
            f"the code of {definition!r} ({definition.where}) has {size:,} bytes with all that it "
            f"refers to, and {MOST_CODE:,} may be shipped: pass data as arguments"
        )
    return Packed(digest=_digest(encoded), encoded=encoded, definitions=tuple(found))


def spec_of(definition: AnyDefinition) -> DefinitionSpec:
    """A definition as it is registered together with its code."""
    prefetch = definition.prefetch if isinstance(definition, Task) else None
    return definition.spec.model_copy(update={"place": definition.place, "prefetch": prefetch})


def seal(packed: Packed, *, keys: Keyring, project: str) -> bytes:
    """The code as it travels."""
    return payload.seal(packed.encoded, keys=keys, context=_context(project, packed.digest))


def unpack(
    sealed: bytes, *, keys: Keyring | None, project: str, digest: str
) -> Sequence[AnyDefinition]:
    """The definitions in a code, verified and then loaded, which runs what it imports.

    Raises `MissingModuleError` or `PayloadError`, which name this host.
    """
    host = socket.gethostname()
    try:
        bundle = payload.unseal(sealed, keys=keys, context=_context(project, digest))
    except PayloadError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise missing(error.__cause__) from error.__cause__
        raise PayloadError(f"shipped code can't be loaded on {host}: {error}") from error
    if not isinstance(bundle, Bundle):
        raise PayloadError(f"what was shipped as code to {host} is a {type(bundle).__qualname__}")
    for index, definition in enumerate(bundle.definitions):
        definition.code = CodeRef(digest=digest, index=index, place=definition.place)
    return bundle.definitions


def missing(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error for a module that shipped code imports and this host doesn't have."""
    if error.name is None or isinstance(error, MissingModuleError):  # it is about something else
        return error
    host, top = socket.gethostname(), error.name.partition(".")[0]
    told = MissingModuleError(
        f"the code that was shipped needs the module {error.name!r}, which the worker on {host} "
        f"doesn't have: install {top!r} there, or, if it is your own, have it carried along by "
        f'connect(ship=["{top}"])',
        name=error.name,
    )
    return told.with_traceback(error.__traceback__)


def _context(project: str, digest: str) -> Context:
    return Context(project=project, run=digest, definition="", direction="code")


def _size(encoded: Encoded) -> int:
    classes = sum(len(pickled) for _, _, pickled in encoded.definitions)
    return len(encoded.body) + sum(buffer.nbytes for buffer in encoded.buffers) + classes


def _digest(encoded: Encoded) -> str:
    digest = hashlib.blake2b(encoded.content_hash.encode(), digest_size=16)
    for _, _, pickled in encoded.definitions:
        digest.update(len(pickled).to_bytes(8, "big"))
        digest.update(pickled)
    return digest.hexdigest()


# -- definitions within pickles -------------------------------------------------------------------


def _reduced(found: list[AnyDefinition], value: object) -> Any:
    """What stands for a definition in a pickle; see `pickles.reducing`."""
    if not _is_definition(value):
        return NotImplemented
    definition, base = value, value.base
    if scripts.travels(base.module):
        _ = base.fingerprint  # it goes along: where the code arrives there is no source
        if definition is base:
            found.append(base)
        return NotImplemented
    if definition is not base:
        return _varied, (base, definition.key, definition.chosen)
    name = base.module, base.fn.__qualname__
    return (find_definition, name) if scripts.find(*name) is base else NotImplemented


def _is_definition(value: object) -> TypeGuard[AnyDefinition]:
    return isinstance(value, Definition)


def _varied(base: AnyDefinition, key: str | None, options: Options | None) -> AnyDefinition:
    return base.vary(key, options)


def find_definition(module: str, qualname: str) -> object:
    """A definition of a module that is not shipped."""
    try:
        return attrgetter(qualname)(importlib.import_module(module))
    except AttributeError as error:
        raise ImportError(f"module {module!r} has no {qualname} here", name=module) from error
