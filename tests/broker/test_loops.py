"""Which loop our threads run on."""

import asyncio
import sys

import pytest
import uvloop

from leveret_broker.lifecycle import IoThread
from leveret_broker.loops import VARIABLE, loop_factory


def loop_of(thread: IoThread) -> asyncio.AbstractEventLoop:
    thread.start()
    try:
        return thread.loop
    finally:
        thread.stop()


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_our_threads_run_on_uvloop_where_it_is_installed() -> None:
    assert isinstance(loop_of(IoThread()), uvloop.Loop)


def test_users_code_runs_on_asyncios_own_loop() -> None:
    assert not isinstance(loop_of(IoThread(for_user_code=True)), uvloop.Loop)


@pytest.mark.parametrize("word", ["0", "false", "No", "OFF"])
def test_uvloop_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv(VARIABLE, word)
    assert loop_factory() is None
    assert not isinstance(loop_of(IoThread()), uvloop.Loop)


def test_without_uvloop_the_loop_is_asyncios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert not isinstance(loop_of(IoThread()), uvloop.Loop)
