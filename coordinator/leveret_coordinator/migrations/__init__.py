"""The catalog's tables, as numbered scripts that each raise the schema's version by one.

A script is one transaction and sets `PRAGMA user_version` to its own number.
"""

from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """One script."""

    number: int
    name: str
    script: str


def load() -> list[Migration]:
    """All scripts, in the order of their numbers."""
    scripts = [file for file in files(__name__).iterdir() if file.name.endswith(".sql")]
    return sorted(
        (
            Migration(
                number=int(file.name.partition("_")[0]),
                name=file.name,
                script=file.read_text(encoding="utf-8"),
            )
            for file in scripts
        ),
        key=lambda migration: migration.number,
    )
