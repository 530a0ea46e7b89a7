"""Python finds spanloom's own packages, or the user is told which other one it finds."""

import sys
from pathlib import Path

import pytest

import spanloom
from spanloom.packages import COMMAND, ROOT, check_packages, prefer_own_packages


@pytest.fixture
def other_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `engine` of somebody else, first on the path, in a process that has imported none."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("")
    for module in [name for name in sys.modules if name.split(".")[0] == "engine"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "engine"


def test_the_packages_of_this_tree_are_found() -> None:
    check_packages(COMMAND)
    assert all((ROOT / name).is_dir() for name in COMMAND)


def test_another_package_is_named_with_both_paths(other_engine: Path) -> None:
    with pytest.raises(ImportError, match="spanloom needs its own package `engine`") as caught:
        check_packages(["engine"])
    assert str(ROOT / "engine") in str(caught.value)
    assert str(other_engine) in str(caught.value)


def test_a_module_of_the_same_name_is_named_too(other_engine: Path) -> None:
    (other_engine / "__init__.py").unlink()
    other_engine.rmdir()
    other_engine.with_suffix(".py").write_text("")
    with pytest.raises(ImportError, match=r"Python finds \S+/engine\.py first"):
        check_packages(["engine"])


def test_a_folder_without_init_does_not_stand_in_the_way(other_engine: Path) -> None:
    (other_engine / "__init__.py").unlink()
    check_packages(["engine"])


@pytest.mark.usefixtures("other_engine")
def test_the_command_prefers_its_own_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    prefer_own_packages()
    check_packages(COMMAND)


def test_every_public_name_is_importable() -> None:
    assert [name for name in spanloom.__all__ if getattr(spanloom, name, None) is None] == []
    assert sorted(spanloom.__all__) == sorted(spanloom._HOMES) == dir(spanloom)


@pytest.mark.parametrize("name", ["Engine", "tools"])
def test_another_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; public names: AsyncClient, Client, EventType"):
        getattr(spanloom, name)
