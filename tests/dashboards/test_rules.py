"""The alerts: promtool takes them and runs their tests, each is tested both ways and explained."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from dashboards import generate
from dashboards.alerts import Alert, groups, recordings
from dashboards.options import AS_TOLD, Options
from dashboards.rule_files import annotations, dump, rule_files
from dashboards.rule_tests import CASES
from engine.database.database import Database
from engine.result import ErrorClass
from tests.dashboards.metric_names import known_metrics, problems
from tests.services.prometheus.server import Promtool

RULES = generate.HOME / "rules"
ALERTS = {alert.name: alert for group in groups(Options()) for alert in group.alerts}
SECTIONS = re.findall(r"^## (\w+)$", (generate.HOME / "runbook.md").read_text(), re.MULTILINE)


@pytest.mark.prometheus
def test_prometheus_takes_the_rules(promtool: Promtool) -> None:
    done = promtool("check", "rules", *sorted(RULES.glob("*.yaml")))
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@pytest.mark.prometheus
def test_every_alert_does_in_its_tests_what_it_is_to_do(promtool: Promtool) -> None:
    done = promtool("test", "rules", *sorted((RULES / "tests").glob("*.yaml")))
    assert done.returncode == 0, done.stdout


@pytest.mark.prometheus
def test_an_alert_that_lost_its_volume_guard_fails_its_tests(promtool: Promtool, tmp_path: Path) -> None:
    generate.write_rules(tmp_path, Options(least_executions=0))
    (tmp_path / "tests").mkdir()
    tests = (RULES / "tests" / "alerts.yaml").read_text()
    (tmp_path / "tests" / "alerts.yaml").write_text(tests)
    done = promtool("test", "rules", tmp_path / "tests" / "alerts.yaml")
    assert done.returncode != 0
    assert "too few to tell" in done.stderr + done.stdout


@pytest.mark.prometheus
def test_rules_with_shortened_times_are_taken(promtool: Promtool, tmp_path: Path) -> None:
    assert generate.main(["--rules", str(tmp_path), "--scale", "0.001", "--service", "http://service"]) == 0
    done = promtool("check", "rules", tmp_path / "alerts.yaml", tmp_path / "recordings.yaml")
    assert done.returncode == 0, done.stderr
    alerts = (tmp_path / "alerts.yaml").read_text()
    assert set(re.findall(r"\[(\d+\w+)\]", alerts + (tmp_path / "recordings.yaml").read_text())) == {
        "300ms", "900ms", "1800ms", "3600ms", "7200ms", "21600ms", "86400ms", "259200ms"}  # fmt: skip
    assert "executions_url: http://service/v1/executions?status=failed" in alerts


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_fires_in_one_test_and_stays_quiet_in_another(name: str) -> None:
    outcomes = {case.labels is not None for case in CASES if case.alert == name}
    assert outcomes == {True, False}


@pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS.keys())
def test_an_alert_says_what_to_do(alert: Alert) -> None:
    texts = annotations(alert, Options())
    assert alert.severity in ("page", "ticket")
    assert texts["summary"]
    assert texts["description"].endswith(".")
    assert texts["runbook_url"] == f"{AS_TOLD}/runbook#{alert.name.lower()}"
    assert alert.name in SECTIONS


def test_the_runbook_has_a_section_per_alert_and_no_other() -> None:
    assert list(ALERTS) == SECTIONS


def test_links_lead_where_the_options_say() -> None:
    options = Options(runbook="https://wiki/runbook", service="https://spanloom.example")
    texts = annotations(ALERTS["SpanloomFailuresBurn"], options)
    assert texts["runbook_url"] == "https://wiki/runbook#spanloomfailuresburn"
    link = urlsplit(texts["executions_url"])
    assert (link.netloc, link.path) == ("spanloom.example", "/v1/executions")
    asked = parse_qs(link.query)
    assert asked.pop("template") == ["{{ $labels.template | urlquery }}"]
    assert asked.pop("error_class") == [each for each in ErrorClass if each is not ErrorClass.CALLER]
    assert asked == {"status": ["failed"]}
    assert "unpriced=true&template=" in annotations(ALERTS["SpanloomUnpricedCalls"], options)["executions_url"]


async def test_every_rule_asks_for_metrics_and_labels_that_are_told(database: Database) -> None:
    known = await known_metrics(database)
    exprs = [rule.expr for rule in recordings(Options()).recordings] + [alert.expr for alert in ALERTS.values()]
    lost = "error_type"
    assert lost in known["traces_span_metrics_calls_total"]
    assert [problem for expr in exprs for problem in problems(expr, known)] == []


def test_a_query_of_several_lines_is_written_as_such() -> None:
    text = dump({"expr": "a\nand b", "name": "x"})
    assert text.endswith("expr: |-\n  a\n  and b\nname: x\n")
    assert yaml.safe_load(text) == {"expr": "a\nand b", "name": "x"}


def test_the_objective_moves_every_burn_alert() -> None:
    strict = rule_files(replace(Options(), objective=0.999))["alerts.yaml"]
    assert "spanloom:failure_ratio:rate1h / 0.001 > 14.4" in strict
    assert "spanloom:failure_ratio:rate3d / 0.001 > 1" in strict


def test_a_burn_alert_says_the_measured_multiple_and_the_limit() -> None:
    text = annotations(ALERTS["SpanloomFailuresBurnFast"], Options())["description"]
    assert 'burns {{ printf "%.3g" $value }} times its error budget over 1h; the limit is 14.4.' in text


def test_every_link_is_absolute() -> None:
    for alert in ALERTS.values():
        links = [text for name, text in annotations(alert, Options()).items() if name.endswith("_url")]
        assert links
        assert all(link.startswith(AS_TOLD) for link in links)
