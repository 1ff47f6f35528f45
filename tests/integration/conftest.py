"""The same program on both runtimes: everything in this process, and a cluster on RabbitMQ."""

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

import leveret
from leveret.client import Client
from tests.cluster import KEY, Cluster
from tests.integration import behaviours

PROJECT = "vision"
DEADLINE = 20.0
"""Seconds after which a condition that was waited for counts as never coming."""


@pytest.fixture(params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
async def client(request: pytest.FixtureRequest) -> AsyncGenerator[Client]:
    if request.param == "embedded":
        async with leveret.local(project=PROJECT, processes=2) as client:
            yield client
        return
    url: str = request.getfixturevalue("rabbit_vhost_url")
    cluster = Cluster(url, behaviours.DEFINITIONS, project=PROJECT, processes=2)
    async with cluster, leveret.connect(url, project=PROJECT, key=key_text()) as client:
        yield client


def key_text() -> str:
    """The cluster's key as `LEVERET_KEY` has it."""
    return urlsafe_b64encode(KEY).decode()


async def until(condition: Callable[[], Any]) -> None:
    """Wait until something holds; fail if it doesn't in good time."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {condition}"
        await asyncio.sleep(0.01)
