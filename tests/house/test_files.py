"""Rules for the content of tracked files, and for files that must exist."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.lock import ROOT

# Built from pieces, so that this file does not find itself.
_DOT = r"\."
REGISTRIES = [
    "py" + "pi" + _DOT + "org",
    "python" + "hosted" + _DOT + "org",
    "npm" + "js" + _DOT + "(org|com)",
    "yarn" + "pkg" + _DOT + "com",
    "(proxy|sum|index)" + _DOT + "golang" + _DOT + "org",
    "(deb|security)" + _DOT + "debian" + _DOT + "org",
    "(archive|security|ports)" + _DOT + "ubuntu" + _DOT + "com",
    "(docker|ghcr|quay|gcr)" + _DOT + "io/",
    "cr" + "ates" + _DOT + "io",
]
MACHINE_PATHS = r"(^|[^A-Za-z0-9_./-])/(work|farm|root|home|Users)/[A-Za-z.]"


@pytest.mark.parametrize("registry", REGISTRIES)
def test_no_file_names_the_host_of_a_registry(registry: str) -> None:
    assert _lines_with(registry) == []


def test_no_file_names_a_path_of_a_machine() -> None:
    assert _lines_with(MACHINE_PATHS) == []


def test_nothing_is_left_unfinished() -> None:
    marks = "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"])
    assert [line for line in _lines_with(rf"\b({marks})\b") if line.split(":")[0].endswith((".py", ".sh", "dev"))] == []


def test_no_test_is_empty() -> None:
    empty = _lines_with(r"^\s+(pass|\.\.\.)\s*(#.*)?$")
    assert [line for line in empty if line.startswith("tests/") and line.split(":")[0].endswith(".py")] == []


@pytest.mark.parametrize("text", ["x = '/home" + "/anna/x'", "/root" + "/.cache", "cd /work" + "/main"])
def test_a_machine_path_is_recognised(text: str) -> None:
    assert re.search(MACHINE_PATHS, text)


@pytest.mark.parametrize("text", ["GET /v1/home/page", "engine/work/x", "~/.cache/spanloom", "/usr/lib/postgresql"])
def test_other_text_is_not_taken_for_a_machine_path(text: str) -> None:
    assert not re.search(MACHINE_PATHS, text)


@pytest.mark.parametrize("folder", ["tests", "migrations", "bench", "dashboards"])
def test_a_folder_beside_the_packages_is_not_a_package(folder: str) -> None:
    assert list((ROOT / folder).rglob("__init__.py")) == []


@pytest.mark.parametrize("package", ["engine", "telemetry", "api"])
def test_a_package_says_that_it_is_typed_and_its_init_holds_a_docstring(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    for init in (ROOT / package).rglob("__init__.py"):
        assert re.fullmatch(r'"""[^"]+"""\n', init.read_text()), f"{init.relative_to(ROOT)} holds more than a docstring"


@pytest.mark.parametrize("script", ["dev", ".ci/run"])
def test_a_script_is_executable_and_parses(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    shell = "sh" if path.read_text().startswith("#!/bin/sh") else "bash"
    assert subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False).stderr == ""


def test_dev_shows_its_usage_and_refuses_unknown_commands() -> None:
    known = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout
    for command in ("demo", "serve", "test", "faults", "check", "fix", "lock", "bench", "services"):
        assert f"./dev {command}" in known
    unknown = subprocess.run([ROOT / "dev", "nonsense"], capture_output=True, text=True, check=False)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == known


def _lines_with(pattern: str) -> list[str]:
    """`file:line` of each tracked line that matches."""
    found = re.compile(pattern)
    return [
        f"{file.relative_to(ROOT)}:{number}"
        for file in _tracked()
        for number, line in enumerate(file.read_text(errors="ignore").splitlines(), start=1)
        if found.search(line)
    ]


def _tracked() -> Iterator[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listing.split("\0"):
        file = ROOT / name
        if name and file.is_file():
            yield file
