"""`python -m leveret_coordinator` as a process, on a real RabbitMQ."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from leveret_broker import codec
from leveret_broker.messages import Accepted, Invocations, Registered
from leveret_broker.rabbitmq import RabbitTransport
from tests.coordinator import build, peers

RUN = build.run_id(1)
FLOW = build.register(build.spec("flow"), session="s")


@asynccontextmanager
async def _coordinator(url: str, catalog: Path) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "leveret_coordinator",
        f"--url={url}",
        f"--catalog={catalog}",
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.rabbitmq
async def test_a_killed_coordinator_is_followed_by_one_that_finishes_its_runs(
    rabbit_vhost_url: str, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    transport = RabbitTransport(rabbit_vhost_url, name="test")
    await transport.open()
    try:
        caller = await peers.Caller(transport).open()
        async with _coordinator(rabbit_vhost_url, catalog) as process:
            assert isinstance(await caller.ask(FLOW), Registered)
            await caller.consume("p:flow:1")
            await caller.request(build.submit(build.submission(RUN, acknowledge=True)))
            await caller.until(lambda: any(isinstance(r, Accepted) for r in caller.replies))
            process.kill()
            await process.wait()
        await caller.until(lambda: bool(caller.deliveries["p:flow:1"]))
        await caller.tell(build.outcomes(build.outcome(RUN)))
        async with _coordinator(rabbit_vhost_url, catalog) as process:
            await caller.until_finished(RUN)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        [end, *_] = caller.finished()[RUN]
        assert (end.state, end.result) == ("succeeded", b"result")
        delivery = caller.deliveries["p:flow:1"][0]
        assert delivery.correlation_id == RUN
        assert codec.decode(delivery.body, Invocations).runs[0].run == RUN
    finally:
        await transport.close()


@pytest.mark.rabbitmq
async def test_a_catalog_in_use_ends_the_second_coordinator_with_a_plain_sentence(
    rabbit_vhost_url: str, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    transport = RabbitTransport(rabbit_vhost_url, name="test")
    await transport.open()
    try:
        caller = await peers.Caller(transport).open()
        async with _coordinator(rabbit_vhost_url, catalog) as first:
            assert isinstance(await caller.ask(FLOW), Registered)
            async with _coordinator(rabbit_vhost_url, catalog) as second:
                _, printed = await second.communicate()
                assert second.returncode == 2
            assert (
                f"in use by another coordinator (process {first.pid} on host " in printed.decode()
            )
            assert "Traceback" not in printed.decode()
    finally:
        await transport.close()
