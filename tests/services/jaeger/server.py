"""A real Jaeger 2.13, which receives OTLP, keeps traces in memory and has a query API. Built from source with Go.

Built this way it has no web pages but a placeholder: the module of Jaeger holds none. A release of Jaeger that is
installed on this machine has them, and so does a folder of pages in the cache; `./dev up` uses either.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.cache import ServiceMissing, cached_folder, filling, run, say, tool
from tests.services.process import answers, free_port, running

VERSION = "1.76.0"  # the module version of Jaeger 2.13
ENVIRONMENT = {"OTEL_TRACES_SAMPLER": "always_off"}
"""Without it Jaeger traces itself, into the Collector of this machine if there is one."""
FIRST_RELEASE = "2.13"
_HERE = Path(__file__).parent
_MANIFEST = [_HERE / "go.mod", _HERE / "go.sum"]


@dataclass(frozen=True, slots=True)
class Jaeger:
    """A running Jaeger."""

    otlp_http: str
    """The value for OTEL_EXPORTER_OTLP_ENDPOINT."""
    query_url: str
    """Answers `/api/services`, `/api/traces/{trace_id}`, `/api/v3`."""


def fetch() -> Path:
    """Build Jaeger into the cache (5 minutes, needs Go 1.24). Returns its folder."""
    target = _folder()
    if target.exists():
        return target
    go = tool("go", needed_for="jaeger", package="golang-go")
    say(f"building jaeger {VERSION}, this takes about 5 minutes")
    with filling(target) as folder:
        for file in _MANIFEST:
            (folder / file.name).write_bytes(file.read_bytes())
        build = [go, "build", "-o", "jaeger", "github.com/jaegertracing/jaeger/cmd/jaeger"]
        run(build, cwd=folder, environment={"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -trimpath -mod=readonly"})
    return target


def release() -> str | None:
    """The path of a released `jaeger` on this machine, which has the web pages; null if it is missing or too old."""
    path = shutil.which("jaeger")
    if path is None:
        return None
    shown = subprocess.run([path, "version"], capture_output=True, text=True, check=False, timeout=20)
    found = re.search(r'"gitVersion":"v(\d+)\.(\d+)', shown.stdout)
    wanted = tuple(map(int, FIRST_RELEASE.split(".")))
    return path if found and (int(found[1]), int(found[2])) >= wanted else None


def pages() -> Path | None:
    """The folder of Jaeger's web pages in the cache; null if nobody has put them there."""
    folder = pages_folder()
    return folder if (folder / "index.html").exists() else None


def pages_folder() -> Path:
    """The place in the cache for Jaeger's web pages."""
    return _folder().parent.with_name("jaeger-ui")


@contextmanager
def serve() -> Iterator[Jaeger]:
    """A Jaeger on free ports until the block ends. Raises `ServiceMissing` when it was not built."""
    program = _folder() / "jaeger"
    if not program.exists():
        raise ServiceMissing("jaeger is not in the cache: ./dev services jaeger")
    otlp, query, query_grpc = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="spanloom-jaeger-") as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(_config(otlp=otlp, query=query, query_grpc=query_grpc)))
        jaeger = Jaeger(otlp_http=f"http://127.0.0.1:{otlp}", query_url=f"http://127.0.0.1:{query}")
        with running(
            [str(program), "--config", str(config)],
            log=Path(folder) / "log",
            environment={**os.environ, **ENVIRONMENT},
            ready=lambda: answers(f"{jaeger.query_url}/api/services"),
            stop_seconds=1,  # it would take ten, and has nothing to save
        ):
            yield jaeger


def _config(*, otlp: int, query: int, query_grpc: int) -> dict[str, object]:
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 100_000}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": f"127.0.0.1:{query}"},
                "grpc": {"endpoint": f"127.0.0.1:{query_grpc}"},
            },
        },
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{otlp}"}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }


def _folder() -> Path:
    return cached_folder("jaeger", VERSION, _MANIFEST)
