"""`leveret admin dead-letters` on a real broker."""

import asyncio
import json
import subprocess
from typing import Any

import msgpack
import pytest

from leveret_broker import topology
from leveret_broker.rabbitmq import RabbitTransport
from leveret_broker.transport import Delivery, Outgoing
from tests.integration.test_cli import leveret

pytestmark = pytest.mark.rabbitmq

OUTCOMES = topology.OUTCOMES.name
ASIDE = [
    ("p:a:0", "malformed: not msgpack: ExtraData", b"\xff\x1b[2J"),
    ("p:a:0", "malformed: not msgpack: StackError", b"\x91" * 900),
    ("p:b:0", "refused: \x1b[2Jnot yours", msgpack.packb({"v": 2, "body": bytes(5000)})),
]


async def _set_aside(url: str) -> None:
    """What services set aside with a reason, and one that the broker did, without."""
    transport = RabbitTransport(url, name="test")
    await transport.open()
    rejected = asyncio.Event()

    def reject(delivery: Delivery) -> None:
        delivery.reject()
        rejected.set()

    try:
        await transport.declare(topology.DEAD, topology.OUTCOMES)
        for queue, reason, body in ASIDE:
            headers = {topology.ORIGIN_HEADER: queue, topology.REASON_HEADER: reason}
            await transport.publish(Outgoing(queue=topology.DEAD.name, body=body, headers=headers))
        await transport.consume(OUTCOMES, reject, prefetch=1)
        await transport.publish(Outgoing(queue=OUTCOMES, body=b"nonsense"))
        async with asyncio.timeout(20):
            await rejected.wait()
            while (status := await transport.inspect(topology.DEAD.name)) is None or (
                status.messages < len(ASIDE) + 1
            ):
                await asyncio.sleep(0.05)
    finally:
        await transport.close()


def _told(url: str, *options: str) -> "subprocess.CompletedProcess[str]":
    done = leveret("admin", "dead-letters", *options, LEVERET_URL=url)
    assert done.returncode == 0, done.stderr
    return done


def test_dead_letters_are_counted_by_queue_and_reason_and_stay(rabbit_vhost_url: str) -> None:
    url = rabbit_vhost_url
    asyncio.run(_set_aside(url))
    told: Any = None
    for _ in range(2):
        told = json.loads(_told(url, "--json").stdout)
        assert told["count"] == 4
        assert [tuple(group.values())[:3] for group in told["groups"]] == [
            ("p:a:0", "malformed: not msgpack", 2),
            ("p:b:0", "refused: \x1b[2Jnot yours", 1),
            (OUTCOMES, "set aside by the broker: rejected", 1),
        ]
    examples: list[str] = [group["example"] for group in told["groups"]]
    text = _told(url).stdout
    assert text.splitlines()[0].split() == ["COUNT", "EXAMPLE", "QUEUE", "REASON"]
    assert text.splitlines()[1].split() == f"2 {examples[0]} p:a:0 malformed: not msgpack".split()
    assert "\x1b" not in text
    shown = json.loads(_told(url, "--show", examples[1], "--json").stdout)
    assert (shown["queue"], shown["bytes"]) == ("p:b:0", len(ASIDE[2][2]))
    assert shown["message"]["v"] == 2
    assert shown["message"]["body"].startswith("5000 bytes: ")
    assert len(shown["message"]["body"]) < 1000
    for example in examples:
        text = _told(url, "--show", example).stdout
        assert "reason" in text
        assert "\x1b" not in text
    missing = leveret("admin", "dead-letters", "--show", "12345678", LEVERET_URL=url)
    assert missing.returncode == 3
    assert "no message 12345678" in missing.stderr


def test_where_there_is_no_coordinator_yet_it_says_so(rabbit_vhost_url: str) -> None:
    done = leveret("admin", "dead-letters", LEVERET_URL=rabbit_vhost_url)
    assert done.returncode == 4
    assert "leveret.dead can't be looked at: " in done.stderr
    assert "Traceback" not in done.stderr
