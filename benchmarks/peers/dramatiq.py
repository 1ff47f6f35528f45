"""Dramatiq over RabbitMQ, results in Redis."""

import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from benchmarks import jobs
from benchmarks.peer import About, Job, Peer, module

dramatiq = import_module("dramatiq")
results = import_module("dramatiq.results")

backend = import_module("dramatiq.results.backends.redis").RedisBackend(
    url=os.environ.get("BENCH_REDIS"),
    encoder=dramatiq.PickleEncoder() if os.environ.get("BENCH_ARRAYS") else None,
)
broker = import_module("dramatiq.brokers.rabbitmq").RabbitmqBroker(
    url=os.environ.get("BENCH_RABBITMQ"), confirm_delivery=bool(os.environ.get("BENCH_CONFIRMS"))
)
broker.add_middleware(results.Results(backend=backend))
dramatiq.set_broker(broker)
if os.environ.get("BENCH_ARRAYS"):
    dramatiq.set_encoder(dramatiq.PickleEncoder())

ACTORS = {
    name: dramatiq.actor(function, actor_name=name, store_results=True)
    for name, function in {
        "noop": jobs.noop,
        "nap": jobs.nap,
        "block": jobs.block,
        "burn": jobs.burn,
        "shift": jobs.shift,
    }.items()
}
ACTORS["noop_sync"] = ACTORS["noop"]
step = dramatiq.actor(jobs.step, actor_name="step", store_results=True)
TIMEOUT = 120_000
"""Milliseconds that a result may take."""


class Dramatiq(Peer):
    """As it is by itself."""

    about = About(
        title="Dramatiq, Redis results",
        packages=["dramatiq", "pika", "redis"],
        durable="messages are persistent and acknowledged after the task, but not confirmed; "
        "results are in Redis's memory",
        settings="its own 8 threads a process, as many as there are slots where that is asked; "
        "Redis without a file; arrays pickled",
        not_asked="to survive the broker's end, or Redis's",
    )
    imported = "import dramatiq"
    first = (
        "from benchmarks.peers.dramatiq import ACTORS; "
        "print(ACTORS['noop'].send(1).get_result(block=True), flush=True)"
    )

    async def start(self) -> None:
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        workers = self.shape.workers
        threads = [] if self.shape.slots is None else ["-t", str(self.shape.slots // workers)]
        prefetch = {"dramatiq_queue_prefetch": "1"} if self.shape.slots == workers else {}
        options = ["-p", str(workers), *threads, "--worker-shutdown-timeout", "5000"]
        command = module("dramatiq", "benchmarks.peers.dramatiq", *options)
        self.spawn("worker", command, "ready for action", prefetch, times=workers)
        self.wait_ready()

    async def stop(self) -> None:
        broker.close()
        await super().stop()

    async def submit(self, job: Job, arguments: Sequence[Any]) -> Sequence[Any]:
        actor = ACTORS[job]
        return [actor.send(argument) for argument in arguments]

    async def collect(self, submitted: Sequence[Any]) -> Sequence[Any]:
        return [message.get_result(block=True, timeout=TIMEOUT) for message in submitted]

    async def call(self, job: Job, argument: Any) -> Any:
        return ACTORS[job].send(argument).get_result(block=True, timeout=TIMEOUT)

    async def workflows(self, number: int, steps: int, at_once: int) -> Sequence[int]:
        running: deque[Any] = deque()
        ends: list[int] = []
        for first in range(number):
            if len(running) == at_once:
                ends.append(_end(running.popleft()))
            messages = [step.message(first), *[step.message() for _ in range(steps - 1)]]
            running.append(dramatiq.pipeline(messages).run())
        return [*ends, *map(_end, running)]


def _end(pipeline: Any) -> int:
    end: int = pipeline.get_result(block=True, timeout=TIMEOUT)
    return end


class Confirmed(Dramatiq):
    """With publisher confirms."""

    about = replace(
        Dramatiq.about,
        title="Dramatiq, confirms",
        durable="messages: persistent, confirmed, acknowledged after the task; results are in "
        "Redis's memory",
        not_asked="to survive Redis's end, or to keep where a pipeline is other than in messages",
    )
