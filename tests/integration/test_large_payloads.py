"""Large arguments, results, errors and steps in one process: they go through a folder alone."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import leveret
from leveret import define, workspace
from leveret.client import Client
from leveret.errors import PayloadError
from leveret.settings import settings
from leveret_broker.objects import is_name

SIZE = 200_000
"""Numbers of eight bytes: more than is sent in a message."""


@define.task
def double(array: Any) -> Any:
    return array * 2


@define.task(runs_in="thread")
def double_in_a_thread(array: Any) -> Any:
    return array * 2


@define.task
async def double_on_the_loop(array: Any) -> Any:
    return array * 2


class Overflow(ValueError):
    pass


@define.task
def fail_with(array: Any) -> None:
    raise Overflow("too much", array)


@define.task
def weigh(data: Any, number: int) -> float:
    return float(data[number])


@define.workflow
async def everything(array: Any) -> Any:
    stepped = await leveret.step(lambda: array + 1)
    one, two = await asyncio.gather(double(stepped), double_on_the_loop(stepped))
    return await double_in_a_thread(one + two)


@define.workflow
async def weigh_all(data: Any, count: int) -> list[float]:
    return await asyncio.gather(*[weigh(data=data, number=number) for number in range(count)])


@define.task
def make_array(size: int) -> Any:
    return np.ones(size)


def objects_in(state: Path) -> list[Path]:
    return [path for path in (state / "payloads").rglob("*") if is_name(path.name)]


def largest_row(state: Path) -> int:
    """Bytes of the largest payload that the catalog keeps."""
    with closing(sqlite3.connect(state / "catalog.sqlite")) as catalog:
        found = catalog.execute(
            "SELECT max(length(body)) FROM arguments UNION "
            "SELECT max(length(coalesce(result, error))) FROM results"
        )
        return int(max(row[0] or 0 for row in found))


@pytest.mark.parametrize("task", [double, double_in_a_thread, double_on_the_loop])
async def test_large_arguments_and_results_arrive_wherever_a_task_runs(
    task: Any, tmp_path: Path
) -> None:
    array = np.arange(float(SIZE))
    async with leveret.local(state=tmp_path):
        result = await task(array)

    np.testing.assert_equal(result, array * 2)
    assert result.flags.writeable
    assert largest_row(tmp_path) < 1000
    assert len(objects_in(tmp_path)) == 2


async def test_steps_and_workflows_take_and_give_large_values(tmp_path: Path) -> None:
    array = np.arange(float(SIZE))
    async with leveret.local(state=tmp_path) as client:
        run = await client.start(everything(array))
        result = await run.result()
        again = await client.run(run.id).result()

    np.testing.assert_equal(result, (array + 1) * 8)
    np.testing.assert_equal(again, result)
    assert largest_row(tmp_path) < 1000


async def test_an_exception_may_hold_what_is_large(tmp_path: Path) -> None:
    array = np.arange(float(SIZE))
    async with leveret.local(state=tmp_path):
        with pytest.raises(Overflow, match="too much") as raised:
            await fail_with(array)

    np.testing.assert_equal(raised.value.args[1], array)
    assert largest_row(tmp_path) < 100_000


async def test_an_array_that_goes_to_100_tasks_is_stored_once(tmp_path: Path) -> None:
    array = np.arange(float(SIZE))
    async with leveret.local(state=tmp_path):
        found = await weigh_all(array, 100)

    assert found == list(range(100))
    assert len(objects_in(tmp_path)) == 1


async def test_a_run_by_identifier_takes_large_arguments(tmp_path: Path) -> None:
    array = np.arange(float(SIZE))
    async with leveret.local(state=tmp_path) as client:
        run = await client.start("double", array)
        np.testing.assert_equal(await run.result(), array * 2)

    assert largest_row(tmp_path) < 1000


async def test_one_call_that_is_awaited_twice_is_one_run(tmp_path: Path) -> None:
    call = double(np.arange(float(SIZE)))

    async def wait() -> Any:
        return await call

    async with leveret.local(state=tmp_path) as client:
        one, two = await asyncio.gather(wait(), wait())
        runs = await client.runs()

    np.testing.assert_equal(one, two)
    assert len(runs) == 1


# -- what may be wrong with the store -------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove, "is missing from"),
        (truncate, "is damaged, and not used: 800000 bytes are left of 1600000"),
        (flip, "is damaged, and not used"),
        (swap, "is damaged, and not used"),
    ],
)
async def test_a_result_whose_object_is_damaged_is_an_error_and_nothing_else(
    damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    async with leveret.local(state=tmp_path) as client:
        run = await client.start(make_array(SIZE))
        await run.result()
        (path,) = objects_in(tmp_path)
        damage(path)

        with pytest.raises(
            PayloadError, match=f"the result of run {run.id} can't be read.*{reason}"
        ):
            await client.run(run.id).result()
        assert await make_array(1) == np.ones(1)  # and the runtime goes on


async def test_a_task_whose_arguments_are_gone_fails_with_a_readable_error(tmp_path: Path) -> None:
    array = np.arange(float(SIZE))
    async with leveret.local(state=tmp_path) as client:
        call = double(array)
        sealed = await client.connection.stored("double", call.arguments)
        (path,) = objects_in(tmp_path)
        path.unlink()
        await client.connection.prepare(double)
        client.connection.name(call)
        run = client.connection.submit(call, sealed)

        with pytest.raises(PayloadError, match=r"the arguments of run .* is missing from"):
            await run.result()
        call.close()


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setenv("LEVERET_PAYLOAD_MAX", "1 MiB")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.mark.usefixtures("limited")
async def test_arguments_that_are_too_large_are_refused_where_they_are_given(
    tmp_path: Path,
) -> None:
    async with leveret.local(state=tmp_path) as client:
        with pytest.raises(
            PayloadError,
            match=r"the arguments of weigh can't be sent: too large: 1\.5 MiB, of which 1\.5 MiB "
            r"are the argument 'data', and at most 1 MiB can be sent",
        ):
            await weigh(np.arange(float(SIZE)), number=1)
        assert list(await client.runs()) == []
        with pytest.raises(
            PayloadError, match=r"the result of .*make_array:0 \(a ndarray\) can't be se"
        ):
            await make_array(SIZE)

    assert objects_in(tmp_path) == []


# -- the folder -----------------------------------------------------------------------------------


def temporary() -> set[Path]:
    return set(Path(os.environ["TMPDIR"]).glob("leveret-payloads-*"))


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


async def _half(client: Client) -> Any:
    async with client:
        assert len(temporary()) == 1
        return await double(np.arange(float(SIZE)))


@pytest.mark.usefixtures("own_tmp")
async def test_without_a_state_the_folder_goes_with_the_runtime_and_arrays_stay() -> None:
    result = await _half(leveret.local())

    assert temporary() == set()
    np.testing.assert_equal(result, np.arange(float(SIZE)) * 2)


@pytest.mark.usefixtures("own_tmp")
def test_a_folder_that_a_killed_process_left_is_removed_and_no_other() -> None:
    left, alive = workspace.PayloadFolder(None), workspace.PayloadFolder(None)
    alive.open()
    shutil.copytree(alive.path, left.path)

    new = workspace.PayloadFolder(None)
    new.open()

    assert temporary() == {alive.path, new.path}
    alive.close()
    new.close()
    assert temporary() == set()


async def test_what_no_run_refers_to_is_removed_when_a_state_is_opened_again(
    tmp_path: Path,
) -> None:
    array = np.arange(float(SIZE))
    async with leveret.local(state=tmp_path) as client:
        run = await client.start(double(array))
        await run.result()
        never_sent = double(array + 1)
        await client.connection.sealer.stored(never_sent.arguments)
        never_sent.close()
    before = objects_in(tmp_path)

    async with leveret.local(state=tmp_path) as client:
        np.testing.assert_equal(await client.run(run.id).result(), array * 2)

    assert (len(before), len(objects_in(tmp_path))) == (3, 2)
