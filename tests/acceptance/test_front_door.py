"""The installed product beside packages of the same names: the command runs, and the library works or says why not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.lock import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
import asyncio
from spanloom import ExecutionEngine, ExecutionRequest, local_resources

async def main():
    async with local_resources() as resources, ExecutionEngine(resources) as engine:
        source = {"kind": "template", "template": "universal_chat"}
        asked = {"source": source, "input": {"message": "Say hello."}}
        result = await engine.execute(ExecutionRequest.model_validate(asked))
        print(result.status, result.execution_id)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel in it; the packages that it depends on are those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    done_here(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    done_here(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    wheel = next(folder.glob("*.whl"))
    pip = (sys.executable, "-m", "pip", "--python", folder / "env" / "bin" / "python")
    done_here(*pip, "install", "--no-deps", "--no-index", wheel)
    site_packages = next((folder / "env" / "lib").glob("python3*")) / "site-packages"
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env" / "bin"


def done_here(*command: str | Path) -> None:
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A project whose `api`, `engine` and `telemetry` end every process that imports them."""
    for name in ("api", "engine", "telemetry"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('this is the {name} of somebody else')\n")
    return tmp_path


def in_project(project: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": ".", "SPANLOOM_DATABASE_URL": f"sqlite:///{project}/spanloom.db"}


def run_in(project: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=project, env=in_project(project), capture_output=True, text=True, timeout=90, check=False
    )


def test_the_wheel_is_what_runs(environment: Path, tmp_path: Path) -> None:
    shown = run_in(tmp_path, environment / "python", "-c", "import spanloom, engine; print(engine.__file__)")
    assert str(environment.parent) in shown.stdout, shown.stderr


@pytest.mark.parametrize("by_module", [False, True], ids=["command", "module"])
def test_the_command_runs_beside_packages_of_the_same_names(environment: Path, hostile: Path, by_module: bool) -> None:
    command = [environment / "python", "-m", "spanloom"] if by_module else [environment / "spanloom"]
    version = run_in(hostile, *command, "--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.startswith("spanloom ")


def test_the_demo_runs_beside_packages_of_the_same_names(environment: Path, hostile: Path) -> None:
    demo = run_in(hostile, environment / "spanloom", "demo", "--once")
    assert demo.returncode == 0, demo.stderr
    assert "Cost per template:" in demo.stdout


@pytest.fixture
def served(environment: Path, hostile: Path) -> Iterator[str]:
    """A service that was started in the hostile project; its URL."""
    bind = {"SPANLOOM_BIND": "127.0.0.1:0"}
    process = subprocess.Popen(
        [environment / "spanloom", "serve"],
        cwd=hostile,
        env=in_project(hostile) | bind,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = next((line for line in process.stderr if "ready at " in line), "")
        assert line, "it ended before it was ready"
        yield line.partition("ready at ")[2].split('"')[0].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_service_runs_beside_packages_of_the_same_names(served: str) -> None:
    asked = {"source": {"kind": "template", "template": "universal_chat"}, "input": {"message": "hi"}}
    request = urllib.request.Request(
        f"{served}/v1/executions", data=json.dumps(asked).encode(), headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["status"] == "completed"


def test_the_library_runs_beside_an_api_of_the_user(environment: Path, hostile: Path) -> None:
    shutil.rmtree(hostile / "engine")
    shutil.rmtree(hostile / "telemetry")
    done = run_in(hostile, environment / "python", "-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("completed ")


@pytest.mark.parametrize("name", ["engine", "telemetry"])
def test_beside_a_package_of_the_same_name_the_library_says_what_to_do(
    environment: Path, hostile: Path, name: str
) -> None:
    for other in {"engine", "telemetry"} - {name}:
        shutil.rmtree(hostile / other)
    done = run_in(hostile, environment / "python", "-c", SCRIPT)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"ImportError: spanloom needs its own package `{name}` in {environment.parent}")
    assert f"Python finds {hostile / name} first" in last
    assert f"Rename your `{name}`" in last
    assert "spanloom serve" in last
