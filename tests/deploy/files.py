"""What is in the repository for those who deploy: the manifests, and the compose file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
EXAMPLE = KUBERNETES / "secret.env.example"
COMPOSE = ROOT / "docker-compose.yml"

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod with its one container, as a manifest describes it."""

    service: str
    """The command that it runs: `coordinator` or `worker`."""
    spec: Document
    container: Document

    @property
    def variables(self) -> dict[str, str | None]:
        """Its environment; `None` for what the cluster fills in."""
        return {each["name"]: each.get("value") for each in self.container["env"]}


def manifests(folder: str = "") -> list[Document]:
    """The documents in all manifests of a folder."""
    return [document for path in manifest_files(folder) for document in documents(path)]


def manifest_files(folder: str = "") -> list[Path]:
    return sorted((KUBERNETES / folder).glob("*.yaml"))


def documents(path: Path) -> list[Document]:
    with path.open(encoding="utf-8") as file:
        return list(yaml.safe_load_all(file))


def pods() -> list[Pod]:
    """Those that the manifests make."""
    found: list[Pod] = []
    for document in manifests():
        if "template" in document.get("spec", {}):
            spec = document["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            found.append(Pod(service=container["name"], spec=spec, container=container))
    return found


def secret_references(document: object) -> Iterator[tuple[str, str]]:
    """Name and key of every value that is taken from a Secret."""
    for each in parts(document):
        match each:
            case {"secretKeyRef": {"name": str(name), "key": str(key)}}:
                yield name, key
            case _:
                pass


def parts(value: object) -> Iterator[object]:
    """A value and all that it holds, however deep."""
    yield value
    within: Iterable[object] = ()
    match value:
        case dict():
            within = cast(Document, value).values()
        case list():
            within = cast(list[object], value)
        case _:
            pass
    for each in within:
        yield from parts(each)


def compose() -> Document:
    """The compose file as it is written, with its variables."""
    (document,) = documents(COMPOSE)
    return document
