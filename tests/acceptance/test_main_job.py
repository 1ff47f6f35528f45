"""The main job with real processes: the user's example, a coordinator and two workers."""

import sys
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.acceptance.processes import EXAMPLE, Site, until
from tests.rabbit import RabbitNode

pytestmark = pytest.mark.rabbitmq

HEADINGS = ("RUN", "DEFINITION", "STATE", "ASKED", "FOR", "AT", "TOOK", "HOST", "FAILURE")
QUEUES = {
    "default:find_best_model:0.0.1",
    "default:load_images:0.0.1",
    "default:prepare_data:1",
    "default:split:0.0.1",
    "default:train_and_pick_model:1",
    "default:train_model:0.0.1",
}


def queues(node: RabbitNode, url: str) -> dict[str, tuple[str, str]]:
    """Whether each queue is durable, and how many messages it holds, as RabbitMQ tells."""
    vhost = unquote(urlsplit(url).path[1:])
    listed = node.ctl(
        "list_queues", "-p", vhost, "--no-table-headers", "name", "durable", "messages"
    )
    rows = [line.split("\t") for line in listed.splitlines() if line]
    return {name: (durable, messages) for name, durable, messages in rows}


def walk(run: dict[str, Any], depth: int = 0) -> list[tuple[int, dict[str, Any]]]:
    below = [found for child in run["children"] for found in walk(child, depth + 1)]
    return [(depth, run), *below]


def test_the_example_runs_on_two_workers(site: Site, rabbit_node: RabbitNode) -> None:
    site.coordinator()
    workers = [site.worker(str(EXAMPLE), "--processes", "1") for _ in range(2)]

    done = site.execute([sys.executable, str(EXAMPLE)])
    assert done.returncode == 0, done.stderr
    assert "Winner: learning rate" in done.stdout
    assert float(done.stdout.split("accuracy on held-out images ")[1]) > 0.9
    assert done.stderr.count("✓ train_model:0.0.1") == 4

    started = site.json("run", "train_and_pick_model")
    assert started["state"] == "succeeded"
    assert started["result"]["held_out"] > 0.9

    kept = QUEUES | {"leveret.requests", "leveret.outcomes", "leveret.dead"}

    def all_empty() -> bool:  # the broker counts a replicated queue's messages every few seconds
        return all(messages == "0" for _, messages in queues(rabbit_node, site.url).values())

    until(all_empty, "all queues are empty")
    found = queues(rabbit_node, site.url)
    assert {name for name in found if ":session_" not in name and ":worker_" not in name} == kept
    assert {found[name][0] for name in kept} == {"true"}

    tree = walk(site.json("runs", "show", started["run"]))
    assert [(depth, run["definition"]) for depth, run in tree] == [
        (0, "default:train_and_pick_model:1"),
        (1, "default:prepare_data:1"),
        (2, "default:load_images:0.0.1"),
        (2, "default:split:0.0.1"),
        *[(1, "default:train_model:0.0.1")] * 4,
        (1, "default:find_best_model:0.0.1"),
    ]
    assert {run["state"] for _, run in tree} == {"succeeded"}
    tasks = [run for _, run in tree if run["kind"] == "task"]
    alive = {row["pid"]: row["id"] for row in site.json("workers")}
    assert {run["worker"] for run in tasks} == {alive[worker.pid] for worker in workers}


def test_commands_tell_what_there_is(site: Site) -> None:
    site.coordinator()
    site.worker(str(EXAMPLE))
    definition = site.json("resolve", "train_model")
    assert definition["queue"] == "default:train_model:0.0.1"
    assert site.json("resolve", definition["id"]) == definition
    listed = site.json("definitions")
    assert {f"{row['project']}:{row['name']}:{row['version']}" for row in listed} == QUEUES
    assert {row["workers"] for row in listed} == {1}
    detached = site.json("run", "prepare_data", "--input", '{"held_out": 0.5}', "--detach")
    rows = site.json("runs", "list", "--definition", "prepare_data")
    assert [row["id"] for row in rows] == [detached["run"]]
    heading, row = site.run("runs", "list", "--limit", "1").stdout.splitlines()
    assert heading.split() == list(HEADINGS)
    assert row.startswith("run_")
