"""A real OpenTelemetry Collector with the components of otel-collector.yaml. Built from source with Go."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tests.services.cache import ServiceMissing, cached_folder, filling, run, say, tool
from tests.services.process import answers, free_port, running

VERSION = "0.161.0"
ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "otel-collector.yaml"
MANIFEST = ROOT / "otel-collector-builder.yaml"
INGEST_TOKEN = "token-of-the-tests-for-our-receiver"
OTLP_TOKEN = "token-of-the-tests-for-the-collector"
SECRETS = {"SPANLOOM_INGEST_TOKEN": INGEST_TOKEN, "OTELCOL_TOKEN": OTLP_TOKEN}
"""What the shipped file takes from the environment and has no default for."""

_BUILDER = f"go.opentelemetry.io/collector/cmd/builder@v{VERSION}"
_BUILD = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -trimpath"}
NAME = "spanloom-otelcol"

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


@dataclass(slots=True)
class Collector:
    """A Collector with the shipped configuration on ports of its own; it can be killed and started again."""

    program: Path
    configs: Sequence[Path]
    folder: Path
    environment: Mapping[str, str]
    otlp_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    own_metrics_port: int = field(default_factory=free_port)
    health_port: int = field(default_factory=free_port)
    _starts: int = 0
    _running: ExitStack = field(default_factory=ExitStack)
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def otlp_http(self) -> str:
        """The address of OTLP/HTTP; senders show `OTLP_TOKEN`."""
        return f"http://127.0.0.1:{self.otlp_port}"

    @property
    def sender_environment(self) -> Mapping[str, str]:
        """The variables of OpenTelemetry that send a process' signals here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_http,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {OTLP_TOKEN}",
        }

    @property
    def metrics_address(self) -> str:
        """Host and port of the metrics made from spans, in the format of Prometheus."""
        return f"127.0.0.1:{self.metrics_port}"

    @property
    def own_metrics_address(self) -> str:
        """Host and port of the Collector's own metrics."""
        return f"127.0.0.1:{self.own_metrics_port}"

    @property
    def queues(self) -> Path:
        """The folder of the durable queues."""
        return self.folder / "queues"

    def start(self) -> None:
        """Start, or start again over the same queues, and wait until it is healthy."""
        self._starts += 1
        ports = self.folder / "ports.json"
        ports.write_text(json.dumps(self._ports()))
        options = [f"--config=file:{file}" for file in (*self.configs, ports)]
        self._process = self._running.enter_context(
            running(
                [str(self.program), *options],
                log=self.folder / f"log-{self._starts}",
                ready=lambda: answers(f"http://127.0.0.1:{self.health_port}"),
                environment={**os.environ, "OTELCOL_STATE_DIR": str(self.queues), **self.environment},
            )
        )

    def kill(self) -> None:
        """Kill it with SIGKILL as in a crash, without flushing."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.stop()

    def stop(self) -> None:
        """Stop it gracefully."""
        self._running.close()

    def _ports(self) -> Json:
        """The changes to the shipped configuration: ports, and metrics every second instead of every 15 seconds."""
        host = "127.0.0.1"
        return {
            "extensions": {"health_check": {"endpoint": f"{host}:{self.health_port}"}},
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": f"{host}:{self.grpc_port}"},
                        "http": {"endpoint": f"{host}:{self.otlp_port}"},
                    }
                }
            },
            "connectors": {"span_metrics": {"metrics_flush_interval": "1s"}},
            "exporters": {"prometheus": {"endpoint": self.metrics_address}},
            "service": {
                "telemetry": {
                    "metrics": {
                        "readers": [
                            {"pull": {"exporter": {"prometheus": {"host": host, "port": self.own_metrics_port}}}}
                        ]
                    }
                }
            },
        }


def fetch() -> Path:
    """Build the Collector into the cache (6 minutes on two cores, needs Go 1.25). Returns its folder."""
    target = _folder()
    if target.exists():
        return target
    go = tool("go", needed_for="the Collector", package="golang-go")
    say(f"building the Collector {VERSION}, this takes about 6 minutes")
    with filling(target) as folder:
        manifest = folder / MANIFEST.name
        manifest.write_text(MANIFEST.read_text().replace("./build/otelcol", str(folder / "build")))
        run([go, "install", _BUILDER], cwd=folder, environment={**_BUILD, "GOBIN": str(folder)})
        run([str(folder / "builder"), f"--config={manifest}"], cwd=folder, environment=_BUILD)
        (folder / "build" / NAME).rename(folder / NAME)
    return target


def program() -> Path:
    """The built Collector. Raises `ServiceMissing` when there is none."""
    built = _folder() / NAME
    if not built.exists():
        raise ServiceMissing("the Collector is not in the cache: ./dev services collector")
    return built


def validate(*configs: Path, **environment: str) -> str:
    """Validate these configuration files together; returns the Collector's errors or ''. Raises `ServiceMissing`."""
    options = [f"--config=file:{file}" for file in configs]
    environment = {**os.environ, **SECRETS, **environment}
    done = subprocess.run(
        [program(), "validate", *options], env=environment, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stderr or f"exit code {done.returncode}"


@contextmanager
def serve(folder: Path, *, configs: Sequence[Path] = (CONFIG,), **environment: str) -> Iterator[Collector]:
    """A Collector until the block ends; queues and logs lie in `folder`. Raises `ServiceMissing`.

    The environment is that of otel-collector.yaml: `RECORDS_OTLP_ENDPOINT`, `JAEGER_OTLP_ENDPOINT` and so on.
    """
    collector = Collector(program(), configs, folder, {**SECRETS, **environment})
    try:
        collector.start()
        yield collector
    finally:
        collector.stop()


def _folder() -> Path:
    return cached_folder("collector", VERSION, [MANIFEST])
