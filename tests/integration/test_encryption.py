"""Where everything is encrypted, what is kept and told says nothing of arguments and results."""

from pathlib import Path

import pytest

import leveret
from leveret import define
from leveret.keys import new_key
from leveret.settings import settings

SECRET = "what nobody but the two of us shall know"


@define.task
def repeat(text: str) -> str:
    return text * 2


@define.task
def refuse(text: str) -> str:
    raise ValueError(text)


@define.workflow
async def both(text: str) -> str:
    try:
        await refuse(text)
    except ValueError as error:
        doubled = await repeat(str(error))
        await leveret.step(str.upper, doubled)
        return doubled
    return ""


def kept(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())


@pytest.mark.parametrize("encrypts", ["1", "0"])
async def test_a_catalog_holds_no_secret_if_payloads_are_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypts: str
) -> None:
    monkeypatch.setenv("LEVERET_ENCRYPT", encrypts)
    monkeypatch.setenv("LEVERET_KEY", new_key())
    settings.cache_clear()
    try:
        async with leveret.local(project="p", state=tmp_path) as client:
            assert await both(SECRET) == SECRET * 2
            with pytest.raises(ValueError, match=SECRET):
                await refuse(SECRET)
            rows = await client.runs(definition="refuse", roots_only=True)
            assert (SECRET in str(rows)) == (encrypts == "0")
            assert rows[0].failure is not None
            assert rows[0].failure.type == "ValueError"
    finally:
        settings.cache_clear()
    assert (SECRET.encode() in kept(tmp_path)) == (encrypts == "0")
