"""A real Alertmanager, which groups and forwards alerts from Prometheus, and amtool. Built from source with Go.

Debian's package does not do: its binary looks for its templates under /usr/share, where only root can put them.
"""

import json
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.cache import ServiceMissing, cached_folder, filling, run, say, tool
from tests.services.process import answers, free_port, running
from tests.services.prometheus.server import Json

VERSION = "0.27.0"
_PROGRAMS = ("alertmanager", "amtool")


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """A running Alertmanager."""

    url: str

    @property
    def address(self) -> str:
        """Host and port, in the format of Prometheus."""
        return urllib.parse.urlsplit(self.url).netloc


def fetch() -> Path:
    """Build Alertmanager into the cache (1 minute, needs Go 1.21). Returns its folder."""
    target = _folder()
    if target.exists():
        return target
    go = tool("go", needed_for="alertmanager", package="golang-go")
    say(f"building alertmanager {VERSION}, this takes about a minute")
    with filling(target) as folder:
        environment = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -trimpath", "GOBIN": str(folder)}
        modules = [f"github.com/prometheus/alertmanager/cmd/{name}@v{VERSION}" for name in _PROGRAMS]
        run([go, "install", *modules], cwd=folder, environment=environment)
    return target


def check_config(file: Path) -> str:
    """What amtool finds wrong with a configuration; '' if nothing. Raises `ServiceMissing`."""
    done = subprocess.run([program("amtool"), "check-config", file], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def program(name: str = "alertmanager") -> Path:
    """The built Alertmanager, or `amtool`. Raises `ServiceMissing` when there is none."""
    built = _folder() / name
    if not built.exists():
        raise ServiceMissing("alertmanager is not in the cache: ./dev services alertmanager")
    return built


@contextmanager
def serve(folder: Path, config: Mapping[str, Json]) -> Iterator[Alertmanager]:
    """An Alertmanager on a free port with this configuration, as in alertmanager.yml. Raises `ServiceMissing`."""
    address = f"127.0.0.1:{free_port()}"
    file = folder / "alertmanager.json"
    file.write_text(json.dumps(config))  # JSON is YAML
    command = [
        str(program()),
        f"--config.file={file}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",  # alone: no gossip, and no second port
    ]
    with running(command, log=folder / "log", ready=lambda: answers(f"http://{address}/-/ready")):
        yield Alertmanager(f"http://{address}")


def _folder() -> Path:
    return cached_folder("alertmanager", f"{VERSION} {_PROGRAMS}", [])
