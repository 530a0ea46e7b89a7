"""Prometheus and promtool: Debian's package, unpacked into the cache. No root, no service."""

import json
import os
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from tests.services.cache import ServiceMissing, cached_folder, filling, run, say, tool
from tests.services.process import answers, free_port, running

OLDEST = (2, 42)
"""The oldest supported version; Debian decides which version is installed."""

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
JsonDocument: TypeAlias = Mapping[str, Json]


class Sample(TypedDict):
    """One series of an instant query: labels, and time and value (a text, for exactness)."""

    metric: dict[str, str]
    value: tuple[float, str]


class Exemplar(TypedDict):
    """One exemplar of a series."""

    labels: dict[str, str]
    value: str
    timestamp: float


class ExemplarSeries(TypedDict):
    """The exemplars of one series."""

    seriesLabels: dict[str, str]
    exemplars: list[Exemplar]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def query(self, promql: str) -> list[Sample]:
        """The series that an expression gives now. Raises `HTTPError` for one that cannot be parsed."""
        answer = _get(f"{self.url}/api/v1/query", query=promql)
        samples: list[Sample] = answer["data"]["result"]
        return samples

    def value(self, promql: str) -> float | None:
        """The one value that an expression gives now; null if there is none."""
        samples = self.query(promql)
        assert len(samples) <= 1, f"{promql} gives {len(samples)} series"
        return float(samples[0]["value"][1]) if samples else None

    def has_scraped(self) -> bool:
        """Whether every target was asked once. The first is, seconds after the start."""
        targets = _get(f"{self.url}/api/v1/targets")["data"]["activeTargets"]
        return bool(targets) and all(target["health"] != "unknown" for target in targets)

    def exemplars(self, selector: str, *, start: float, end: float) -> list[ExemplarSeries]:
        """The exemplars of the series that a selector names, between two times in seconds since the epoch."""
        answer = _get(f"{self.url}/api/v1/query_exemplars", query=selector, start=str(start), end=str(end))
        series: list[ExemplarSeries] = answer["data"]
        return series


@dataclass(frozen=True, slots=True)
class Promtool:
    """Checks rules and configurations, and runs the unit tests of rules."""

    program: Path

    def __call__(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run it; the exit code is 0 on success."""
        return subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)


def fetch() -> Path:
    """Unpack the package into the cache (10 seconds, needs Debian or a derivative). Returns its folder."""
    target = _folder()
    if target.exists():
        return target
    apt = tool("apt-get", needed_for="prometheus", package="prometheus")
    dpkg = tool("dpkg", needed_for="prometheus", package="dpkg")
    say("fetching prometheus")
    with filling(target) as folder:
        _download(apt, folder)
        for package in folder.glob("*.deb"):
            run([dpkg, "-x", package.name, "."], cwd=folder)
            package.unlink()
        _check(folder / "usr" / "bin" / "prometheus")
    return target


def program(name: str) -> Path:
    """The path of `prometheus` or `promtool`. Raises `ServiceMissing`."""
    path = _folder() / "usr" / "bin" / name
    if not path.exists():
        raise ServiceMissing(f"{name} is not in the cache: ./dev services prometheus")
    return path


def promtool() -> Promtool:
    """The unpacked promtool. Raises `ServiceMissing`."""
    return Promtool(program("promtool"))


@contextmanager
def serve(folder: Path, config: JsonDocument) -> Iterator[Prometheus]:
    """A Prometheus on a free port with this configuration, as in prometheus.yml. Raises `ServiceMissing`.

    When it comes, it has asked its targets once.
    """
    address = f"127.0.0.1:{free_port()}"
    file = _written(folder / "prometheus.json", config)
    command = [
        str(program("prometheus")),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
    ]
    prometheus = Prometheus(f"http://{address}")

    def is_ready() -> bool:
        return answers(f"{prometheus.url}/-/ready") and ("scrape_configs" not in config or prometheus.has_scraped())

    with running(command, log=folder / "prometheus.log", ready=is_ready):
        yield prometheus


def _download(apt: str, folder: Path) -> None:
    """Lists of packages may be missing in a fresh container; only root can get them."""
    command = [apt, "--quiet", "-o", "APT::Sandbox::User=root", "download", "prometheus"]
    try:
        run(command, cwd=folder)
    except ServiceMissing:
        if os.geteuid() != 0:
            raise
        run([apt, "--quiet", "update"], cwd=folder)
        run(command, cwd=folder)


def _check(path: Path) -> None:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\d+)\.(\d+)", done.stdout + done.stderr)
    if match is None or (int(match[1]), int(match[2])) < OLDEST:
        found = match[0] if match else f"exit code {done.returncode}"
        raise ServiceMissing(f"{path.name} is to be {OLDEST[0]}.{OLDEST[1]} or newer, there is {found}")


def _written(file: Path, config: JsonDocument) -> Path:
    """JSON is YAML."""
    file.write_text(json.dumps(config))
    return file


def _get(url: str, **query: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _folder() -> Path:
    return cached_folder("prometheus", f"{OLDEST[0]}.{OLDEST[1]}", [])
