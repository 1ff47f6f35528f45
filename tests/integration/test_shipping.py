"""Shipped code through real services in one process, and code that nobody has signed for it."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType

import pytest

from leveret import PayloadError, bundles, payload, pickles
from leveret.connection import Connection
from leveret.context import connected
from leveret.errors import SettingError
from leveret.keys import Keyring
from leveret.session import Session
from leveret.shipping import Shipper
from leveret_broker import messages
from leveret_broker.lifecycle import Connected
from leveret_broker.memory import MemoryBroker, MemoryTransport
from leveret_coordinator.service import CoordinatorService
from leveret_worker.functions import module_at
from leveret_worker.service import WorkerService

PROJECT = "lab"
KEYS = Keyring(keys=(bytes(range(32)),))
OTHERS = Keyring(keys=(bytes(32),))
MODULE = """
import asyncio, os
from pathlib import Path
from leveret import define

MARKER = Path({marker!r})

@define.task
def in_process() -> int:
    MARKER.touch()
    return os.getpid()

@define.task(runs_in="thread")
def in_thread() -> int:
    MARKER.touch()
    return os.getpid()

@define.task
async def on_loop() -> int:
    MARKER.touch()
    return os.getpid()

@define.workflow
async def whole() -> list[int]:
    return list(await asyncio.gather(in_process(), in_thread(), on_loop()))
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where shipped code leaves a mark when it runs."""
    return tmp_path / "marker"


@pytest.fixture
def lab(tmp_path: Path, marker: Path) -> Iterator[ModuleType]:
    """A module whose code is shipped."""
    file = tmp_path / "lab_module.py"
    file.write_text(MODULE.format(marker=str(marker)))
    module = module_at("lab_module", str(file))
    pickles.ship(module)
    yield module
    sys.modules.pop("lab_module", None)


class Services:
    """A coordinator, a worker that accepts code, and connections with a key or without."""

    def __init__(self) -> None:
        self._broker = MemoryBroker()
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        await self._start(CoordinatorService(self._transport(), None))
        await self._start(
            WorkerService(
                self._transport(), project=PROJECT, keys=KEYS, processes=1, accept_code=True
            )
        )

    async def close(self) -> None:
        await self._stack.aclose()

    async def connection(self, keys: Keyring | None) -> Connection:
        session = Session(self._transport(), where="memory")
        await self._start(session)
        connection = Connection(session, project=PROJECT, keys=keys)
        connection.shipper = Shipper(connection, asyncio.get_running_loop())
        return connection

    def _transport(self) -> MemoryTransport:
        self._last = MemoryTransport(self._broker)
        return self._last

    async def _start(self, service: CoordinatorService | WorkerService | Session) -> None:
        whole = Connected(self._last, service)
        await whole.start()
        self._stack.push_async_callback(whole.stop)


@pytest.fixture
async def services() -> AsyncGenerator[Services]:
    services = Services()
    await services.open()
    yield services
    await services.close()


async def rewritten(connection: Connection, module: ModuleType, digest: str, body: bytes) -> None:
    """Somebody registers other code for a definition: that takes a connection, and no key."""
    await connection.ask(
        messages.Registered,
        messages.Ship,
        project=PROJECT,
        digest=digest,
        body=body,
        definitions=(bundles.spec_of(module.in_process),),
    )


async def test_shipped_code_runs_in_each_place(
    services: Services, lab: ModuleType, marker: Path
) -> None:
    with connected(await services.connection(KEYS)):
        pids: list[int] = await lab.whole()
    assert len(set(pids)) == 2, "the thread's and the loop's are those of the worker"
    assert marker.exists()


async def test_a_hundred_calls_ship_their_code_once(services: Services, lab: ModuleType) -> None:
    connection = await services.connection(KEYS)
    with connected(connection):
        await asyncio.gather(*[lab.on_loop() for _ in range(100)])
    [row] = (
        await connection.ask(messages.Rows, messages.ListDefinitions, project=PROJECT)
    ).definitions
    assert row.definition.name == "on_loop"


@pytest.mark.parametrize("forgery", ["garbage", "replayed", "of another key", "of another project"])
async def test_code_that_is_not_signed_for_it_fails_the_run_and_is_not_loaded(
    services: Services, lab: ModuleType, marker: Path, forgery: str
) -> None:
    with connected(await services.connection(KEYS)):
        await lab.in_process()
    marker.unlink()
    packed = bundles.pack(lab.whole)
    bodies = {
        "garbage": b"LV" + bytes(100),
        "replayed": bundles.seal(packed, keys=KEYS, project=PROJECT),
        "of another key": bundles.seal(packed, keys=OTHERS, project=PROJECT),
        "of another project": bundles.seal(packed, keys=KEYS, project="other"),
    }
    digest = "forged" if forgery in ("garbage", "replayed") else packed.digest
    attacker = await services.connection(None)
    await rewritten(attacker, lab, digest, bodies[forgery])
    honest = await services.connection(KEYS)
    empty = payload.encode_arguments((), {})
    run = await honest.submit_identified(f"{PROJECT}:in_process:0", PROJECT, "in_process", empty)
    with pytest.raises(PayloadError, match="shipped code can't be loaded on"):
        await run.result()
    assert not marker.exists()


async def test_code_of_another_definition_fails_the_run(
    services: Services, lab: ModuleType, marker: Path
) -> None:
    attacker = await services.connection(None)
    other = bundles.pack(lab.in_thread)
    await rewritten(attacker, lab, other.digest, bundles.seal(other, keys=KEYS, project=PROJECT))
    honest = await services.connection(KEYS)
    empty = payload.encode_arguments((), {})
    run = await honest.submit_identified(f"{PROJECT}:in_process:0", PROJECT, "in_process", empty)
    with pytest.raises(PayloadError, match="is not that of a task 'in_process'"):
        await run.result()
    assert not marker.exists()


async def test_a_worker_without_a_key_takes_no_code() -> None:
    transport = MemoryTransport(MemoryBroker())
    with pytest.raises(SettingError, match="leveret key new"):
        WorkerService(transport, project=PROJECT, keys=None, accept_code=True)
