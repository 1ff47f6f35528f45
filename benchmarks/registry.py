"""The peers by name. To add one, write its file in `peers/`, and a line here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

from benchmarks.peer import Peer, Server


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a peer is, told without importing it."""

    where: str
    """The module in `peers/`, and the class in it."""
    servers: Sequence[Server] = ()
    """What it needs beside its own processes."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """What makes it this variant."""

    def load(self) -> type[Peer]:
        """Raises `ImportError` if what it needs is not installed."""
        module, _, name = self.where.partition(":")
        found: type[Peer] = getattr(import_module(f"benchmarks.peers.{module}"), name)
        return found


PEERS: Mapping[str, Entry] = {
    "leveret": Entry(where="leveret:Cluster", servers=["rabbitmq"]),
    "embedded": Entry(where="leveret:Embedded"),
    "embedded-state": Entry(where="leveret:EmbeddedState"),
    "celery": Entry(where="celery:Celery", servers=["rabbitmq"]),
    "celery-durable": Entry(
        where="celery:Durable", servers=["rabbitmq"], environment={"BENCH_DURABLE": "1"}
    ),
    "dramatiq": Entry(where="dramatiq:Dramatiq", servers=["rabbitmq", "redis"]),
    "dramatiq-confirms": Entry(
        where="dramatiq:Confirmed",
        servers=["rabbitmq", "redis"],
        environment={"BENCH_CONFIRMS": "1"},
    ),
    "taskiq": Entry(where="taskiq:Taskiq", servers=["rabbitmq", "redis"]),
    "dbos-sqlite": Entry(where="dbos:Sqlite"),
    "dbos-postgres": Entry(where="dbos:Postgres", servers=["postgres"]),
    "pool": Entry(where="pool:Pool"),
}
