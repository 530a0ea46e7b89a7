"""The lock is of this pyproject.toml, holds hashes and nothing banned, and the environment is the lock's."""

import importlib.metadata
import re
import sysconfig
from pathlib import Path

import pytest

from tests.house import lock

BANNED = ["litellm", "sse-starlette", "opentelemetry-instrumentation-fastapi", "opentelemetry-exporter-prometheus"]
# coverage starts itself in child processes; setuptools comes with the venv of Python 3.11.
KNOWN_PTH = {"_editable_impl_spanloom.pth", "a1_coverage.pth", "distutils-precedence.pth"}


def test_the_lock_was_compiled_from_this_pyproject() -> None:
    assert lock.locked_digest() == lock.inputs_digest()


@pytest.mark.parametrize("name", BANNED)
def test_a_banned_package_is_not_in_the_lock(name: str) -> None:
    assert name not in _locked()


def test_every_locked_package_has_a_hash() -> None:
    blocks = re.split(r"\n(?=[a-z0-9])", lock.LOCK.read_text())
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_environment_has_the_locked_versions() -> None:
    locked = _locked()
    found = importlib.metadata.distributions()
    installed = {_canonical(each.name): each.version.removeprefix("v") for each in found}
    assert {name for name, version in installed.items() if name in locked and version not in locked[name]} == set()


def test_no_unknown_code_runs_when_python_starts() -> None:
    found = {file.name for file in Path(sysconfig.get_path("purelib")).glob("*.pth")}
    assert found - KNOWN_PTH == set()
    assert "_editable_impl_spanloom.pth" in found


def _locked() -> dict[str, set[str]]:
    """Package name to its versions: more than one where markers choose."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", lock.LOCK.read_text(), re.MULTILINE):
        versions.setdefault(_canonical(name), set()).add(version)
    return versions


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
