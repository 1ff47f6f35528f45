"""Somebody who calls a cluster from a folder of their own, which no worker looks into."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.acceptance.processes import DEADLINE, Process, Site

Done = subprocess.CompletedProcess[str]


class Lab:
    """A coordinator, a key, and a folder with scripts."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.key = site.run("key", "new").stdout.strip()
        self.home = site.folder / "home"
        self.home.mkdir()
        self.coordinator = site.coordinator()

    def worker(self, *arguments: str, name: str = "worker") -> Process:
        """A worker that accepts code, and has none of its own unless an app is named."""
        return self.site.worker("--accept-code", *arguments, name=name, LEVERET_KEY=self.key)

    def write(self, name: str, text: str) -> Path:
        """A file in the folder."""
        path = self.home / name
        path.write_text(text)
        return path

    def execute(self, command: list[str], **environment: str) -> Done:
        """Any command, with the key."""
        with_key = {"LEVERET_KEY": self.key, **environment}
        return self.site.execute(command, 2 * DEADLINE, **with_key)

    def leveret(self, *command: str) -> Done:
        """`leveret …`, with the key."""
        return self.execute([sys.executable, "-m", "leveret", *command])

    def run(
        self, name: str, text: str, *, arguments: Sequence[str] = (), **environment: str
    ) -> Done:
        """A script in the folder, to its end."""
        path = str(self.write(name, text))
        return self.execute([sys.executable, path, *arguments], **environment)

    def start(self, name: str, text: str) -> Process:
        """A script in the folder, left running."""
        return self.site.start_program(str(self.write(name, text)), LEVERET_KEY=self.key)

    def printed(self, name: str, text: str, *, arguments: Sequence[str] = ()) -> str:
        """What a script prints that succeeds."""
        done = self.run(name, text, arguments=arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout
