"""The documentation holds: its programs print what it says, and its links lead somewhere.

A comment before a code block says what it is:

    <!-- runs -->             a program; the `text` block after it is what it prints
    <!-- runs: NAME -->       the same, saved under this name for later blocks of the page; a file
                              named `test_…` is run by pytest, whose last line begins as the block
    <!-- file: NAME -->       only saved

A page's programs run embedded, in one folder, in their order.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/guide.md")
IGNORED_FOLDERS = {"node_modules", "site-packages"}

BLOCK = re.compile(
    r"^<!-- (?P<verb>runs|file)(?:: (?P<name>\S+))? -->\n```python\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"^<!-- (?:runs|file)\b", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A marked code block of a page."""

    name: str
    code: str
    output: str | None
    """What it prints; `None` for a block that is only saved."""


def blocks(page: str) -> list[Block]:
    """The marked blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [
        Block(
            name=match["name"] or f"program_{number}.py",
            code=match["code"],
            output=(match["output"] or "") if match["verb"] == "runs" else None,
        )
        for number, match in enumerate(BLOCK.finditer(text), start=1)
    ]
    assert len(found) == len(MARK.findall(text)), f"a mark in {page} has no block below it"
    return found


@pytest.mark.parametrize("page", PAGES)
def test_programs_print_what_the_page_says(page: str, tmp_path: Path) -> None:
    found = blocks(page)
    assert any(block.output is not None for block in found)
    for block in found:
        (tmp_path / block.name).write_text(block.code, encoding="utf-8")
        if block.output is None:
            continue
        printed = run(block.name, tmp_path)
        if block.name.startswith("test_"):
            assert printed.splitlines()[-1].startswith(block.output.strip()), printed
        else:
            assert printed == block.output, f"{block.name} of {page}:\n{block.code}"


def run(name: str, folder: Path) -> str:
    """What a program prints. It runs embedded, with nothing of the environment's settings."""
    is_test = name.startswith("test_")
    command = [sys.executable, *(("-m", "pytest", "-q", "-c", os.devnull) if is_test else ()), name]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LEVERET_", "PYTEST_"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, "PYTHONWARNINGS": "default" if is_test else "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def pages() -> list[Path]:
    """Every Markdown file of the project."""
    return sorted(
        path
        for path in ROOT.rglob("*.md")
        if not any(
            part.startswith(".") or part in IGNORED_FOLDERS for part in path.relative_to(ROOT).parts
        )
    )


def anchor(heading: str) -> str:
    """What GitHub calls a heading in a link."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading."""
    text = CODE.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    broken: list[str] = []
    for match in LINK.finditer(text):
        target, _, wanted = match["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists():
            broken.append(match["target"])
        elif wanted and file.suffix == ".md":
            headings = HEADING.finditer(FENCE.sub("", file.read_text(encoding="utf-8")))
            if wanted not in {anchor(heading["text"]) for heading in headings}:
                broken.append(match["target"])
    return broken


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n\n[a](#one) [b](#two) [c](none.md) [d](page.md#one) [e](https://x.org/none)\n"
        "`[f](none.md)`\n"
    )
    assert broken_links(page) == ["#two", "none.md"]
