"""Old runs are removed by a command, from a catalog that a coordinator serves."""

import time

import pytest

from benchmarks.fill import MONTH, Filling, fill
from tests.acceptance.processes import Site

pytestmark = pytest.mark.rabbitmq

APP = """
from leveret import define

@define.task(runs_in="thread")
def answer() -> int:
    return 42
"""


def test_old_runs_are_counted_and_removed_and_young_ones_stay(site: Site) -> None:
    (site.folder / "app.py").write_text(APP)
    until = time.time() - MONTH
    fill(site.folder / "catalog.sqlite", Filling(runs=3000, project="old", until=until))
    site.coordinator()
    site.worker("app.py")
    young = site.json("run", "answer", "--detach")["run"]
    newest = site.json("runs", "list", "--limit", "5", "--project", "old")
    after = site.json("runs", "list", "--after", newest[-1]["id"], "--project", "old")
    assert not {run["id"] for run in newest} & {run["id"] for run in after}
    prune = ("admin", "prune", "--older-than", "30d")
    counted = site.json(*prune, "--dry-run")
    assert (counted["runs"], counted["dry_run"]) == (3000, True)
    assert counted["trees"] > 300
    assert site.json("runs", "show", newest[0]["id"])["id"] == newest[0]["id"]
    assert site.json(*prune) == {**counted, "dry_run": False}
    assert site.run(*prune).stdout.startswith("removed: 0 runs in 0 trees")
    assert [run["id"] for run in site.json("runs", "list")] == [young]
    gone = site.run("runs", "show", newest[0]["id"])
    assert gone.returncode == 3
    assert "there never was, or it was pruned" in gone.stderr
    too_young = site.run("admin", "prune", "--older-than", "5m")
    assert (too_young.returncode, "less than 1h" in too_young.stderr) == (2, True)
