"""One round of chaos: start the cluster, do things to it, let it come to rest, and judge.

`python -m tests.acceptance.chaos.run --help`, or `scripts/chaos`.
"""

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import rabbit
from tests.acceptance.chaos import driver, evidence, faults, ledger, report, verdict
from tests.acceptance.chaos.cluster import Cluster, Member, resident

TICK = 0.05
TELL_EVERY = 5.0
SETTLE_WITHIN = 120.0
"""Seconds after the last fault within which all has to be over."""
EMPTY_WITHIN = 30.0
"""Seconds from then on within which the queues have to be empty."""
READY_WITHIN = 60.0


class ChaosFailure(AssertionError):
    """Something did not hold. The message has all that is known about it."""


@dataclass(kw_only=True)
class Round:
    """One cluster's story."""

    cluster: Cluster
    seed: int
    tell: Callable[[str], None]
    watch: evidence.Watch
    began: float = field(default_factory=time.time)
    done: list[report.Done] = field(default_factory=list[report.Done])
    memory: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    _looked: float = 0.0
    _told: float = 0.0

    def run(self, count: int, minutes: float) -> evidence.Evidence:
        """Faults until there were `count` or the time is over; then what is known."""
        self.cluster.start()
        self._until(self._works, READY_WITHIN, "the first root run ends")
        self._disturb(count, time.monotonic() + minutes * 60)
        self._settle()
        self._stop()
        left = {name: messages for name, messages in self.cluster.ready().items() if messages}
        catalog, folder = self.cluster.catalog, self.cluster.folder
        return evidence.Evidence(
            seed=self.seed,
            rows=evidence.rows(catalog),
            refused=evidence.refused(self.cluster.coordinator.logs),
            lines=ledger.read(folder),
            journal=driver.read(folder),
            timers=evidence.table(catalog, "timers"),
            waiters=evidence.table(catalog, "waiters"),
            changed_ends=self.watch.changed,
            left=left,
            examples=[f"  {name}: {told}" for name in left for told in self.cluster.contents(name)],
            memory=self.memory,
            troubles=self.cluster.troubles,
        )

    # -- its parts --------------------------------------------------------------------------------

    def _works(self) -> bool:
        return any(entry.has_ended for entry in driver.read(self.cluster.folder))

    def _disturb(self, count: int, deadline: float) -> None:
        dice = faults.drawn(self.seed)
        chaos = faults.Chaos(cluster=self.cluster, dice=dice)
        try:
            while len(self.done) < count and time.monotonic() < deadline:
                gap, fault, chaos.dice = faults.next_fault(dice)
                self._pass(chaos, gap)
                while fault.needs_broker and self.cluster.broker_is_busy:
                    self._pass(chaos, TICK)
                self._apply(fault, chaos)
        finally:
            self.cluster.await_broker()
            chaos.undo_due(everything=True)
        report.keep(self.done, self.cluster.folder)
        self.tell(f"{len(self.done)} faults in {time.time() - self.began:.0f} s, now let it rest")

    def _apply(self, fault: faults.Fault, chaos: faults.Chaos) -> None:
        at = time.time()
        try:
            details = fault.apply(chaos)
        except faults.Missed:
            return
        self.done.append(report.Done(at=at - self.began, name=fault.name, details=details))

    def _pass(self, chaos: faults.Chaos, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            chaos.undo_due()
            self._tick()
            if time.monotonic() >= until:
                return
            time.sleep(TICK)

    def _settle(self) -> None:
        (self.cluster.folder / "enough").touch()
        self._until(
            lambda: self.cluster.driver.finished and not self.watch.unfinished,
            SETTLE_WITHIN,
            "all runs end",
        )

    def _stop(self) -> None:
        """Workers, then the coordinator, each once there is nothing left to do for it."""
        cluster = self.cluster
        self._until(self._is_quiet, EMPTY_WITHIN, "all queues are empty")
        cluster.stop(*cluster.workers)
        self._until(self._is_quiet, EMPTY_WITHIN, "all queues are empty without workers")
        cluster.stop(cluster.coordinator)
        self.watch.look()

    def _is_quiet(self) -> bool:
        return not any(self.cluster.ready().values())

    def _until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                self.cluster.troubles.append(f"never, within {seconds:g} s: {what}")
                return
            self._tick()
            time.sleep(TICK)

    def _tick(self) -> None:
        self.cluster.supervise()
        now = time.monotonic()
        if now >= self._looked + 1:
            self._looked = now
            self.watch.look()
            for member in [self.cluster.coordinator, *self.cluster.workers]:
                self._weigh(member)
        if now >= self._told + TELL_EVERY:
            self._told = now
            self.tell(self._progress())

    def _weigh(self, member: Member) -> None:
        if member.process is not None and (taken := resident(member.process.pid)):
            life = f"{member.name}, life {member.lives}, process {member.process.pid}"
            self.memory.setdefault(life, []).append(taken)

    def _progress(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.watch.states.items()))
        last = f"{self.done[-1].name} {self.done[-1].details}" if self.done else "none yet"
        return (
            f"seed {self.seed}, {time.time() - self.began:.0f} s, {len(self.done)} faults "
            f"(last: {last.strip()}); runs: {states or 'none'}"
        )


def run(
    node: rabbit.PrivateNode,
    url: str,
    folder: Path,
    tell: Callable[[str], None],
    *,
    seed: int,
    count: int = sys.maxsize,
    minutes: float = 60.0,
) -> Round:
    """A round on a node. Raises `ChaosFailure` with all that is known if something doesn't hold."""
    tell(f"seed {seed}; again by: scripts/chaos --seed {seed} --faults {count}")
    cluster = Cluster(node, url, folder, seed)
    watch = evidence.Watch(catalog=cluster.catalog)
    story = Round(cluster=cluster, seed=seed, tell=tell, watch=watch)
    logs = {"broker": cluster.broker_logs, **{one.name: one.logs for one in cluster.members}}
    try:
        found = story.run(count, minutes)
    except Exception as error:
        raise ChaosFailure(report.interrupted(error, seed, story.done, logs)) from error
    finally:
        cluster.close()
        cluster.keep_broker_logs()
    tell(report.summary(found, story.done))
    if violated := verdict.violations(found):
        raise ChaosFailure(report.told(violated, found, story.done, story.began, logs))
    return story


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long to do things to it")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="what is done")
    parser.add_argument("--faults", type=int, default=sys.maxsize, help="stop after as many")
    parser.add_argument("--folder", type=Path, help="keep logs, ledger and catalog here")
    given = parser.parse_args(arguments)

    def tell(line: str) -> None:
        print(f"chaos: {line}", flush=True)

    scripts = rabbit.installed_scripts()
    if scripts is None:
        parser.error("a RabbitMQ that can be killed is needed: install rabbitmq-server")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="leveret-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    tell(f"logs, ledger and catalog in {folder}")
    with rabbit.interrupted_by_sigterm(), rabbit.own_node(scripts, tell) as node:
        try:
            url = rabbit.VirtualHosts(node).take()
            run(node, url, folder, tell, seed=given.seed, count=given.faults, minutes=given.minutes)
        except ChaosFailure as failure:
            print(failure)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
