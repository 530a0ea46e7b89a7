"""Each benchmark runs in its smallest form, and a variant that does less is found out. Figures are not tested."""

import json
import os
import subprocess
import sys

import pytest

from bench.__main__ import GROUPS
from bench.harness import Goal, Measured, Sample, Work, check_equal, environment
from tests.house.lock import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_a_group_runs_and_says_what_it_found(group: str) -> None:
    settings = {name: value for name, value in os.environ.items() if name == "SPANLOOM_TEST_DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", group, "--smoke"],
        cwd=ROOT,
        env=environment() | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["group"], found["effort"]) == (group, "smoke")
    assert found["rows"]
    assert {"what", "figure", "bound", "reached"} <= found["goals"][0].keys()


def test_a_group_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "P99"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unknown group P99" in done.stderr


def _measured(answer: str, spans: int, *cpu_us: float) -> Measured:
    return Measured([Sample(each, each, Work(answer, spans)) for each in cpu_us])


def test_a_variant_with_another_answer_is_found_out() -> None:
    with pytest.raises(AssertionError, match="the answers differ"):
        check_equal({"raw": _measured("10", 0, 1.0), "ours": _measured("9", 13, 1.0)}, spans={"ours": 13})


def test_a_variant_that_makes_fewer_spans_is_found_out() -> None:
    with pytest.raises(AssertionError, match="not 13"):
        check_equal({"raw": _measured("10", 0, 1.0), "ours": _measured("10", 12, 1.0)}, spans={"ours": 13})


def test_variants_that_did_the_same_are_let_through() -> None:
    check_equal({"raw": _measured("10", 0, 1.0), "ours": _measured("10", 13, 1.0)}, spans={"raw": 0, "ours": 13})


def test_a_ratio_is_taken_round_by_round() -> None:
    ours, raw = _measured("", 0, 1.0, 40.0, 2.0), _measured("", 0, 2.0, 80.0, 4.0)
    assert ours.ratio(raw) == 0.5


@pytest.mark.parametrize(("figure", "at_least", "reached"), [(1, False, True), (3, False, False), (3, True, True)])
def test_a_goal_is_an_upper_or_a_lower_bound(figure: float, at_least: bool, reached: bool) -> None:
    assert Goal("x", figure, 2, at_least).reached is reached
