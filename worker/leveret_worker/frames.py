"""What passes between a worker and its child processes: frames of msgpack behind their length.

    parent → child   one `Setup`, then one `Order` at a time, then `END`
    child → parent   `READY` once, then one answer (an `Ending`) an order

While an order is under way the parent sends nothing but `END`, so that anything waiting to be read
means that the child shall end. The frames never leave the machine, nor the version of the code.
"""

import os
import struct
from dataclasses import astuple, dataclass, field, fields
from typing import TYPE_CHECKING, Literal

import msgpack

from leveret.keys import Keyring
from leveret.sealing import PayloadOptions
from leveret_worker.code import SealedCode
from leveret_worker.functions import FunctionRef
from leveret_worker.perform import Ending, Inputs

if TYPE_CHECKING:
    from leveret_broker.messages import Failure

CHUNK = 65536
"""Bytes to receive at once; larger buffers cost a system call each to allocate."""

_LENGTH = struct.Struct("!Q")

_PAYLOADS = [field.name for field in fields(PayloadOptions)]

END = READY = _LENGTH.pack(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a child needs to know once. Keys go only this way: others can't see a socket."""

    keys: Keyring | None
    payloads: PayloadOptions
    grace: float
    """Seconds that user code has to unwind after its parent died."""
    logs: Literal["text", "json"] | None = None
    """How the worker logs; `None` if that is its program's affair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A job as a child gets it."""

    run: str
    attempt: int
    root: str
    project: str
    definition: str
    arguments: bytes
    number: int
    """Of the function, among those that this child was given."""
    function: FunctionRef | None
    """Set the first time."""
    path: list[str] | None
    """The parent's `sys.path`, set if it changed."""
    round: int = 1
    is_fresh: bool = False
    """See `RunContext.fresh`."""
    inputs: Inputs = field(default_factory=dict[str, bytes])


def pack_setup(setup: Setup) -> bytes:
    ring = setup.keys
    payloads = astuple(setup.payloads)
    keys = ring and (ring.keys, ring.encrypts, ring.accepts_unsigned)
    return _pack((keys, payloads, setup.grace, setup.logs))


def unpack_setup(frame: bytes) -> Setup:
    ring, payloads, grace, logs = msgpack.unpackb(frame)
    return Setup(
        keys=ring and Keyring(keys=tuple(ring[0]), encrypts=ring[1], accepts_unsigned=ring[2]),
        payloads=PayloadOptions(**dict(zip(_PAYLOADS, payloads, strict=True))),
        grace=grace,
        logs=logs,
    )


def pack_order(order: Order) -> bytes:
    ref = order.function
    return _pack(
        (
            order.run,
            order.attempt,
            order.root,
            order.project,
            order.definition,
            order.arguments,
            order.number,
            ref and (ref.module, ref.qualname, _encoded(ref.file), ref.pickled, _code(ref.code)),
            None if order.path is None else [_encoded(entry) for entry in order.path],
            order.round,
            order.is_fresh,
            dict(order.inputs),
        )
    )


def unpack_order(frame: bytes) -> Order:
    run, attempt, root, project, definition, arguments, *rest = msgpack.unpackb(frame)
    number, ref, path, round_, is_fresh, inputs = rest
    return Order(
        run=run,
        attempt=attempt,
        root=root,
        project=project,
        definition=definition,
        arguments=arguments,
        number=number,
        function=ref and _function_ref(*ref),
        path=None if path is None else [os.fsdecode(entry) for entry in path],
        round=round_,
        is_fresh=is_fresh,
        inputs=inputs,
    )


def pack_ending(ending: Ending) -> bytes:
    failure = ending.failure
    return _pack(
        (
            ending.result,
            ending.error,
            failure and (failure.type, failure.message, failure.traceback, failure.kinds),
        )
    )


def unpack_ending(frame: bytes) -> Ending:
    result, error, failure = msgpack.unpackb(frame)
    return Ending(result=result, error=error, failure=failure and _failure(*failure))


class Inbox:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether no byte of a further frame has come."""
        return not self._buffer

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that these bytes complete."""
        self._buffer += data
        frames: list[bytes] = []
        start = 0
        while (body := start + _LENGTH.size) <= len(self._buffer):
            end = body + _LENGTH.unpack_from(self._buffer, start)[0]
            if end > len(self._buffer):
                break
            with memoryview(self._buffer) as view:  # a slice of the buffer would be a second copy
                frames.append(bytes(view[body:end]))
            start = end
        del self._buffer[:start]
        return frames


def _pack(message: object) -> bytes:
    body = msgpack.packb(message)
    return _LENGTH.pack(len(body)) + body


def _encoded(path: str | None) -> bytes | None:
    """Paths travel as bytes: they need not be valid text."""
    return None if path is None else os.fsencode(path)


def _function_ref(
    module: str,
    qualname: str,
    file: bytes | None,
    pickled: bytes | None,
    code: tuple[str, str, str, str, int, str, bytes] | None,
) -> FunctionRef:
    return FunctionRef(
        module=module,
        qualname=qualname,
        file=None if file is None else os.fsdecode(file),
        pickled=pickled,
        code=code and _sealed_code(*code),
    )


def _code(code: SealedCode | None) -> tuple[str, str, str, str, int, str, bytes] | None:
    if code is None:
        return None
    return (code.project, code.kind, code.name, code.digest, code.index, code.place, code.body)


def _sealed_code(
    project: str, kind: str, name: str, digest: str, index: int, place: str, body: bytes
) -> SealedCode:
    return SealedCode(
        project=project, kind=kind, name=name, digest=digest, index=index, place=place, body=body
    )


def _failure(type_: str, message: str, traceback: str, kinds: list[str]) -> "Failure":
    from leveret_broker.messages import Failure  # late: a child never needs it for this

    return Failure(type=type_, message=message, traceback=traceback, kinds=tuple(kinds))
