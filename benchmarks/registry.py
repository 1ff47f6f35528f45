"""The peers by name. To add one, write its file in `peers/`, and a line here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from benchmarks.peer import Peer, Server


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a peer is, told without importing it."""

    where: str
    """The module in `peers/`, and the class in it."""
    servers: Sequence[Server] = ()
    """What it needs beside its own processes."""

    def load(self) -> type[Peer]:
        """Raises `ImportError` if what it needs is not installed."""
        module, _, name = self.where.partition(":")
        found: type[Peer] = getattr(import_module(f"benchmarks.peers.{module}"), name)
        return found


PEERS: Mapping[str, Entry] = {
    "leveret": Entry(where="leveret:Cluster", servers=["rabbitmq"]),
    "embedded": Entry(where="leveret:Embedded"),
    "embedded-state": Entry(where="leveret:EmbeddedState"),
}
