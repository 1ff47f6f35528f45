"""A stranger with a plain AMQP client and no key, against services in processes of their own.

Whatever is put on whichever queue: no code of it runs, no service stops, what nobody can read is
set aside with its reason, and good traffic goes on meanwhile.
"""

import asyncio
import json
import pickle
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import zstandard
from aio_pika.abc import AbstractChannel

import leveret
from leveret import payload
from leveret.client import Client
from leveret.keys import load_keyring, new_key
from leveret.layout import Flag
from leveret.origin import Origin
from leveret.payload import Context
from leveret_broker import codec, identifiers, messages, topology
from tests.acceptance.apps import target
from tests.acceptance.durable import KEY, PROJECT, TASKS, DurableSite, becomes, reaches
from tests.acceptance.processes import Process
from tests.sdk.forging import laid_out

pytestmark = pytest.mark.rabbitmq

TARGET = "tests.acceptance.apps.target"
KEYS = load_keyring(KEY)
OTHERS = load_keyring(new_key())
NEWEST = 2**62
"""A generation that every worker has heard all about, as it were."""
FUZZED = 2_200
"""Messages a queue, and there are five."""
WORK = f"{PROJECT}:mirror:0"


@pytest.fixture
def site(rabbit_vhost_url: str, tmp_path: Path) -> Iterator[DurableSite]:
    site = DurableSite(rabbit_vhost_url, tmp_path)
    yield site
    site.close()


class Bomb:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self._marker), "w")


def hostile(marker: Path, context: Context) -> dict[str, bytes]:
    """Payloads that look like one for this context, by what is wrong with them."""
    bomb = Bomb(marker)
    encoded = payload.encode_arguments((bomb,), {})

    def sealed(**changes: Any) -> bytes:
        return payload.seal(encoded, keys=KEYS, context=replace(context, **changes))

    whole = sealed()
    flipped = bytearray(whole)
    flipped[-3] ^= 4
    packed = zstandard.ZstdCompressor(level=19).compress(bytes(2**28))
    prelude = Origin.here(pickles=True).packed(())
    return {
        "bare pickle": pickle.dumps(bomb),
        "unsigned plain": laid_out(payload.encode_arguments((1,), {}).body),
        "unsigned pickle": laid_out(encoded.body, flags=Flag.PICKLED, prelude=prelude),
        "undeclared pickle": laid_out(encoded.body),
        "forged signature": laid_out(
            encoded.body, flags=Flag.PICKLED | Flag.SIGNED, prelude=prelude
        ),
        "wrong key": payload.seal(encoded, keys=OTHERS, context=context),
        "other run": sealed(run="run_of_somebody_else"),
        "other project": sealed(project="other"),
        "other definition": sealed(definition="other"),
        "other direction": sealed(direction="error"),
        "truncated": whole[:-7],
        "bit-flipped": bytes(flipped),
        "deeply nested": laid_out(b"\x91" * 100_000),
        "bomb": laid_out(packed, unpacked=2**28),
        "oversized": laid_out(b"\xc6\x7f\xff\xff\xff" + bytes(2**20), b"\0" * 2**22),
        "nothing": b"",
    }


@asynccontextmanager
async def attacker(site: DurableSite) -> AsyncGenerator[AbstractChannel]:
    connection = await aio_pika.connect(site.url)
    async with connection:
        yield await connection.channel()


async def put(channel: AbstractChannel, queue: str, *bodies: bytes) -> None:
    """Straight on a queue."""
    for body in bodies:
        message = aio_pika.Message(body)
        await channel.default_exchange.publish(message, routing_key=queue, mandatory=True)


class Traffic:
    """Good calls, one after the other, from the beginning to the end of a block."""

    def __init__(self) -> None:
        self.done = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Traffic":
        self._task = asyncio.create_task(self._flow())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        if self._task.done():
            self._task.result()
        self._task.cancel()

    async def _flow(self) -> None:
        while True:
            assert await target.mirror_twice({self.done}) == [{self.done}] * 2
            self.done += 1


async def dead(site: DurableSite, *options: str) -> Any:
    """What `leveret admin dead-letters` tells of all that was set aside."""
    command = "admin", "dead-letters", *options, "--json"
    done = await asyncio.to_thread(site.run, *command, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def served(site: DurableSite) -> list[Process]:
    return site.together(("coordinator", "--catalog", "catalog.sqlite"), ("worker", TARGET))


def check_unharmed(processes: Sequence[Process], pids: Sequence[int], marker: Path) -> None:
    assert [process.exit_code for process in processes] == [None] * len(processes)
    assert [process.pid for process in processes] == pids
    assert not marker.exists()


# -- payloads -------------------------------------------------------------------------------------


async def test_hostile_payloads_fail_their_runs_and_execute_nothing(site: DurableSite) -> None:
    marker, processes = site.folder / "marker", await served(site)
    pids = [process.pid for process in processes]
    async with attacker(site) as channel, site.client() as client, Traffic() as traffic:
        context = Context(project=PROJECT, run="", definition="mirror", direction="arguments")
        runs: dict[str, str] = {}
        for name in hostile(marker, context):
            run = runs[name] = identifiers.new_id("run")
            data = hostile(marker, replace(context, run=run))[name]
            submission = messages.Submission(
                run=run,
                target=messages.Target(identifier="mirror"),
                project=PROJECT,
                arguments=data,
            )
            asked = messages.Submit(session="session_nobody", submissions=(submission,))
            await put(channel, topology.REQUESTS.name, codec.encode(asked))
        for name, run in runs.items():
            async with asyncio.timeout(60):
                with pytest.raises(leveret.PayloadError, match="the arguments of run"):
                    await found(client, run, name)
        await becomes(lambda: traffic.done > 3, "good calls are answered")
    check_unharmed(processes, pids, marker)


async def found(client: Client, run: str, name: str) -> Any:
    """The result of a run that somebody else has asked for."""

    async def is_known() -> bool:
        return any(row.id == run for row in await client.runs(limit=1000))

    await becomes(is_known, f"{name} is known")
    return await client.run(run).result()


async def test_hostile_invocations_execute_nothing(site: DurableSite) -> None:
    marker, processes = site.folder / "marker", await served(site)
    pids = [process.pid for process in processes]
    async with attacker(site) as channel, site.client() as client, Traffic() as traffic:
        context = Context(project=PROJECT, run="", definition="mirror", direction="arguments")
        sent: set[str] = set()
        for task in ("mirror", "mirror_in_a_process"):
            record, context = await client.resolve(task), replace(context, definition=task)
            for name in hostile(marker, context):
                run = identifiers.new_id("run")
                sent.add(run)
                invocation = messages.Invocation(
                    run=run,
                    attempt=1,
                    root=run,
                    parent=None,
                    arguments=hostile(marker, replace(context, run=run))[name],
                )
                work = messages.Invocations(
                    project=PROJECT,
                    definition=record.id,
                    runs=(invocation,),
                    generation=NEWEST,  # so that they are executed without a question
                )
                await put(channel, record.queue, codec.encode(work))

        def are_refused() -> bool:
            """Each ended with an error, which the coordinator took for no run's."""
            return all(processes[0].text().count(run) for run in sent)

        await becomes(are_refused, "all of them have failed")
        before = traffic.done
        await becomes(lambda: traffic.done > before + 3, "good calls are answered")
    assert len(sent) > 20
    check_unharmed(processes, pids, marker)


async def test_a_hostile_end_of_a_run_is_an_error_to_its_caller(site: DurableSite) -> None:
    marker, processes = site.folder / "marker", await served(site)
    pids = [process.pid for process in processes]
    async with attacker(site) as channel, site.client() as client, Traffic():
        replies = topology.reply_queue_name(client.connection.session.id)
        context = Context(
            project=PROJECT, run="", definition="wait_for_nothing", direction="result"
        )
        for name in hostile(marker, context):
            run = await client.start(
                target.wait_for_nothing()
            )  # it goes on: only the attacker tells an end
            data = hostile(marker, replace(context, run=run.id))[name]
            end = messages.Finished(run=run.id, state="succeeded", result=data)
            await put(channel, replies, codec.encode(messages.Replies(replies=(end,))))
            async with asyncio.timeout(60):
                with pytest.raises(leveret.PayloadError, match="the result of run"):
                    await run.result()
    check_unharmed(processes, pids, marker)


# -- control --------------------------------------------------------------------------------------


async def test_a_forged_generation_is_ignored(site: DurableSite) -> None:
    """Else the worker would ask about everything that it is given from then on."""
    marker, processes = site.folder / "marker", await served(site)
    pids = [process.pid for process in processes]
    async with attacker(site) as channel, site.client() as client, Traffic() as traffic:
        (worker,) = await client.workers()
        for nonce in (None, "0" * 32):
            forged = messages.Control(generation=NEWEST, nonce=nonce)
            await put(channel, topology.control_queue(worker.id).name, codec.encode(forged))
        _, serving = processes
        ignored = "a generation that was not asked for is ignored"
        await becomes(lambda: serving.text().count(ignored) == 2, "both are ignored")
        before = traffic.done
        await becomes(lambda: traffic.done > before + 3, "good calls are answered")
    assert serving.text().count('"joined"') == 1
    check_unharmed(processes, pids, marker)


FORGED: dict[str, Callable[[str], messages.Control]] = {
    "stop": lambda run: messages.Control(stop=(messages.Stop(run=run, attempt=1),)),
    "stop for ever": lambda run: messages.Control(stop=(messages.Stop(run=run, attempt=2**40),)),
    "refusal": lambda run: messages.Control(
        verdicts=(messages.Verdict(run=run, attempt=1, granted=None),)
    ),
}
"""Orders to end an attempt."""


async def test_a_run_that_a_stranger_stops_is_executed_again_and_ends_once(
    site: DurableSite,
) -> None:
    coordinator, _ = site.together(
        ("coordinator", "--catalog", "catalog.sqlite"), ("worker", TARGET, TASKS)
    )
    async with attacker(site) as channel, site.client() as client:
        (known,) = await client.workers()
        control = topology.control_queue(known.id).name
        runs = {name: await client.start("draw", name) for name in FORGED}
        for run in runs.values():
            await reaches(client, run.id, "running")
        for name, run in runs.items():
            await put(channel, control, codec.encode(FORGED[name](run.id)))
        for run in runs.values():
            await reaches(client, run.id, "running", attempt=2)
        site.let_pass()
        for run in runs.values():
            assert await run.result() == 1, "the second number that was drawn"
            (row,) = await client.show(run.id)
            assert [each.state for each in row.attempts] == ["lost", "succeeded"]
            failure = row.attempts[0].failure
            assert failure is not None
            assert "was told to stop it by a stranger" in failure.message
        ids = {run.id for run in runs.values()}
        assert site.counts("end") == Counter(ids)
        assert site.counts("start") == Counter(dict.fromkeys(ids, 2))
        told = "an attempt was stopped by a control message of somebody else"
        assert told in coordinator.text()

        async def is_idle() -> bool:
            return (await client.workers())[0].busy == 0

        # The coordinator's own orders are nothing to warn of.
        busy = await client.start(target.wait_for_nothing())
        await reaches(client, busy.id, "running")
        await client.cancel(busy.id)
        await becomes(is_idle, "it is stopped")
        assert await target.mirror("fine") == "fine"
        assert (await client.show(busy.id))[0].state == "cancelled"
        assert busy.id not in coordinator.text()


async def test_what_is_no_control_message_and_no_reply_is_set_aside_with_its_reason(
    site: DurableSite,
) -> None:
    marker, processes = site.folder / "marker", await served(site)
    pids = [process.pid for process in processes]
    async with attacker(site) as channel, site.client() as client:
        (worker,) = await client.workers()
        control = topology.control_queue(worker.id).name
        replies = topology.reply_queue_name(client.connection.session.id)
        requests = topology.REQUESTS.name
        strange = codec.encode(messages.Control()), codec.encode(messages.Replies(replies=()))
        await put(channel, control, b"nonsense", *strange)
        await put(channel, replies, b"nonsense", codec.encode(messages.Control()))
        posing = aio_pika.Message(b"nonsense", headers={topology.MARKER_HEADER: "0" * 32})
        await channel.default_exchange.publish(posing, routing_key=requests)

        async def are_set_aside() -> bool:
            return bool((await dead(site))["count"] == 6)

        await becomes(are_set_aside, "all of them are set aside")
        groups = (await dead(site))["groups"]
        reasons = Counter({(each["queue"], each["reason"]): each["count"] for each in groups})
        assert reasons == Counter(
            {
                (control, "malformed: not msgpack"): 1,
                (control, "malformed: type"): 1,
                (control, "unknown: it says nothing that this version knows"): 1,
                (replies, "malformed: not msgpack"): 1,
                (replies, "malformed: type"): 1,
                (requests, "malformed: not msgpack"): 1,
            }
        )
        assert await target.mirror("fine") == "fine"
    check_unharmed(processes, pids, marker)


# -- messages -------------------------------------------------------------------------------------


def originals(marker: Path, worker: str) -> dict[str, list[bytes]]:
    """Messages of each queue, about runs that nobody has, to be damaged."""
    run = "run_00000000000000000000000000"
    context = Context(project=PROJECT, run=run, definition="mirror", direction="arguments")
    bad = list(hostile(marker, context).values())[:11]
    target_ = messages.Target(identifier="nothing")
    asked = [
        messages.Submission(run=run, target=target_, project=PROJECT, arguments=data)
        for data in bad
    ]
    requests: list[messages.Wire] = [
        messages.Hello(session="s", request="1"),
        messages.Resolve(session="s", request="1", identifier="mirror", project=PROJECT),
        messages.Attach(session="s", runs=(run,)),
        messages.ShowRun(session="s", request="1", run=run),
        *(messages.Submit(session="s", submissions=(each,)) for each in asked),
    ]
    outcomes = [
        messages.Outcomes(
            worker=worker,
            outcomes=(
                messages.Outcome(
                    run=run,
                    attempt=1,
                    state="succeeded",
                    result=data,
                    started_at=0,
                    finished_at=1,
                ),
            ),
            claims=(messages.Claim(run=run, attempt=1),),
        )
        for data in bad
    ]
    work = [
        messages.Invocations(
            project=PROJECT,
            definition="task_1",
            runs=(messages.Invocation(run=run, attempt=1, root=run, parent=None, arguments=data),),
        )
        for data in bad
    ]
    control = [
        messages.Control(stop=(messages.Stop(run=run, attempt=1),)),
        messages.Control(verdicts=(messages.Verdict(run=run, attempt=1, granted=None),)),
    ]
    replies = [
        messages.Replies(replies=(messages.Finished(run=run, state="succeeded", result=data),))
        for data in bad
    ]
    kinds: dict[str, Sequence[messages.Wire]] = {
        topology.REQUESTS.name: requests,
        topology.OUTCOMES.name: outcomes,
        WORK: work,
        "control": control,
        "replies": replies,
    }
    return {name: [codec.encode(each) for each in group] for name, group in kinds.items()}


def damaged(body: bytes, chosen: random.Random) -> bytes:
    """A message with something wrong."""
    changed = bytearray(body)
    match chosen.randrange(8):
        case 0:
            del changed[chosen.randrange(len(changed)) :]
        case 1:
            return chosen.randbytes(chosen.randrange(300))
        case 2:
            return b"\x91" * chosen.randrange(1, 5000)
        case 3:
            return b"\xdd\xff\xff\xff\xff" * chosen.randrange(1, 50)
        case 4:
            changed[chosen.randrange(len(changed))] = chosen.randrange(256)
        case 5:
            at = chosen.randrange(len(changed))
            changed[at:at] = chosen.randbytes(8)
        case 6:
            at = chosen.randrange(len(changed))
            changed[at : at + 4] = b"\xff" * 4
        case _:
            changed[chosen.randrange(len(changed))] ^= 1 << chosen.randrange(8)
    return bytes(changed)


@pytest.mark.timeout(300)
async def test_ten_thousand_damaged_messages_stop_nothing(site: DurableSite) -> None:
    marker, processes = site.folder / "marker", await served(site)
    pids = [process.pid for process in processes]
    chosen = random.Random(11)
    async with attacker(site) as channel, site.client() as client, Traffic() as traffic:
        (worker,) = await client.workers()
        names = {
            "control": topology.control_queue(worker.id).name,
            "replies": topology.reply_queue_name(client.connection.session.id),
        }
        queues = originals(marker, worker.id)
        bodies = [
            (names.get(name, name), damaged(chosen.choice(group), chosen))
            for name, group in queues.items()
            for _ in range(FUZZED)
        ]
        chosen.shuffle(bodies)
        for start in range(0, len(bodies), 200):
            some = bodies[start : start + 200]
            await asyncio.gather(*(put(channel, queue, body) for queue, body in some))
        assert len(bodies) >= 10_000

        async def are_read() -> bool:
            waiting = [
                await channel.declare_queue(names.get(name, name), passive=True) for name in queues
            ]
            return not any(each.declaration_result.message_count for each in waiting)

        await becomes(are_read, "all of them are read")
        before = traffic.done
        await becomes(lambda: traffic.done > before + 3, "good calls are answered")
        found = await dead(site)
        letters = await channel.declare_queue(topology.DEAD.name, passive=True)
        assert found["count"] == letters.declaration_result.message_count
        counts: Counter[str] = Counter()
        for group in found["groups"]:
            counts[group["queue"]] += group["count"]
            assert group["reason"].startswith(("malformed: ", "unknown: ", "no such run")), group
        assert counts.total() == found["count"]
        for name in queues:
            assert counts[names.get(name, name)] > FUZZED / 3, counts
        assert len(found["groups"]) < FUZZED / 10, "few reasons, whatever the particulars"
        shown = await dead(site, "--show", found["groups"][0]["example"])
        assert shown["queue"] == found["groups"][0]["queue"]
        assert shown["reason"].startswith(found["groups"][0]["reason"])
        coordinator, worker_ = [process.text() for process in processes]
        assert coordinator.count("message set aside") > FUZZED / 3
        lines = [line for line in worker_.splitlines() if "message set aside" in line]
        assert len(lines) < 20, "not one each"
        assert json.loads(lines[-1])["count"] > FUZZED / 3
    check_unharmed(processes, pids, marker)
