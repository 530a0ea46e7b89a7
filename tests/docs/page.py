"""A page's fenced blocks, run in order in an empty folder with the offline model."""

import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.services.detached import is_taken
from tests.services.process import free_port, running

PATIENCE_SECONDS = 60.0
PAGE_PORTS = (8000, 9000)
"""Ports that pages name; each run replaces them by free ones."""
POSTGRES_URL = "postgresql://spanloom@localhost/spanloom"
"""The database that pages name."""

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^>]+) -->\n)?^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[\w./-]+)\")?\n"
    r"(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, the file that it is saved as, and the comment above it."""

    language: str
    title: str | None
    mark: str
    text: str

    @property
    def why_not_run(self) -> str | None:
        """The reason of a block that is not run."""
        return self.mark.removeprefix("not run: ") if self.mark.startswith("not run: ") else None

    @property
    def is_run(self) -> bool:
        """Whether it holds commands that are to be run."""
        return self.language == "sh" and not self.title and not self.why_not_run

    @property
    def needs_postgres(self) -> bool:
        """Whether its commands are about PostgreSQL."""
        return self.mark == "needs postgres"

    @property
    def port(self) -> int | None:
        """The port that a program listens on which keeps running."""
        found = re.fullmatch(r"keeps running on (\d+)", self.mark)
        return int(found[1]) if found else None

    @property
    def exit_codes(self) -> set[int]:
        """The exit codes that the page promises."""
        found = re.fullmatch(r"exits (\d)(?: or (\d))?", self.mark)
        return {int(code) for code in found.groups() if code} if found else {0}


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    found = []
    for match in _BLOCK.finditer(page.read_text()):
        text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        found.append(Block(match["language"], match["title"], match["mark"] or "", text))
    return found


@dataclass(slots=True)
class PageRun:
    """Runs blocks in one folder, each block in a shell of its own."""

    folder: Path
    postgres_url: str | None = None
    ports: dict[int, int] = field(default_factory=lambda: {port: free_port() for port in PAGE_PORTS})
    output: str = ""

    def run(self, page: Path) -> None:
        """Run every block of the page that is to be run; programs that keep running end with it."""
        with ExitStack() as programs:
            for block in blocks(page):
                if block.title:
                    (self.folder / block.title).write_text(self._here(block.text))
                elif not block.is_run:
                    continue
                elif block.port:
                    programs.enter_context(self._keep_running(block))
                else:
                    self._run(block)

    def _run(self, block: Block) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(block.text)],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        self.output += done.stdout + done.stderr
        assert done.returncode in block.exit_codes, f"{block.text}\n{self.output}"

    @contextmanager
    def _keep_running(self, block: Block) -> Iterator[None]:
        assert block.port is not None
        command = ["bash", "-euc", self._here(block.text)]
        is_ready = partial(is_taken, self.ports[block.port])
        log = self.folder / f"{block.port}.log"
        with running(
            command, log=log, ready=is_ready, environment=self._environment(), stop_seconds=PATIENCE_SECONDS
        ) as process:
            yield
        assert process.returncode != -signal.SIGKILL, "the program did not stop when it was asked to"

    def _here(self, text: str) -> str:
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(free), text)
        return text.replace(POSTGRES_URL, self.postgres_url) if self.postgres_url else text

    def _environment(self) -> dict[str, str]:
        path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(self.folder), "PORT": str(self.ports[8000])}
        return {**os.environ, **own, **({"SPANLOOM_DATABASE_URL": self.postgres_url} if self.postgres_url else {})}
