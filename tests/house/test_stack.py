"""`./dev up` and `./dev down` find and stop the programs that they started, and name the program that failed."""

import json
import os
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

import pytest
import yaml

from engine.tracing import semconv
from tests.conftest import found
from tests.house.lock import ROOT
from tests.services import stack
from tests.services.alertmanager import server as alertmanager_service
from tests.services.alertmanager.server import Alertmanager
from tests.services.collector import server as collector_service
from tests.services.detached import Processes, is_taken, wait_for
from tests.services.jaeger import server as jaeger_service
from tests.services.process import ServiceBroken, answers, free_port, running
from tests.services.prometheus.server import JsonDocument, Promtool

DASHBOARDS = ROOT / "dashboards"


class Service(TypedDict):
    """A part of compose.yaml."""

    image: str
    network_mode: str
    volumes: list[str]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """An empty set of processes; processes started in a test are stopped at its end."""
    made = Processes(tmp_path)
    yield made
    made.stop(seconds=5)


def start(processes: Processes, name: str, script: str, ready: Callable[[], bool] = lambda: True) -> None:
    processes.start(name, ["sh", "-c", script], cwd=ROOT, environment={}, ready=ready, seconds=10)


def test_another_command_finds_and_stops_started_processes(processes: Processes, tmp_path: Path) -> None:
    start(processes, "first", "exec sleep 60")
    start(processes, "second", "sleep 60 & wait")
    later = Processes(tmp_path)
    assert later.running() == ["first", "second"]
    assert later.stop(seconds=5) == ["first", "second"]
    assert (later.running(), later.stop(seconds=5)) == ([], [])


def test_a_process_that_ignores_the_signal_is_killed(processes: Processes) -> None:
    reached = processes.logs / "deaf.log"
    start(
        processes,
        "deaf",
        "trap '' TERM; echo deaf; while :; do sleep 0.1; done",
        ready=lambda: "deaf" in reached.read_text(),
    )
    assert processes.stop(seconds=0.3) == ["deaf"]
    assert processes.running() == []


def test_a_process_that_has_taken_over_a_pid_is_left_alone(processes: Processes, tmp_path: Path) -> None:
    start(processes, "mine", "exec sleep 60")
    file = tmp_path / "processes.json"
    kept = file.read_text()
    [(pid, _)] = json.loads(kept).values()
    file.write_text(json.dumps({"mine": (pid, "Mon Jan  1 00:00:00 2024")}))
    assert (processes.running(), processes.stop(seconds=1)) == ([], [])
    file.write_text(kept)
    assert processes.running() == ["mine"]


def test_a_program_that_dies_is_named_with_the_end_of_its_log(processes: Processes) -> None:
    with pytest.raises(ServiceBroken, match=r"(?s)broken did not come up, exit 3.*no such option"):
        start(processes, "broken", "echo no such option; exit 3", ready=lambda: False)
    assert processes.running() == []


def test_logs_are_kept_over_restarts(processes: Processes) -> None:
    for _ in range(2):
        start(
            processes,
            "told",
            "echo here; exec sleep 60",
            ready=lambda: (processes.logs / "told.log").stat().st_size > 0,
        )
        processes.stop(seconds=5)
    assert (processes.logs / "told.log").read_text() == "here\nhere\n"


def test_a_port_in_use_is_reported_with_its_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert is_taken(port)
        with pytest.raises(stack.StackBroken, match=rf"port {port} \(Grafana\)"):
            stack.check_ports([stack.Part("Grafana", (free_port(), port), "", "")])
    assert not is_taken(port)


@pytest.mark.parametrize(
    ("docker", "podman", "engine"),
    [
        ("exit 0", "exit 0", ["docker", "compose"]),
        ("exit 1", "exit 0", ["podman", "compose"]),
        ('[ "$1" != compose ]', "exit 1", None),
    ],
    ids=["docker", "a docker without its daemon", "a docker without compose"],
)
def test_compose_is_taken_where_an_engine_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker: str, podman: str, engine: list[str] | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    stand_in(tmp_path / "docker", docker)
    stand_in(tmp_path / "podman", podman)
    assert stack.container_engine() == engine


def test_down_keeps_the_logs_of_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    stand_in(tmp_path / "docker", f'echo "$@" >>{tmp_path}/asked; echo said by "$3"')
    stack.down(tmp_path / "state")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[-1] for line in asked] == ["info", "version", "--no-color", "down"]
    assert "said by logs" in (tmp_path / "state" / "logs" / "compose.log").read_text()
    assert "stopped containers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "is_used"), [("v2.13.0", True), ("v2.20.1", True), ("v3.0.0", True), ("v2.9.0", False), ("", False)]
)
def test_a_release_of_jaeger_is_used_for_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, is_used: bool
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = json.dumps({"gitCommit": "1", "gitVersion": version}, separators=(",", ":"))
    stand_in(tmp_path / "jaeger", f"echo '{told}'")
    assert jaeger_service.release() == (str(tmp_path / "jaeger") if is_used else None)


def test_pages_of_jaeger_are_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jaeger_service.pages() is None
    folder = jaeger_service.pages_folder()
    folder.mkdir(parents=True)
    (folder / "index.html").touch()
    assert (folder, jaeger_service.pages()) == (tmp_path / "spanloom" / "jaeger-ui", folder)


@pytest.mark.jaeger
@pytest.mark.usefixtures("jaeger")  # or the test is skipped: nothing is built here
def test_jaeger_takes_its_configuration_and_links_executions_to_the_service(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<base href="/" data-inject-target="BASE_URL"/>\nJAEGER_CONFIG = DEFAULT_CONFIG;\n'
    )
    file, url = _jaeger_on_free_ports(tmp_path)
    environment = {"JAEGER_UI_CONFIG": str(DASHBOARDS / "jaeger-ui.json"), "JAEGER_UI_ASSETS": str(tmp_path)}
    program = jaeger_service.fetch() / "jaeger"
    with running(
        [str(program), f"--config={file}"],
        log=tmp_path / "log",
        ready=lambda: answers(f"{url}/api/services"),
        environment={**os.environ, **jaeger_service.ENVIRONMENT, **environment},
        stop_seconds=1,
    ):
        with urllib.request.urlopen(url, timeout=10) as answer:
            shown = re.search(r"JAEGER_CONFIG = (.*);", answer.read().decode())
    assert shown is not None
    [pattern] = json.loads(shown[1])["linkPatterns"]
    assert (pattern["type"], pattern["key"]) == ("tags", semconv.EXECUTION_ID)
    assert pattern["url"] == "http://127.0.0.1:8000/v1/executions/#{" + semconv.EXECUTION_ID + "}"


def _jaeger_on_free_ports(folder: Path) -> tuple[Path, str]:
    """The shipped configuration with other ports, and the address of its query API."""
    ports: dict[str, int] = {}

    def other(found: re.Match[str]) -> str:
        return f"127.0.0.1:{ports.setdefault(found[1], free_port())}"

    file = folder / "jaeger.yml"
    file.write_text(re.sub(r"127\.0\.0\.1:(\d+)", other, (DASHBOARDS / "jaeger.yml").read_text()))
    return file, f"http://127.0.0.1:{ports['16686']}"


def stand_in(file: Path, script: str) -> None:
    """A program that runs a shell script."""
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_an_unknown_command_is_refused() -> None:
    assert stack.main(["sideways"]) == 2


@pytest.mark.prometheus
def test_prometheus_takes_its_configuration(promtool: Promtool) -> None:
    done = promtool("check", "config", DASHBOARDS / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.alertmanager
def test_alertmanager_takes_its_configuration(start_alertmanager: Callable[[JsonDocument], Alertmanager]) -> None:
    manager = start_alertmanager(document("alertmanager.yml"))
    with urllib.request.urlopen(f"{manager.url}/api/v2/status", timeout=5) as answer:
        assert "team" in json.load(answer)["config"]["original"]


def test_an_image_has_a_short_name_and_a_fixed_version() -> None:
    images = {name: part["image"] for name, part in services().items()}
    assert all(re.fullmatch(r"[a-z-]+(/[a-z-]+)?:v?\d+\.\d+(\.\d+)?", image) for image in images.values()), images
    assert images["collector"].endswith(f":{collector_service.VERSION}")
    assert images["jaeger"].endswith(f":{jaeger_service.FIRST_RELEASE}.0")
    assert images["alertmanager"].endswith(f":v{alertmanager_service.VERSION}")


def test_files_that_containers_mount_exist() -> None:
    mounts = [mount.split(":")[0] for part in services().values() for mount in part["volumes"]]
    files = [DASHBOARDS / mount for mount in mounts if mount.startswith(".")]
    assert len(files) >= 6
    assert [file for file in files if not file.exists()] == []


def test_containers_and_processes_listen_on_the_same_ports() -> None:
    compose = (DASHBOARDS / "compose.yaml").read_text()
    assert {part["network_mode"] for part in services().values()} == {"host"}
    for port in ("127.0.0.1:9090", "127.0.0.1:9093"):
        assert f"--web.listen-address={port}" in compose
    jaeger = (DASHBOARDS / "jaeger.yml").read_text()
    scraped = (DASHBOARDS / "prometheus.yml").read_text()
    shown = (DASHBOARDS / "grafana" / "datasources.yml").read_text()
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", jaeger)) == {"14317", "14318", "16685", "16686"}
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", scraped)) == {"8000", "8888", "8889", "9093"}
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", shown)) == {"9090", "9093", "16686"}


@pytest.mark.slow
@pytest.mark.collector
@pytest.mark.jaeger
@pytest.mark.prometheus
@pytest.mark.alertmanager
@pytest.mark.usefixtures("jaeger", "promtool")  # or the test is skipped: nothing is built here
def test_the_stack_comes_up_runs_a_workflow_and_goes_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found(collector_service.program)
    found(alertmanager_service.program)
    stack.up(tmp_path)
    try:
        assert re.search(r"^spanloom +http://127\.0\.0\.1:8000$", capsys.readouterr().out, re.MULTILINE)
        with pytest.raises(stack.StackBroken, match="already up: jaeger, collector"):
            stack.up(tmp_path)
        execution = post("/v1/executions", {"source": {"kind": "chat"}, "input": {"message": "hello"}})
        assert execution["status"] == "completed"
        assert wait_for(lambda: is_recorded(str(execution["execution_id"])), seconds=20)
    finally:
        stack.down(tmp_path)
    assert "stopped jaeger, collector, alertmanager, prometheus, spanloom" in capsys.readouterr().err
    assert Processes(tmp_path).running() == []
    assert {log.stem for log in (tmp_path / "logs").iterdir()} >= {"spanloom", "collector"}


def post(path: str, body: JsonDocument) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://127.0.0.1:8000{path}", data=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        read: dict[str, object] = json.load(answer)
        return read


def is_recorded(execution_id: str) -> bool:
    """Whether every span has come back through the Collector."""
    with urllib.request.urlopen(f"http://127.0.0.1:8000/v1/executions/{execution_id}/trace", timeout=20) as answer:
        return bool(json.load(answer)["seal"]["complete"])


def document(name: str) -> JsonDocument:
    loaded: JsonDocument = yaml.safe_load((DASHBOARDS / name).read_text())
    return loaded


def services() -> dict[str, Service]:
    """The parts of compose.yaml."""
    loaded: dict[str, Service] = yaml.safe_load((DASHBOARDS / "compose.yaml").read_text())["services"]
    return loaded
