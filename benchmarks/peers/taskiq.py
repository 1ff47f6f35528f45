"""Taskiq over RabbitMQ by aio-pika, results in Redis, pipelines by taskiq-pipelines."""

import asyncio
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from benchmarks import jobs
from benchmarks.peer import About, Job, Peer, at_a_time, module

IN_PARALLEL = 50
"""Results that are waited for at a time: each polls Redis."""
POLL_EVERY = 0.001

serializers = import_module("taskiq.serializers")
pipelines = import_module("taskiq_pipelines")
_serializer = (
    serializers.PickleSerializer()
    if os.environ.get("BENCH_ARRAYS")
    else serializers.ORJSONSerializer()
)
backend = import_module("taskiq_redis").RedisAsyncResultBackend(
    os.environ.get("BENCH_REDIS", "redis://"), keep_results=False, serializer=_serializer
)
broker = (
    import_module("taskiq_aio_pika")
    .AioPikaBroker(os.environ.get("BENCH_RABBITMQ"), qos=int(os.environ.get("BENCH_QOS", "100")))
    .with_result_backend(backend)
    .with_serializer(_serializer)
    .with_middlewares(pipelines.PipelineMiddleware())
)
TASKS = {
    name: broker.register_task(function, task_name=name)
    for name, function in {
        "noop": jobs.noop_async,
        "noop_sync": jobs.noop,
        "nap": jobs.nap_async,
        "block": jobs.block,
        "burn": jobs.burn,
        "shift": jobs.shift,
    }.items()
}
step = broker.register_task(jobs.step_async, task_name="step")


class Taskiq(Peer):
    """As its documentation recommends it."""

    about = About(
        title="Taskiq, aio-pika, Redis results",
        packages=["taskiq", "taskiq-aio-pika", "taskiq-redis", "taskiq-pipelines", "uvloop"],
        durable="messages: persistent, confirmed, acknowledged after the result is stored; results "
        "are in Redis's memory",
        settings="uvloop; orjson, arrays pickled; prefetch 100; sync functions in a process pool; "
        "results polled each millisecond; Redis without a file",
        not_asked="to survive Redis's end, or to keep where a pipeline is other than in messages",
    )
    loop = "uvloop"
    imported = "import taskiq"
    first = """
import asyncio
from benchmarks.peers.taskiq import TASKS, broker

async def main():
    await broker.startup()
    task = await TASKS["noop"].kiq(1)
    print((await task.wait_result(check_interval=0.001)).return_value, flush=True)
    await broker.shutdown()

asyncio.run(main())
"""

    async def start(self) -> None:
        workers, slots = self.shape.workers, self.shape.slots
        options = ["-w", str(workers), "--use-process-pool", "--max-process-pool-processes", "1"]
        own: dict[str, str] = {}
        if slots is not None:
            options += ["--max-async-tasks", str(slots // workers)]
            own["BENCH_QOS"] = str(slots // workers)
        command = module("taskiq", "worker", "benchmarks.peers.taskiq:broker", *options)
        self.spawn("worker", command, "Listening started.", own)
        self.wait_ready()
        await broker.startup()

    async def stop(self) -> None:
        await broker.shutdown()
        await super().stop()

    async def submit(self, job: Job, arguments: Sequence[Any]) -> Sequence[Any]:
        task = TASKS[job]
        return [asyncio.ensure_future(task.kiq(argument)) for argument in arguments]

    async def collect(self, submitted: Sequence[Any]) -> Sequence[Any]:
        async def one(number: int) -> Any:
            return await _result(await submitted[number])

        return await at_a_time(one, len(submitted), IN_PARALLEL)

    async def call(self, job: Job, argument: Any) -> Any:
        return await _result(await TASKS[job].kiq(argument))

    async def workflows(self, number: int, steps: int, at_once: int) -> Sequence[int]:
        async def one(first: int) -> int:
            pipe = pipelines.Pipeline(broker, step)
            for _ in range(steps - 1):
                pipe = pipe.call_next(step)
            end: int = await _result(await pipe.kiq(first))
            return end

        return await at_a_time(one, number, at_once)


async def _result(task: Any) -> Any:
    result = await task.wait_result(check_interval=POLL_EVERY, timeout=120)
    result.raise_for_error()
    return result.return_value
