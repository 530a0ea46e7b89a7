"""`./dev up`, `./dev down`: the whole stack on this machine, in containers or as processes of ours.

Where a container engine answers, compose runs everything but the service itself; else the programs of the cache do, and
there is no Grafana. State and logs lie in .dev/.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.alertmanager import server as alertmanager_service
from tests.services.cache import ServiceMissing, run
from tests.services.collector import server as collector_service
from tests.services.detached import Processes, is_taken, wait_for
from tests.services.jaeger import server as jaeger_service
from tests.services.process import SPANLOOM, ServiceBroken, answers
from tests.services.prometheus import server as prometheus_service

ROOT = Path(__file__).parents[2]
STATE = ROOT / ".dev"
DASHBOARDS = ROOT / "dashboards"
READY_SECONDS = 60
STOP_SECONDS = 30
"""Longer than the 20 s that the service needs to drain."""

NO_PAGES = (
    "Jaeger answers its API and shows a placeholder as its page: it was built without one. For the real pages put the"
    f" program of a Jaeger release, {jaeger_service.FIRST_RELEASE} or newer, on your PATH as `jaeger`"
    f" (https://www.jaegertracing.io/download/), or a built jaeger-ui into {jaeger_service.pages_folder()}"
)

_POSTGRES_URL = "postgresql://spanloom@127.0.0.1:5432/spanloom"


class StackBroken(Exception):
    """The stack did not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """One program of the stack."""

    name: str
    ports: tuple[int, ...]
    ready: str
    """The URL that responds with 200 when the program is ready; empty if compose checks it."""
    shown: str
    """Its address, shown to the user."""
    command: Sequence[str] = ()
    """The command that starts it without containers; empty if it only runs in a container."""
    environment: Mapping[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """`up` or `down`. Returns the exit code: 0, 1 if the stack does not come up, 2 for another word."""
    try:
        match arguments:
            case ["up"]:
                up(STATE)
            case ["down"]:
                down(STATE)
            case _:
                say("usage: ./dev up or ./dev down")
                return 2
    except (ServiceBroken, ServiceMissing, StackBroken) as problem:
        say(str(problem))
        return 1
    return 0


def up(state: Path) -> None:
    """Start everything, with data and logs in a folder of its own, and print the addresses.

    Raises `StackBroken`, `ServiceBroken` or `ServiceMissing`; nothing is left running then.
    """
    processes = Processes(state)
    if running := processes.running():
        raise StackBroken(f"already up: {', '.join(running)}. ./dev down ends it")
    compose, tokens = container_engine(), _tokens(state)
    parts = _contained() if compose else _cached(state, tokens)
    service = _service(
        _POSTGRES_URL if compose else f"sqlite:///{state / 'spanloom.db'}", tokens, _secret(state, "secret-key")
    )
    check_ports([*parts, service])
    try:
        if compose:
            _compose(compose, tokens, "up", "--detach", "--wait")
        for part in parts:
            _start(part, processes)
        run([*SPANLOOM, "migrate"], cwd=ROOT, environment=service.environment)
        _start(service, processes)
    except (ServiceBroken, ServiceMissing):
        down(state)
        raise
    for part in [service, *parts]:
        print(f"{part.name:<14}{part.shown}")
    if compose is None and not (jaeger_service.release() or jaeger_service.pages()):
        say(NO_PAGES)
    if compose is None:
        say("no Grafana: no container engine answers (docker or podman, with compose)")
    say(f"database {service.environment['SPANLOOM_DATABASE_URL']}, logs in {processes.logs}; stop with ./dev down")


def down(state: Path) -> None:
    """Stop what `up` started, last first. Data and logs stay."""
    processes = Processes(state)
    stopped = processes.stop(seconds=STOP_SECONDS)
    if compose := container_engine():
        tokens = _tokens(state)
        processes.logs.mkdir(parents=True, exist_ok=True)
        with (processes.logs / "compose.log").open("ab") as log:
            _compose(compose, tokens, "logs", "--no-color", output=log.fileno())
        _compose(compose, tokens, "down")
        stopped.append("containers")
    say(f"stopped {', '.join(stopped)}; logs in {processes.logs}" if stopped else "nothing was up")


def say(text: str) -> None:
    """Print one line for the user at once."""
    print(f"dev: {text}", file=sys.stderr, flush=True)


def _contained() -> list[Part]:
    """The programs that compose starts."""
    grafana = Part("Grafana", (3000,), "http://127.0.0.1:3000/api/health", "http://127.0.0.1:3000")
    postgres = Part("Postgres", (5432,), "", _POSTGRES_URL)
    return [_jaeger([]), _collector([], {}), _alertmanager([]), _prometheus([]), grafana, postgres]


def _cached(state: Path, tokens: Mapping[str, str]) -> list[Part]:
    """The same programs as processes from the cache, downloaded or built if missing. Raises `ServiceMissing`."""
    jaeger = jaeger_service.release() or str(jaeger_service.fetch() / "jaeger")
    collector = collector_service.fetch() / collector_service.NAME
    alertmanager = alertmanager_service.fetch() / "alertmanager"
    prometheus_service.fetch()
    return [
        _jaeger([jaeger, f"--config={DASHBOARDS / 'jaeger.yml'}"]),
        _collector(
            [str(collector), f"--config=file:{collector_service.CONFIG}"],
            {**tokens, "OTELCOL_STATE_DIR": str(state / "collector")},
        ),
        _alertmanager(
            [
                str(alertmanager),
                f"--config.file={DASHBOARDS / 'alertmanager.yml'}",
                f"--storage.path={state / 'alertmanager'}",
                "--web.listen-address=127.0.0.1:9093",
                "--cluster.listen-address=",
            ]
        ),
        _prometheus(
            [
                str(prometheus_service.program("prometheus")),
                f"--config.file={DASHBOARDS / 'prometheus.yml'}",
                f"--storage.tsdb.path={state / 'prometheus'}",
                "--web.listen-address=127.0.0.1:9090",
                "--enable-feature=exemplar-storage",
            ]
        ),
    ]


def _jaeger(command: Sequence[str]) -> Part:
    ready = "http://127.0.0.1:16686/api/services"
    pages = jaeger_service.pages()
    environment = jaeger_service.ENVIRONMENT | {
        "JAEGER_UI_CONFIG": str(DASHBOARDS / "jaeger-ui.json"),
        "JAEGER_UI_ASSETS": str(pages) if pages else "",
    }
    return Part("Jaeger", (14317, 14318, 16685, 16686), ready, "http://127.0.0.1:16686", command, environment)


def _collector(command: Sequence[str], environment: Mapping[str, str]) -> Part:
    shown = "http://127.0.0.1:4318 (OTLP/HTTP), 127.0.0.1:4317 (gRPC), http://127.0.0.1:8889/metrics"
    ports = (4317, 4318, 8888, 8889, 13133)
    return Part("Collector", ports, "http://127.0.0.1:13133/", shown, command, environment)


def _alertmanager(command: Sequence[str]) -> Part:
    return Part("Alertmanager", (9093,), "http://127.0.0.1:9093/-/ready", "http://127.0.0.1:9093", command)


def _prometheus(command: Sequence[str]) -> Part:
    return Part("Prometheus", (9090,), "http://127.0.0.1:9090/-/ready", "http://127.0.0.1:9090", command)


def _service(database_url: str, tokens: Mapping[str, str], secret_key: str) -> Part:
    """The service in the Collector mode."""
    environment = {
        "SPANLOOM_PIPELINE": "collector",
        "SPANLOOM_DATABASE_URL": os.environ.get("SPANLOOM_DATABASE_URL") or database_url,
        "SPANLOOM_SECRET_KEY": os.environ.get("SPANLOOM_SECRET_KEY") or secret_key,
        "SPANLOOM_INGEST_TOKENS": tokens["SPANLOOM_INGEST_TOKEN"],
        "SPANLOOM_TRACE_URL": "http://127.0.0.1:16686/trace/{trace_id}",
        "SPANLOOM_PROMETHEUS_URL": "http://127.0.0.1:9090",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {tokens['OTELCOL_TOKEN']}",
    }
    command, shown = [*SPANLOOM, "serve"], "http://127.0.0.1:8000"
    return Part("spanloom", (8000, 8001), f"{shown}/readyz", shown, command, environment)


def _start(part: Part, processes: Processes) -> None:
    """Start the program, or wait for its container."""

    def is_ready() -> bool:
        return not part.ready or answers(part.ready)

    if part.command:
        processes.start(
            part.name.lower(),
            part.command,
            cwd=ROOT,
            environment=part.environment,
            ready=is_ready,
            seconds=READY_SECONDS,
        )
    elif not wait_for(is_ready, READY_SECONDS):
        raise ServiceBroken(f"{part.name} does not answer at {part.ready}")


def check_ports(parts: Iterable[Part]) -> None:
    taken = [f"{port} ({part.name})" for part in parts for port in part.ports if is_taken(port)]
    if taken:
        raise StackBroken(f"in use: port {', '.join(taken)}. Stop what listens there")


def _tokens(state: Path) -> dict[str, str]:
    """The variables of the Collector with the tokens that it asks for and shows."""
    return {
        "OTELCOL_TOKEN": _secret(state, "otlp-token"),
        "SPANLOOM_INGEST_TOKEN": _secret(state, "ingest-token"),
    }


def _secret(state: Path, name: str) -> str:
    """Return the stored random text, created on first use."""
    file = state / name
    if not file.exists():
        state.mkdir(exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(32))
    return file.read_text()


def container_engine() -> list[str] | None:
    """Return the compose command of a running container engine; null if none runs."""
    for name in ("docker", "podman"):
        if shutil.which(name) and _succeeds(name, "info") and _succeeds(name, "compose", "version"):
            return [name, "compose"]
    return None


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _compose(compose: Sequence[str], tokens: Mapping[str, str], *arguments: str, output: int | None = None) -> None:
    command = [*compose, f"--file={DASHBOARDS / 'compose.yaml'}", *arguments]
    environment = {**os.environ, **tokens}
    done = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        raise ServiceBroken(f"{' '.join(command)} failed with exit code {done.returncode}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
