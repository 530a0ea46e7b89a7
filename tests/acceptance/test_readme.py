"""Runs the commands and scripts of the README."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SPANLOOM = Path(sysconfig.get_path("scripts")) / "spanloom"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new user's folder, with the workflow of the README and a text."""
    found = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert found is not None
    (tmp_path / "review.json").write_text(found[1])
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "cost.md").write_text("# Cost\n\nCost is kept exact: money is an integer of nano-dollars.\n")
    return tmp_path


def spanloom(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in the folder."""
    command = [str(SPANLOOM), *arguments]
    return subprocess.run(
        command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False
    )


def test_the_workflow_of_the_readme_is_valid_and_runs(folder: Path) -> None:
    validated = spanloom(folder, "validate", "review.json")
    assert validated.returncode == 0, validated.stdout + validated.stderr
    ran = spanloom(folder, "run", "review.json", "-m", "spans", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["status"] == "completed"


def test_the_script_of_the_readme_runs_a_graph_in_twenty_lines(folder: Path) -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    assert len([line for line in found[1].splitlines() if line.strip()]) <= 20
    done = subprocess.run(
        [sys.executable, "-c", found[1]], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("completed ")


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 200
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_the_commands_of_the_readme_work_on_a_folder_of_ones_own(folder: Path) -> None:
    asked = '{"message": "How is cost kept exact?"}'
    answered = spanloom(folder, "run", "document_qa", "--param", "path=./docs", "--input", asked)
    assert (answered.returncode, "integer of nano-dollars" in answered.stdout) == (0, True), answered.stderr
    for command in (["trace", "last"], ["cost"], ["executions"], ["doctor"]):
        assert spanloom(folder, *command).returncode == 0, command


def test_every_variable_the_readme_names_is_a_setting() -> None:
    known = (ROOT / ".env.example").read_text()
    for name in set(re.findall(r"\bSPANLOOM_[A-Z_]+", README)):
        assert f"{name}=" in known, name
