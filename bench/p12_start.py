"""P12 measures the first run: the time until a short command answers, the service is ready, and the demo has ended."""

import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.harness import ROOT, ROUNDS, Effort, Goal, Report, Row, environment
from tests.services.process import free_port

SPANLOOM = str(Path(sys.executable).with_name("spanloom"))
WAIT_SECONDS = 60.0
DEMO_SECONDS = 900.0


def measure(effort: Effort) -> Report:
    """Measure wall times in seconds. The demo from a fresh clone runs only with --full, since it builds .venv."""
    rounds = ROUNDS[effort]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _command([SPANLOOM, "run", "universal_chat", "-m", "hi"], folder)
        files = iter(range(10_000))
        steps: dict[str, tuple[Callable[[], float], int]] = {
            "spanloom --help": (partial(_command, [SPANLOOM, "--help"], folder), rounds),
            "spanloom executions": (partial(_command, [SPANLOOM, "executions"], folder), rounds),
            "serve ready, new database": (lambda: _serve(folder / f"{next(files)}.db"), rounds),
            "serve ready, its second start": (lambda: _serve(folder / "0.db"), rounds),
            "demo --once": (partial(_command, [SPANLOOM, "demo", "--once"], folder), min(rounds, 3)),
        }
        if effort == "full":
            steps["./dev demo --once in a fresh clone"] = (lambda: _fresh(folder / "clone"), 1)
        taken = {step: statistics.median(run() for _ in range(times)) for step, (run, times) in steps.items()}
    rows: list[Row] = [{"step": step, "seconds": seconds, "runs": steps[step][1]} for step, seconds in taken.items()]
    goals = [
        Goal("serve ready, s", taken["serve ready, new database"], 3.0),
        Goal("--help, s", taken["spanloom --help"], 0.4),
        Goal("executions, s", taken["spanloom executions"], 0.5),
    ]
    if effort == "full":
        goals.append(Goal("from a clone to the end of the demo, s", taken["./dev demo --once in a fresh clone"], 60.0))
    return Report("P12", "the first run", rows, goals)


def _command(command: list[str], folder: Path) -> float:
    """Return the seconds until the command has succeeded."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, timeout=DEMO_SECONDS)
    return time.perf_counter() - began


def _serve(database: Path) -> float:
    """Return the seconds until the service is ready."""
    port = free_port()
    settings = {"SPANLOOM_DATABASE_URL": f"sqlite:///{database}", "PORT": str(port)}
    began = time.perf_counter()
    process = subprocess.Popen(
        [SPANLOOM, "serve"], cwd=database.parent, env=environment() | settings, stderr=subprocess.DEVNULL
    )
    try:
        while not _is_ready(f"http://127.0.0.1:{port}/readyz"):
            assert process.poll() is None, "the service has ended"
            assert time.perf_counter() - began < WAIT_SECONDS, f"the service was not ready within {WAIT_SECONDS:g} s"
            time.sleep(0.01)
        return time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=WAIT_SECONDS)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _fresh(clone: Path) -> float:
    """Return the seconds for the demo in a new clone without .venv, with the current package cache."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, timeout=WAIT_SECONDS)
    try:
        return _command([str(clone / "dev"), "demo", "--once"], clone)
    finally:
        shutil.rmtree(clone)
