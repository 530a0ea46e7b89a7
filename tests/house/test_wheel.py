"""The wheel holds everything needed at run time: the packages, their data and the migrations, but no tests."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.house.lock import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> set[str]:
    """The names in the wheel."""
    return set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())


def test_the_wheel_holds_every_file_of_the_packages(wheel: set[str]) -> None:
    assert _tracked("spanloom", "engine", "telemetry", "api") - wheel == set()


def test_the_wheel_holds_the_migrations_inside_the_engine(wheel: set[str]) -> None:
    migrations = {f"engine/_{name}" for name in _tracked("migrations")}
    assert migrations - wheel == set()


def test_the_wheel_holds_dashboards_and_rules_inside_telemetry(wheel: set[str]) -> None:
    data = _tracked("dashboards/json", "dashboards/rules", "dashboards/runbook.md")
    assert len(data) >= 10
    assert {f"telemetry/_{name}" for name in data} - wheel == set()


def test_the_wheel_holds_nothing_else_at_the_top(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {"spanloom", "engine", "telemetry", "api", "spanloom-0.1.0.dist-info"}


def test_the_wheel_holds_no_leftovers(wheel: set[str]) -> None:
    assert [name for name in wheel if "__pycache__" in name or name.endswith((".pyc", ".db"))] == []


def test_the_wheel_names_the_command_and_the_licence(built: Path, wheel: set[str]) -> None:
    archive = zipfile.ZipFile(next(built.glob("*.whl")))
    assert "spanloom = spanloom.__main__:main" in archive.read("spanloom-0.1.0.dist-info/entry_points.txt").decode()
    assert "spanloom-0.1.0.dist-info/licenses/LICENSE" in wheel


def test_an_installed_package_finds_its_migrations(built: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(next(built.glob("*.whl"))).extractall(tmp_path)
    ask = "from engine.database.migrations import scripts_folder; print(scripts_folder())"
    found = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=tmp_path.parent,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(tmp_path / "engine" / "_migrations")


def test_the_sdist_holds_what_is_included_and_no_more(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    assert tops <= {name.split("/")[0] for name in _tracked(".")} | {"PKG-INFO"}


def _tracked(*folders: str) -> set[str]:
    listing = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()}
