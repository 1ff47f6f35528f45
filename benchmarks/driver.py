"""The process that holds one peer and drives it: it is the client that is measured.

Started by `running.py` with an order on its command line; it reports on a pipe, a line each.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import measuring, workloads
from benchmarks.peer import Peer, Shape, Site, Unsupported
from benchmarks.registry import PEERS


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the driver has to do."""

    peer: str
    folder: str
    urls: dict[str, str]
    shape: dict[str, Any]
    workloads: Sequence[str]
    scale: dict[str, Any]
    reports_to: int
    """The pipe's descriptor."""


Tell = Callable[[dict[str, Any]], None]


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    with os.fdopen(order.reports_to, "w", buffering=1) as pipe:

        def tell(news: dict[str, Any]) -> None:
            pipe.write(json.dumps(news) + "\n")

        try:
            _drive(order, tell)
        except Unsupported as error:
            tell({"event": "unsupported", "error": str(error)})
        except ImportError as error:
            tell({"event": "unavailable", "error": f"{error}: pip install --group bench"})
        except Exception as error:
            tell({"event": "failed", "error": f"{type(error).__name__}: {error}"})
            raise


def _drive(order: Order, tell: Tell) -> None:
    entry = PEERS[order.peer]
    shape = Shape(**order.shape)
    # Its modules are imported here and by its workers, and find all of it in the environment.
    os.environ.update({f"BENCH_{server.upper()}": url for server, url in order.urls.items()})
    os.environ.update(entry.environment, BENCH_ARRAYS="1" if shape.arrays else "")
    kind = entry.load()
    about = {**asdict(kind.about), "versions": kind.about.versions()}
    peer = kind(Site(folder=Path(order.folder), urls=order.urls), shape)
    with asyncio.Runner(loop_factory=_loop_factory(kind)) as runner:
        runner.run(_measure(peer, order, about, tell))


def _loop_factory(kind: type[Peer]) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if kind.loop == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _measure(peer: Peer, order: Order, about: dict[str, Any], tell: Tell) -> None:
    scale = workloads.Scale(**order.scale)
    try:
        with measuring.Clock() as clock:
            await peer.start()
        tell({"event": "ready", "about": about, "seconds": clock.seconds})
        for key in order.workloads:
            tell({"workload": key, **await _one(peer, workloads.WORKLOADS[key], scale)})
    finally:
        await peer.stop()


async def _one(peer: Peer, workload: workloads.Workload, scale: workloads.Scale) -> dict[str, Any]:
    """A workload's figures, or why there are none."""
    before = _used(peer)
    with measuring.Clock() as clock:
        try:
            figures = await workload.run(peer, scale)
        except Unsupported as error:
            return {"event": "unsupported", "error": str(error)}
        except Exception as error:
            return {"event": "failed", "error": f"{type(error).__name__}: {error}"}
    after = _used(peer)
    cpu = {role: after[role] - before.get(role, 0.0) for role in after}
    return {"event": "measured", "figures": figures, "seconds": clock.seconds, "cpu": cpu}


def _used(peer: Peer) -> dict[str, float]:
    """Processor seconds so far by role; the client's are this process's own."""
    roles = measuring.used_by_role(peer.services())
    return {"client": measuring.used([os.getpid()]) - sum(roles.values()), **roles}


if __name__ == "__main__":
    main()
