"""What only a cluster has: bounded workers, keys that must agree, several projects."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

import leveret
from leveret.keys import new_key
from leveret.settings import settings
from tests.cluster import KEYS, Cluster
from tests.integration import behaviours as on
from tests.integration.conftest import PROJECT, key_text

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
async def one_slot(rabbit_vhost_url: str) -> AsyncGenerator[str]:
    async with Cluster(rabbit_vhost_url, on.DEFINITIONS, project=PROJECT, slots=1):
        yield rabbit_vhost_url


async def test_one_slot_is_enough_for_deep_nests_and_wide_fans(one_slot: str) -> None:
    async with leveret.connect(one_slot, project=PROJECT, key=key_text()):
        assert await on.nest(10) == 10
        assert await on.sum_of(list(range(1_000))) == 499_500


async def test_without_a_key_plain_data_travels_and_a_pickle_is_refused_in_the_caller(
    rabbit_vhost_url: str,
) -> None:
    url, definitions = rabbit_vhost_url, on.DEFINITIONS
    async with (
        Cluster(url, definitions, project=PROJECT, keys=None),
        leveret.connect(url, project=PROJECT) as client,
    ):
        assert await on.echo([{"a": (1, 2)}, on.add(1)]) == [{"a": (1, 2)}, 2]
        with pytest.raises(leveret.PayloadError, match="leveret key new"):
            await on.echo(on.Bent)
        assert len(await client.runs(definition="echo")) == 1


async def test_who_has_a_key_refuses_what_somebody_without_one_sends(
    rabbit_vhost_url: str,
) -> None:
    url, definitions = rabbit_vhost_url, [on.add]
    async with Cluster(url, definitions, project=PROJECT), leveret.connect(url, project=PROJECT):
        with pytest.raises(leveret.PayloadError, match=r"arguments of run .* isn't signed"):
            await on.add(1)
    accepting = Cluster(
        url, definitions, project=PROJECT, keys=replace(KEYS, accepts_unsigned=True)
    )
    async with accepting, leveret.connect(url, project=PROJECT):
        assert await on.add(1) == 2


async def test_a_caller_with_a_key_refuses_the_results_of_workers_without_one(
    rabbit_vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = rabbit_vhost_url
    async with Cluster(url, [on.add, on.fail], project=PROJECT, keys=None):
        async with leveret.connect(url, project=PROJECT, key=key_text()):
            with pytest.raises(leveret.PayloadError, match=r"result of run .* isn't signed"):
                await on.add(1)
            with pytest.raises(leveret.RemoteError) as caught:
                await on.fail("as it does")
            assert "isn't signed" in str(caught.value.__notes__)
        monkeypatch.setenv("LEVERET_ACCEPT_UNSIGNED", "1")
        settings.cache_clear()
        try:
            async with leveret.connect(url, project=PROJECT, key=key_text()):
                assert await on.add(1) == 2
        finally:
            settings.cache_clear()


async def test_with_another_key_nothing_is_unpickled(one_slot: str) -> None:
    async with leveret.connect(one_slot, project=PROJECT, key=new_key()):
        with pytest.raises(leveret.PayloadError, match="LEVERET_KEY must be the same"):
            await on.echo(on.Bent)


async def test_projects_live_side_by_side(rabbit_vhost_url: str) -> None:
    url = rabbit_vhost_url
    both = Cluster(url, [on.add], project="one", also=("two",))
    async with both:
        async with leveret.connect(url, project="two", key=key_text()) as client:
            assert await on.add(1) == 2
            assert (await client.resolve("add")).project == "two"
            with pytest.raises(leveret.IdentificationError, match="'two'"):
                await client.resolve("one:add:0")
        async with leveret.connect(url, key=key_text()) as client:
            assert (await client.resolve("one:add:0")).project == "one"
            with pytest.raises(leveret.IdentificationError, match="two:add:0"):
                await client.resolve("add")
            assert {row.definition.project for row in await client.definitions()} == {"one", "two"}
