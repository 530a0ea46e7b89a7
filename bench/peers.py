"""Installs and runs the trace stores that P6 compares with ours, each in its own virtual environment.

They are not in the lock. Their versions are pinned; each version has its own folder in the cache.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.harness import environment
from tests.services.process import answers, free_port, running

_INSTALL_SECONDS = 600
_READY_SECONDS = 600
_QUIET = {"PHOENIX_TELEMETRY_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


class PeerMissing(Exception):
    """A peer could not be installed; the message holds the installer's output."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A trace store. Its command and settings may use `{port}`, `{other_port}` and `{folder}`."""

    name: str
    package: str
    version: str
    arguments: tuple[str, ...]
    settings: Mapping[str, str]
    health: str
    headers: Mapping[str, str]
    database: str

    @property
    def environment(self) -> Path:
        """The folder of its virtual environment."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(home) / "spanloom" / "bench" / f"{self.name}-{self.version}"

    def install(self) -> None:
        """Install it if it is missing. Raises `PeerMissing`."""
        done = self.environment / "installed"
        if done.exists():
            return
        shutil.rmtree(self.environment, ignore_errors=True)
        uv = str(Path(sys.executable).with_name("uv"))
        python = self.environment / "bin" / "python"
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(self.environment)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), f"{self.package}=={self.version}"])
        done.touch()

    @contextmanager
    def serve(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Run its server over a new database in the folder; yields its loopback URL and process id."""
        names = {"port": free_port(), "other_port": free_port(), "folder": folder}
        url = f"http://127.0.0.1:{names['port']}"
        with running(
            [str(self.environment / "bin" / "python"), *(each.format(**names) for each in self.arguments)],
            log=folder / "log",
            ready=lambda: answers(url + self.health),
            environment=environment()
            | _QUIET
            | {key: value.format(**names) for key, value in self.settings.items()}
            | {"PATH": f"{self.environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
            ready_seconds=_READY_SECONDS,
        ) as process:
            yield url, process.pid

    def stored(self, folder: Path) -> int:
        """Count the committed spans with a separate connection to its database."""
        with closing(sqlite3.connect(f"file:{folder / self.database}?mode=ro", uri=True, timeout=30)) as connection:
            return int(connection.execute("SELECT count(*) FROM spans").fetchone()[0])


PHOENIX = Peer(
    name="phoenix",
    package="arize-phoenix",
    version="20.26.1",
    arguments=("-m", "phoenix.server.main", "serve"),
    settings={
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": "{port}",
        "PHOENIX_GRPC_PORT": "{other_port}",
        "PHOENIX_WORKING_DIR": "{folder}",
    },
    health="/healthz",
    headers={},
    database="phoenix.db",
)
MLFLOW = Peer(
    name="mlflow",
    package="mlflow",
    version="3.17.2",
    arguments=(
        *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"),
        *("--backend-store-uri", "sqlite:///{folder}/mlflow.db", "--artifacts-destination", "{folder}/artifacts"),
    ),
    settings={},
    health="/health",
    headers={"x-mlflow-experiment-id": "0"},
    database="mlflow.db",
)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise PeerMissing(f"the installer took more than {_INSTALL_SECONDS} s") from error
    if done.returncode:
        raise PeerMissing(" ".join(done.stderr.split())[-500:])
