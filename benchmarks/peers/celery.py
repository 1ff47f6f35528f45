"""Celery: prefork workers over RabbitMQ, results by its rpc backend."""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from benchmarks import jobs
from benchmarks.peer import About, Job, Peer, module

celery = import_module("celery")
URL = os.environ.get("BENCH_RABBITMQ", "")
IS_DURABLE = bool(os.environ.get("BENCH_DURABLE"))
SERIALIZER = "pickle" if os.environ.get("BENCH_ARRAYS") else "json"

app = celery.Celery("bench", broker=URL, backend="rpc://")
app.conf.update(
    task_serializer=SERIALIZER,
    result_serializer=SERIALIZER,
    accept_content=[SERIALIZER],
    task_acks_late=IS_DURABLE,
    result_persistent=IS_DURABLE,
    broker_transport_options={"confirm_publish": IS_DURABLE},
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "64")),
)
TASKS = {
    "noop": app.task(jobs.noop, name="noop"),
    "nap": app.task(jobs.nap, name="nap"),
    "block": app.task(jobs.block, name="block"),
    "burn": app.task(jobs.burn, name="burn"),
    "shift": app.task(jobs.shift, name="shift"),
}
TASKS["noop_sync"] = TASKS["noop"]
step = app.task(jobs.step, name="step")


class Celery(Peer):
    """As its documentation recommends it for short tasks."""

    about = About(
        title="Celery, rpc results",
        packages=["celery", "kombu", "amqp"],
        durable="messages are persistent, but neither confirmed nor acknowledged late; results "
        "are transient",
        settings="prefetch multiplier 64 (its guide: 50 to 150 for short tasks), 1 where tasks "
        "are long; no gossip, mingle or heartbeat; naps in threads; arrays pickled",
        not_asked="to survive anything",
    )
    imported = "from celery import Celery"
    first = (
        "from benchmarks.peers.celery import TASKS; print(TASKS['noop'].delay(1).get(), flush=True)"
    )

    async def start(self) -> None:
        slots = self.shape.slots or self.shape.workers
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]
        pool = "threads" if slots > self.shape.workers else "prefork"
        services = self.shape.workers if pool == "threads" else 1
        prefetch = {"BENCH_PREFETCH": "1"} if self.shape.slots == self.shape.workers else {}
        for number in range(services):
            name = f"bench{number}@localhost"
            options = ["-n", name, "-P", pool, "-c", str(slots // services), *quiet]
            command = module("celery", "-A", "benchmarks.peers.celery", "worker", *options)
            self.spawn("worker", command, " ready.", prefetch)
        self.wait_ready()

    async def submit(self, job: Job, arguments: Sequence[Any]) -> Sequence[Any]:
        task = TASKS[job]
        return [task.delay(argument) for argument in arguments]

    async def collect(self, submitted: Sequence[Any]) -> Sequence[Any]:
        return [result.get() for result in submitted]

    async def call(self, job: Job, argument: Any) -> Any:
        return TASKS[job].delay(argument).get()

    async def workflows(self, number: int, steps: int, at_once: int) -> Sequence[int]:
        running: deque[Any] = deque()
        ends: list[int] = []
        for first in range(number):
            if len(running) == at_once:
                ends.append(running.popleft().get())
            chain = celery.chain(step.s(first), *[step.s() for _ in range(steps - 1)])
            running.append(chain.apply_async())
        return [*ends, *(chain.get() for chain in running)]


class Durable(Celery):
    """With what its documentation has against losses."""

    about = replace(
        Celery.about,
        title="Celery, late acks and confirms",
        durable="messages: persistent, confirmed, acknowledged after the task; results persistent",
        not_asked="to keep where a chain is, other than in the messages",
    )
