"""What is no id of a run, or no call, is refused here and not sent."""

from typing import Any, cast

import pytest

import leveret
from leveret import define
from leveret.runs import check_id


@define.task
async def nothing() -> None: ...


@pytest.mark.parametrize("given", ["", "x" * 201, "ä" * 101, 5, None, ["run_1"]])
def test_what_can_not_be_the_id_of_a_run_is_refused(given: object) -> None:
    with pytest.raises(leveret.IdentificationError, match="is not the id of a run"):
        check_id(given)


async def test_a_client_refuses_them_before_it_asks() -> None:
    async with leveret.local() as client:
        for ask in (client.cancel, client.retry, client.resume, client.explain):
            with pytest.raises(leveret.IdentificationError):
                await ask("")
        with pytest.raises(leveret.IdentificationError):
            await client.run("").result()


async def test_what_is_started_is_a_call_or_an_identifier() -> None:
    async with leveret.local() as client:
        for wrong in (nothing, 5):
            with pytest.raises(TypeError, match="is no call: call it, or give an identifier"):
                await client.start(cast(Any, wrong))
