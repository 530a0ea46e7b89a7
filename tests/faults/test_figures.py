"""A figure that shows less than it says fails its test."""

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.figures import FewerFaultsThanPlanned, Figure, Figures, GoalMissed, Reported, commit_of_tree, table
from tests.house.lock import ROOT


def test_fewer_faults_than_planned_fail() -> None:
    with (
        pytest.raises(FewerFaultsThanPlanned, match="only 2 of 3 kills have hit"),
        Figures([])("F1", kills=3) as figure,
    ):
        figure.hit("kills", 2)


def test_a_bound_that_does_not_hold_fails() -> None:
    with pytest.raises(GoalMissed, match="lost 1"), Figures([])("F1") as figure:
        figure.reach("lost", 1, at_most=0)


@pytest.mark.parametrize("found", [0.9, math.nan])
def test_a_share_below_its_bound_fails(found: float) -> None:
    with pytest.raises(GoalMissed), Figures([])("F1") as figure:
        figure.reach("stored", found, at_least=1)


def test_what_there_must_be_none_of_is_shown() -> None:
    with pytest.raises(GoalMissed, match="1 lost, seed"), Figures([])("F1") as figure:
        figure.none("lost", ["this one"])


def test_the_figure_is_reported_even_if_its_test_breaks() -> None:
    properties: list[tuple[str, object]] = []
    with pytest.raises(ZeroDivisionError), Figures(properties)("F1", kills=3) as figure:
        figure.hit("kills")
        raise ZeroDivisionError
    [(_, document)] = properties
    assert Figure.read(str(document)).hits == {"kills": 1}


def test_the_same_seed_is_the_same_chance_and_other_purposes_are_others() -> None:
    one, other = (Figure("F1", "sqlite", 7, {}) for _ in range(2))
    assert one.chance("load").random() == other.chance("load").random() != other.chance("kills").random()


def test_the_table_has_seed_hits_and_bounds() -> None:
    figure = Figure("F9", "postgres", 7, {"restarts": 5}, Counter(restarts=5), sizes={"executions": 90.0})
    figure.reach("duplicates", 0, at_most=0)
    [line] = table([Reported(figure, "test_x", "passed", 1.25)])
    assert line == "F9 postgres    passed  seed 7  1.2 s  90 executions | hit 5/5 restarts | duplicates 0 (≤ 0)"


def test_a_run_prints_the_table_with_the_commit(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.faults.figures import figures\n")
    (tmp_path / "test_it.py").write_text(
        "def test_it(figures):\n    with figures('F1', kills=1) as figure:\n        figure.hit('kills')\n"
    )
    options = ["-p", "no:cacheprovider", "-p", "tests.conftest", "-n", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"commit {commit_of_tree()}" in done.stdout
    assert "hit 1/1 kills" in done.stdout
