"""A real Alertmanager, which groups and forwards alerts from Prometheus. Built from source with Go.

Debian's package does not do: its binary looks for its templates under /usr/share, where only root can put them.
"""

import json
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.cache import ServiceMissing, cached_folder, filling, run, say, tool
from tests.services.process import answers, free_port, running
from tests.services.prometheus.server import Json

VERSION = "0.27.0"


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
        module = f"github.com/prometheus/alertmanager/cmd/alertmanager@v{VERSION}"
        run([go, "install", module], cwd=folder, environment=environment)
    return target


def program() -> Path:
    """The built Alertmanager. Raises `ServiceMissing` when there is none."""
    built = _folder() / "alertmanager"
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
    return cached_folder("alertmanager", VERSION, [])
